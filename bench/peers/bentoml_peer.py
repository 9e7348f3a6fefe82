"""BentoML: a service that batches, behind one that decodes and encodes, as its documents advise.

Batches form in the service with the model, from the calls of the other one's workers. How long to
wait for company BentoML learns from the traffic; max_latency_ms is when it refuses, not how long it
waits. A worker per core with a thread each is about twice as fast as one worker with all threads.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
import pixels
import settings
from bentoml.exceptions import InvalidArgument
from bentoml.validators import ContentType
from PIL import UnidentifiedImageError

SETTINGS = settings.read()
Jpeg = Annotated[bytes, ContentType("image/jpeg")]
TRAFFIC = {"timeout": 120}


@bentoml.service(
    workers=SETTINGS.workers,
    traffic=TRAFFIC,
    # The client of this service would throw its connections away after every 100 requests, and
    # those under way with them.
    runner_connection={"max_requests": 1_000_000_000},
    logging={"access": {"enabled": False}},
)
class Generator:
    """The model."""

    def __init__(self) -> None:
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    @bentoml.api(batchable=True, max_batch_size=SETTINGS.batch, max_latency_ms=120_000)
    def run(self, pictures: np.ndarray) -> np.ndarray:
        """Run a batch: uint8 [N, H, W, 3] in and out."""
        return np.stack(self.model(list(pictures)))


@bentoml.service(workers=SETTINGS.workers, traffic=TRAFFIC, logging={"access": {"enabled": False}})
class Translate:
    """What clients talk to."""

    generator = bentoml.depends(Generator)

    @bentoml.api(route="/image")
    async def image(self, body: Jpeg, /) -> Jpeg:
        """Translate the picture in the body."""
        try:
            picture = pixels.decode(body)
        except UnidentifiedImageError as error:
            raise InvalidArgument("not a picture") from error
        answers = await self.generator.to_async.run(picture[None])
        return pixels.encode(answers[0])


if __name__ == "__main__":
    here = Path(__file__).parent
    command = shutil.which("bentoml", path=Path(sys.executable).parent)
    address = ["--host", "127.0.0.1", "--port", str(SETTINGS.port)]
    os.execv(command, [command, "serve", "bentoml_peer:Translate", "--working-dir", here, *address])
