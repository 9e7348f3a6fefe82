"""Ray Serve: a replica per core, each batches what its own requests bring.

Ray's inner servers listen on all addresses; bench/compare.py runs this peer only where there are
none but the loopback one.
"""

import asyncio
import os
import signal
import sys

# What Ray's documents call high throughput: HAProxy instead of a proxy in Python, and requests that
# go from it to the replicas without a hop. All of Ray's processes read these when they start.
os.environ |= {
    "RAY_SERVE_ENABLE_HA_PROXY": os.environ.get("XHA", "1"),
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": os.environ.get("XTO", "1"),
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

import pixels
import ray
import settings
from PIL import UnidentifiedImageError
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

SETTINGS = settings.read()


@serve.deployment(
    num_replicas=SETTINGS.workers, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1}
)
class Translate:
    """A replica with a model of its own."""

    def __init__(self) -> None:
        self.model = pixels.Model(SETTINGS.model, SETTINGS.threads)

    @serve.batch(max_batch_size=SETTINGS.batch, batch_wait_timeout_s=SETTINGS.wait_ms / 1000)
    async def run(self, pictures: list[pixels.Pixels]) -> list[pixels.Pixels]:
        """Run a batch, while the event loop goes on."""
        return await asyncio.to_thread(self.model, pictures)

    async def __call__(self, request: Request) -> Response:
        """Translate the picture in a request's body."""
        try:
            picture = pixels.decode(await request.body())
        except UnidentifiedImageError:
            return Response("not a picture", status_code=422)
        return Response(pixels.encode(await self.run(picture)), media_type="image/jpeg")


if __name__ == "__main__":
    ray.init(
        num_cpus=SETTINGS.workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 << 20,
        _node_ip_address="127.0.0.1",
    )
    # Ray's own handler would end this process without the others.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
    serve.run(
        Translate.bind(),
        route_prefix="/image",
        logging_config={"enable_access_log": False},
        blocking=True,
    )
