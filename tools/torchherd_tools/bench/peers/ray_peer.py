"""Ray Serve: one replica per core, each batches its own requests.

Ray's internal servers listen on all addresses; the benchmark runs this peer only in a network
namespace with the loopback interface alone.
"""

import asyncio
import os
import signal
import sys

# The high-throughput settings of Ray's documentation: HAProxy instead of a proxy in Python, and no
# hop between it and the replicas. All of Ray's processes read them when they start.
os.environ |= {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

import ray
from PIL import UnidentifiedImageError
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from torchherd_tools.bench.peers import pixels, settings

SETTINGS = settings.read()


@serve.deployment(
    num_replicas=SETTINGS.workers, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1}
)
class Translate:
    """A replica with its own model."""

    def __init__(self) -> None:
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    @serve.batch(max_batch_size=SETTINGS.batch, batch_wait_timeout_s=SETTINGS.wait_ms / 1000)
    async def run(self, images: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run a batch in a thread, so that the event loop is not blocked."""
        return await asyncio.to_thread(self.model, images)

    async def __call__(self, request: Request) -> Response:
        """Translate the image in a request's body."""
        try:
            image = pixels.decode(await request.body())
        except UnidentifiedImageError:
            return Response("not an image", status_code=422)
        return Response(pixels.encode(await self.run(image)), media_type="image/jpeg")


if __name__ == "__main__":
    ray.init(
        num_cpus=SETTINGS.workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 << 20,
        _node_ip_address="127.0.0.1",
    )
    # Ray's own handler would stop only this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
    serve.run(
        Translate.bind(),
        route_prefix="/image",
        logging_config={"enable_access_log": False},
        blocking=True,
    )
