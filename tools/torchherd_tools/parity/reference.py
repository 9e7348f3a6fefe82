"""Serve a model as the Sanic demo does, to compare torchherd's responses and speed with.

PUT /image takes an image and returns the model's result as a JPEG of Pillow's default quality.
Requests wait in one queue and run in batches. An image is converted to RGB, without alpha, and
resized to 228x228; its EXIF orientation is ignored. Errors are plain text: 503 "I'm too busy" if
the queue is full, 500 for all others ("Too large", "need rgb image", ...).

Three of the demo's defects are fixed: a timer on an empty queue does not stop the server, a model
that fails affects its own batch only, and values out of 0..1 are clamped.

The server listens on 127.0.0.1 only, and prints "ready" when it listens.
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

from torchherd_tools import command

HOST = "127.0.0.1"
SIZE = [228, 228]
MAX_UPLOAD_BYTES = 4 << 20
GRAY_MODES = {"1", "L", "LA", "I", "I;16", "F"}


class RefusedError(Exception):
    """A request is refused with a status and a line of text."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Item:
    """A request in the queue: float [3, H, W] in 0..1, and the future of its result."""

    image: Tensor
    arrived: float
    result: asyncio.Future[Tensor]


class Batcher:
    """A queue that runs a model on batches of images, in the order of arrival.

    A batch runs when max_batch images wait, or when the oldest has waited max_wait seconds. All
    methods run in one event loop, so they need no lock; only the model runs in a thread.
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

    async def process(self, image: Tensor) -> Tensor:
        """Return the model's result for an image. Raises RefusedError if the queue is full."""
        if len(self.queue) >= self.max_queue:
            raise RefusedError("I'm too busy", 503)
        loop = asyncio.get_running_loop()
        item = Item(image, loop.time(), loop.create_future())
        self.queue.append(item)
        self.arrival.set()
        return await item.result

    async def run(self) -> None:
        """Run batches until cancelled."""
        while True:
            await self._wait_for_batch()
            batch = self.queue[: self.max_batch]
            del self.queue[: self.max_batch]
            try:
                stacked = torch.stack([item.image for item in batch])
                results = await asyncio.to_thread(self.model, stacked)
                if len(results) != len(batch):
                    raise ValueError(f"{len(results)} results for {len(batch)} images")
            except Exception as error:
                print(f"reference: batch of {len(batch)} failed: {error}", file=sys.stderr)
                for item in batch:
                    if not item.result.done():
                        item.result.set_exception(RefusedError("the model failed"))
                continue
            for item, result in zip(batch, results, strict=True):
                # A client that disconnected has cancelled its future.
                if not item.result.done():
                    item.result.set_result(result)

    async def _wait_for_batch(self) -> None:
        """Return when the queue holds a full batch, or an image that has waited long enough."""
        loop = asyncio.get_running_loop()
        while len(self.queue) < self.max_batch:
            left = self.queue[0].arrived + self.max_wait - loop.time() if self.queue else None
            if left is not None and left <= 0:
                return
            self.arrival.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrival.wait(), left)


async def read_body(request: Request) -> bytes:
    """Read the request's body. Raises RefusedError if it is over MAX_UPLOAD_BYTES."""
    if int(request.headers.get("content-length", "0")) > MAX_UPLOAD_BYTES:
        raise RefusedError("Too large")
    body = bytearray()
    while (part := await request.stream.read()) is not None:
        body += part
        if len(body) > MAX_UPLOAD_BYTES:
            raise RefusedError("Too large")
    return bytes(body)


def decode(body: bytes) -> Tensor:
    """Decode an image to float [3, 228, 228] in 0..1.

    Raises RefusedError for gray images and for data that Pillow cannot read.
    """
    try:
        im = Image.open(io.BytesIO(body))
        if im.mode in GRAY_MODES:
            raise RefusedError("need rgb image")
        # Converted first, since the resize of RGBA weighs colours by alpha.
        return F.to_tensor(F.resize(im.convert("RGB"), SIZE))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RefusedError("cannot read the image") from error


def encode(result: Tensor) -> bytes:
    """Encode float [C, H, W], clamped to 0..1, as JPEG."""
    out = io.BytesIO()
    F.to_pil_image(result.clamp(0, 1)).save(out, format="JPEG")
    return out.getvalue()


def load_model(path: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the TorchScript model of a file, with input and output on the CPU."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=category)
        model = torch.jit.load(path, map_location=device).eval()

    def forward(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(batch.to(device)).to("cpu")

    return forward


def make_app(batcher: Batcher) -> Sanic:
    """Return the web application. It runs the batcher from start to stop."""
    app = Sanic("reference", configure_logging=False)
    app.config.MOTD = False

    @app.put("/image", stream=True)
    async def image(request: Request) -> HTTPResponse:
        try:
            result = await batcher.process(decode(await read_body(request)))
        except RefusedError as refusal:
            return text(str(refusal), status=refusal.status)
        return raw(encode(result), content_type="image/jpeg")

    @app.after_server_start
    async def started(app: Sanic) -> None:
        app.ctx.runner = asyncio.create_task(batcher.run())
        print("ready", flush=True)

    @app.before_server_stop
    async def stopping(app: Sanic) -> None:
        app.ctx.runner.cancel()

    return app


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser("reference", __doc__)
    parser.add_argument("model", metavar="MODEL.pt", help="TorchScript, float NCHW in 0..1")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1; default: 8000")
    parser.add_argument("--device", type=torch.device, default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: PyTorch's choice")
    parser.add_argument("--batch", type=int, default=2, help="maximum batch size; default: 2")
    parser.add_argument("--queue", type=int, default=3, help="maximum queue length; default: 3")
    parser.add_argument(
        "--wait", type=float, default=1.0, help="maximum batching delay in seconds; default: 1"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Serve until interrupted. Return the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        model = load_model(args.model, args.device)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        print(f"reference: {args.model}: cannot be loaded: {reason}", file=sys.stderr)
        return 1
    app = make_app(Batcher(model, args.batch, args.queue, args.wait))
    app.run(host=HOST, port=args.port, single_process=True, access_log=False)
    return 0
