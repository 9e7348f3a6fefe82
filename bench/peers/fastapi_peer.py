"""FastAPI without batching: a process per core, each runs one picture after the other."""

import pixels
import settings
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import UnidentifiedImageError

SETTINGS = settings.read()

app = FastAPI()
model = pixels.Model(SETTINGS.model, SETTINGS.threads)


@app.put("/image")
async def image(request: Request) -> Response:
    """Translate the picture in the body.

    The work is done in the event loop: a thread for it would compete with the loop for Python's
    lock, and other requests are other processes' as well.
    """
    try:
        picture = pixels.decode(await request.body())
    except UnidentifiedImageError as error:
        raise HTTPException(422, "not a picture") from error
    return Response(pixels.encode(model([picture])[0]), media_type="image/jpeg")


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_peer:app",
        host="127.0.0.1",
        port=SETTINGS.port,
        workers=SETTINGS.workers,
        log_level="warning",
    )
