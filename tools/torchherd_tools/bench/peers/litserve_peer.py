"""LitServe: worker processes that decode, run and encode batches, behind a FastAPI server."""

from typing import Annotated

import litserve
from fastapi import Body, Response

from torchherd_tools.bench.peers import pixels, settings

SETTINGS = settings.read()
# LitServe's default timeout is 30 s; a batch of a large model may take longer.
REQUEST_SECONDS = 120


class Translate(litserve.LitAPI):
    """The steps of a worker for a batch."""

    def setup(self, device: str) -> None:
        """Load the model in a worker."""
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    # The annotation makes FastAPI pass the raw body; by default LitServe parses JSON.
    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> object:
        """Decode one image."""
        return pixels.decode(request)

    def batch(self, inputs: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Return the batch as a list: the model stacks it."""
        return inputs

    def predict(self, x: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run a batch."""
        return self.model(x)

    def unbatch(self, output: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Return the results, which are a list as well."""
        return output

    def encode_response(self, output: pixels.Pixels) -> Response:
        """Encode one result."""
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
