"""Make images that show what a served model does: photographs before and after.

OUT is a sheet of squares: the photographs above, the server's responses below. With --pair, OUT is
a folder that gets before.jpg, the first photograph, and after.jpg, the response byte by byte as
curl would write it. skimage:chelsea.png names a photograph that scikit-image ships.

The server must keep the size of images (--size keep). {port} in its command is replaced by a free
port.
"""

import io
from pathlib import Path

import skimage
from PIL import Image, ImageOps

from torchherd_tools import command, files, images, serving
from torchherd_tools.errors import ToolError

SECONDS_TO_START = 60
GAP = 8
QUALITY = 90


class ShowcaseError(ToolError):
    """The images cannot be made."""


def read(name: str, side: int) -> Image.Image:
    """Return the center square of a photograph, scaled to a side in pixels.

    Raises ShowcaseError if the photograph cannot be read or is smaller.
    """
    kind, _, rest = name.partition(":")
    path = Path(skimage.data_dir, rest) if kind == "skimage" else Path(name)
    try:
        image = images.read(path)
    except ValueError as error:
        raise ShowcaseError(f"{path}: {error}; use another photograph") from error
    if min(image.size) < side:
        raise ShowcaseError(f"{path}: has {image.width}x{image.height}, fewer than {side} pixels")
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def translate(url: str, body: bytes) -> bytes:
    """Return the server's response. Raises ShowcaseError if its status is not 200."""
    response = serving.put(url, body)
    if response.status != 200:
        raise ShowcaseError(f"{url}: status {response.status}: {response.body.decode()}")
    return response.body


def sheet(befores: list[bytes], afters: list[bytes]) -> Image.Image:
    """Return two rows of squares with gaps between them, on white."""
    rows = [[Image.open(io.BytesIO(body)) for body in row] for row in (befores, afters)]
    side = rows[0][0].width + GAP
    combined = Image.new("RGB", (side * len(befores) - GAP, 2 * side - GAP), "white")
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            combined.paste(image, (across * side, down * side))
    return combined


def show(server: str, names: list[str], side: int, out: Path, pair: bool) -> None:
    """Start the server, translate the photographs, and write the sheet or the pair.

    Raises ShowcaseError, or serving.ServingError if the server does not start.
    """
    befores = [jpeg(read(name, side)) for name in names]
    with serving.started(server, SECONDS_TO_START) as url:
        serving.wait_until_serving(url, befores[0], SECONDS_TO_START)
        if pair:
            files.write_whole(out / "before.jpg", befores[0])
            files.write_whole(out / "after.jpg", translate(url, befores[0]))
            return
        afters = [translate(f"{url}?format=png", body) for body in befores]
    files.write_whole(out, jpeg(sheet(befores, afters)))


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    parser = command.parser("showcase", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="a .jpg, or a folder with --pair")
    parser.add_argument("photographs", nargs="+", metavar="PHOTOGRAPH")
    parser.add_argument("--server-command", required=True, metavar="COMMAND", help="see above")
    parser.add_argument(
        "--side", type=command.at_least_one, default=228, metavar="N", help="default: 228"
    )
    parser.add_argument("--pair", action="store_true", help="write one photograph as two files")
    args = parser.parse_args(arguments)
    try:
        show(args.server_command, args.photographs, args.side, args.out, args.pair)
    except (ToolError, OSError) as error:
        return command.failed("showcase", error)
    return 0
