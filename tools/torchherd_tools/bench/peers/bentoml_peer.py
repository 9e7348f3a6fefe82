"""BentoML: a service that batches, behind one that decodes and encodes, as its docs advise.

The service with the model batches the calls of the other service's workers. BentoML adapts its
batching delay to the traffic; max_latency_ms is the latency beyond which it refuses requests. One
worker per core with one thread each is about twice as fast as one worker with all threads.
"""

import os
import sys
from typing import Annotated

import bentoml
import numpy as np
from bentoml.exceptions import InvalidArgument
from bentoml.validators import ContentType
from PIL import UnidentifiedImageError

from torchherd_tools.bench.peers import pixels, settings

SETTINGS = settings.read()
Jpeg = Annotated[bytes, ContentType("image/jpeg")]
TRAFFIC = {"timeout": 120}


@bentoml.service(
    workers=SETTINGS.workers,
    traffic=TRAFFIC,
    # By default the client of this service drops its connections after 100 requests, with the
    # requests in flight.
    runner_connection={"max_requests": 1_000_000_000},
    logging={"access": {"enabled": False}},
)
class Generator:
    """The service with the model."""

    def __init__(self) -> None:
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    @bentoml.api(batchable=True, max_batch_size=SETTINGS.batch, max_latency_ms=120_000)
    def run(self, images: np.ndarray) -> np.ndarray:
        """Run a batch: uint8 [N, H, W, 3] in and out."""
        return np.stack(self.model(list(images)))


@bentoml.service(workers=SETTINGS.workers, traffic=TRAFFIC, logging={"access": {"enabled": False}})
class Translate:
    """The service for clients."""

    generator = bentoml.depends(Generator)

    @bentoml.api(route="/image")
    async def image(self, body: Jpeg, /) -> Jpeg:
        """Translate the image in the body."""
        try:
            image = pixels.decode(body)
        except UnidentifiedImageError as error:
            raise InvalidArgument("not an image") from error
        results = await self.generator.to_async.run(image[None])
        return pixels.encode(results[0])


if __name__ == "__main__":
    address = ["--host", "127.0.0.1", "--port", str(SETTINGS.port)]
    service = "torchherd_tools.bench.peers.bentoml_peer:Translate"
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", service, *address])
