"""mosec: processes that each decode, run and encode a batch, behind a server in Rust.

One stage does all the work. Separate stages for decoding and encoding would send each image through
a socket, which costs more than it gains when all cores are busy.
"""

import sys
from importlib import metadata

from mosec import Server, Worker, runtime
from mosec.errors import DecodingError
from PIL import UnidentifiedImageError

from torchherd_tools.bench.peers import pixels, settings

SETTINGS = settings.read()
FORWARD_SECONDS = 120


class Translate(Worker):
    """A process with its own model."""

    resp_mime_type = "image/jpeg"

    def __init__(self) -> None:
        super().__init__()
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    def deserialize(self, data: bytes) -> pixels.Pixels:
        """Decode a request's body."""
        try:
            return pixels.decode(data)
        except UnidentifiedImageError as error:
            raise DecodingError("not an image") from error

    def forward(self, data: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run a batch."""
        return self.model(data)

    def serialize(self, data: pixels.Pixels) -> bytes:
        """Encode a response's body."""
        return pixels.encode(data)


if __name__ == "__main__":
    # mosec takes its address from the command line only.
    sys.argv += ["--address", "127.0.0.1", "--port", str(SETTINGS.port), "--log-level", "error"]
    sys.argv += ["--timeout", str(1000 * FORWARD_SECONDS)]
    # mosec looks for its server only beside the interpreter, but it is in the base environment.
    (program,) = (each for each in metadata.files("mosec") or () if each.name == "mosec")
    runtime.get_mosec_path = program.locate
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
