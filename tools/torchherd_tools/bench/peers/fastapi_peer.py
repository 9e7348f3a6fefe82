"""FastAPI without batching: one process per core, each runs one image at a time."""

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import UnidentifiedImageError

from torchherd_tools.bench.peers import pixels, settings

SETTINGS = settings.read()

app = FastAPI()
model = pixels.Model(SETTINGS.model, SETTINGS.threads)


@app.put("/image")
async def image(request: Request) -> Response:
    """Translate the image in the body.

    The event loop does the work: a thread would compete with it for Python's global lock, and other
    processes serve other requests.
    """
    try:
        image = pixels.decode(await request.body())
    except UnidentifiedImageError as error:
        raise HTTPException(422, "not an image") from error
    return Response(pixels.encode(model([image])[0]), media_type="image/jpeg")


if __name__ == "__main__":
    uvicorn.run(
        "torchherd_tools.bench.peers.fastapi_peer:app",
        host="127.0.0.1",
        port=SETTINGS.port,
        workers=SETTINGS.workers,
        log_level="warning",
    )
