#!/usr/bin/env python3
"""The Python reference server: what torchherd is compared with, for answers and for speed.

It behaves as the Sanic demo that torchherd takes the place of: PUT /image with a picture's bytes,
answered by the model's result as a JPEG of Pillow's default quality. Requests wait in one queue
and run in batches. A picture is made RGB (alpha dropped), resized to 228x228, and not turned by
its EXIF orientation. Refusals are plain text: 503 "I'm too busy" when the queue is full, 500 for
everything else ("Too large", "need rgb image", ...).

Three of the demo's defects are left out: a timer on an empty queue does not stop the server, a
model that fails costs its own batch only, and values out of 0..1 are clamped.

It listens on 127.0.0.1 only, and prints "ready" when it does.
"""

import argparse
import asyncio
import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from sanic import Request, Sanic
from sanic.response import HTTPResponse, raw, text
from torch import Tensor
from torchvision.transforms import functional as F

HOST = "127.0.0.1"
SIZE = [228, 228]
MAX_UPLOAD_BYTES = 4 << 20
GRAY_MODES = {"1", "L", "LA", "I", "I;16", "F"}


class RefusedError(Exception):
    """A request that gets a status and a line of text in place of a picture."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Item:
    """One request in the queue: float [3, H, W] in 0..1, and where its answer goes."""

    picture: Tensor
    arrived: float
    answer: asyncio.Future[Tensor]


class Batcher:
    """Collects pictures into batches for a model and hands the answers back, first come first.

    A batch runs when max_batch pictures wait, or when the oldest has waited max_wait seconds. All
    methods run in one event loop, so that no lock is needed; only the model runs in a thread.
    """

    def __init__(
        self, model: Callable[[Tensor], Tensor], max_batch: int, max_queue: int, max_wait: float
    ) -> None:
        self.model = model
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.max_wait = max_wait
        self.queue: list[Item] = []
        self.arrival = asyncio.Event()

    async def process(self, picture: Tensor) -> Tensor:
        """The model's answer to a picture. Raises RefusedError when the queue is full."""
        if len(self.queue) >= self.max_queue:
            raise RefusedError("I'm too busy", 503)
        loop = asyncio.get_running_loop()
        item = Item(picture, loop.time(), loop.create_future())
        self.queue.append(item)
        self.arrival.set()
        return await item.answer

    async def run(self) -> None:
        """Run batches until cancelled."""
        while True:
            await self._wait_for_batch()
            batch = self.queue[: self.max_batch]
            del self.queue[: self.max_batch]
            try:
                stacked = torch.stack([item.picture for item in batch])
                answers = await asyncio.to_thread(self.model, stacked)
                if len(answers) != len(batch):
                    raise ValueError(f"{len(answers)} answers to {len(batch)} pictures")
            except Exception as error:
                print(f"reference.py: batch of {len(batch)} failed: {error}", file=sys.stderr)
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(RefusedError("the model failed"))
                continue
            for item, answer in zip(batch, answers, strict=True):
                # A client that went away has cancelled its future.
                if not item.answer.done():
                    item.answer.set_result(answer)

    async def _wait_for_batch(self) -> None:
        """Return when the queue holds a full batch, or a picture that has waited long enough."""
        loop = asyncio.get_running_loop()
        while len(self.queue) < self.max_batch:
            left = self.queue[0].arrived + self.max_wait - loop.time() if self.queue else None
            if left is not None and left <= 0:
                return
            self.arrival.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrival.wait(), left)


async def read_body(request: Request) -> bytes:
    """The request's body. Raises RefusedError when it is over MAX_UPLOAD_BYTES."""
    if int(request.headers.get("content-length", "0")) > MAX_UPLOAD_BYTES:
        raise RefusedError("Too large")
    body = bytearray()
    while (part := await request.stream.read()) is not None:
        body += part
        if len(body) > MAX_UPLOAD_BYTES:
            raise RefusedError("Too large")
    return bytes(body)


def decode(body: bytes) -> Tensor:
    """A picture's bytes as float [3, 228, 228] in 0..1.

    Raises RefusedError for gray pictures and for what Pillow cannot read.
    """
    try:
        im = Image.open(io.BytesIO(body))
        if im.mode in GRAY_MODES:
            raise RefusedError("need rgb image")
        # Resizing RGBA would weigh colours by alpha, which is to be dropped.
        return F.to_tensor(F.resize(im.convert("RGB"), SIZE))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RefusedError("not a picture that can be read") from error


def encode(answer: Tensor) -> bytes:
    """Float [C, H, W] as JPEG, clamped to 0..1."""
    out = io.BytesIO()
    F.to_pil_image(answer.clamp(0, 1)).save(out, format="JPEG")
    return out.getvalue()


def load_model(path: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The TorchScript model of a file, from and to tensors on the CPU."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=category)
        model = torch.jit.load(path, map_location=device).eval()

    def forward(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(batch.to(device)).to("cpu")

    return forward


def make_app(batcher: Batcher) -> Sanic:
    """The web application. The batcher runs as long as it does."""
    app = Sanic("reference", configure_logging=False)
    app.config.MOTD = False

    @app.put("/image", stream=True)
    async def image(request: Request) -> HTTPResponse:
        try:
            picture = decode(await read_body(request))
            answer = await batcher.process(picture)
        except RefusedError as refusal:
            return text(str(refusal), status=refusal.status)
        return raw(encode(answer), content_type="image/jpeg")

    @app.after_server_start
    async def started(app: Sanic) -> None:
        app.ctx.runner = asyncio.create_task(batcher.run())
        print("ready", flush=True)

    @app.before_server_stop
    async def stopping(app: Sanic) -> None:
        app.ctx.runner.cancel()

    return app


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL.pt", help="TorchScript, float NCHW in 0..1")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; default: 8000")
    parser.add_argument("--device", type=torch.device, default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's threads; default: its own choice")
    parser.add_argument("--batch", type=int, default=2, help="largest batch; default: 2")
    parser.add_argument("--queue", type=int, default=3, help="longest queue; default: 3")
    parser.add_argument(
        "--wait", type=float, default=1.0, help="seconds the oldest waits; default: 1"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Serve until interrupted. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        model = load_model(args.model, args.device)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        print(f"reference.py: {args.model}: cannot be loaded: {reason}", file=sys.stderr)
        return 1
    app = make_app(Batcher(model, args.batch, args.queue, args.wait))
    app.run(host=HOST, port=args.port, single_process=True, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
