"""LitServe: worker processes that decode, run and encode batches, behind a FastAPI server."""

from typing import Annotated

import litserve
import pixels
import settings
from fastapi import Body, Response

SETTINGS = settings.read()
# LitServe gives up on a request after 30 s by default; a batch of a large model may take longer.
REQUEST_SECONDS = 120


class Translate(litserve.LitAPI):
    """What a worker does with a batch, step by step."""

    def setup(self, device: str) -> None:
        """Load the model in a worker."""
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    # The annotation makes FastAPI hand over the raw body; LitServe would parse JSON otherwise.
    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> object:
        """Decode one picture."""
        return pixels.decode(request)

    def batch(self, inputs: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """A batch stays a list: the model stacks it."""
        return inputs

    def predict(self, x: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run a batch."""
        return self.model(x)

    def unbatch(self, output: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """The answers are a list as well."""
        return output

    def encode_response(self, output: pixels.Pixels) -> Response:
        """Encode one answer."""
        return Response(pixels.encode(output), media_type="image/jpeg")


if __name__ == "__main__":
    api = Translate(
        max_batch_size=SETTINGS.batch, batch_timeout=SETTINGS.wait_ms / 1000, api_path="/image"
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=SETTINGS.workers,
        timeout=REQUEST_SECONDS,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=SETTINGS.port,
        log_level="warning",
        generate_client_file=False,
    )
