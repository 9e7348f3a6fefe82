"""mosec: processes that each decode, run and encode a batch, behind a server in Rust.

One stage does all the work. Stages of their own for decoding and encoding would send each picture
through a socket between them, which costs more than they gain when every core is busy.
"""

import sys

import pixels
import settings
from mosec import Server, Worker
from mosec.errors import DecodingError
from PIL import UnidentifiedImageError

SETTINGS = settings.read()
FORWARD_SECONDS = 120


class Translate(Worker):
    """A process with a model of its own."""

    resp_mime_type = "image/jpeg"

    def __init__(self) -> None:
        super().__init__()
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    def deserialize(self, data: bytes) -> pixels.Pixels:
        """Decode a request's body."""
        try:
            return pixels.decode(data)
        except UnidentifiedImageError as error:
            raise DecodingError("not a picture") from error

    def forward(self, data: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run a batch."""
        return self.model(data)

    def serialize(self, data: pixels.Pixels) -> bytes:
        """Encode an answer's body."""
        return pixels.encode(data)


if __name__ == "__main__":
    # mosec takes its address from the command line alone.
    sys.argv += ["--address", "127.0.0.1", "--port", str(SETTINGS.port), "--log-level", "error"]
    sys.argv += ["--timeout", str(1000 * FORWARD_SECONDS)]
    server = Server()
    server.append_worker(
        Translate,
        num=SETTINGS.workers,
        max_batch_size=SETTINGS.batch,
        max_wait_time=SETTINGS.wait_ms,
        timeout=FORWARD_SECONDS,
        route="/image",
    )
    server.run()
