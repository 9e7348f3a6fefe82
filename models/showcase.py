#!/usr/bin/env python3
"""Make the pictures that show what a served model does: photographs before and after.

OUT becomes a sheet of squares: the photographs above, the server's answers below. With --pair, OUT
is a folder and gets before.jpg, the first photograph, and after.jpg, the answer, byte by byte as
curl would get them. A photograph can be one that scikit-image ships: skimage:chelsea.png.

The server must give pictures back at the size that it gets them (--size keep); {port} in its
command is replaced by a free port.
"""

import argparse
import io
import sys
from pathlib import Path

import skimage
from PIL import Image, ImageOps

import argument_types
import files
import pictures
import serving

SECONDS_TO_START = 60
GAP = 8
QUALITY = 90


class ShowcaseError(Exception):
    """The pictures cannot be made. The text says what happened, to what, and what to do."""


def read(name: str, side: int) -> Image.Image:
    """The square in the middle of a photograph, side pixels each way.

    Raises ShowcaseError when it cannot be read or is smaller.
    """
    kind, _, rest = name.partition(":")
    path = Path(skimage.data_dir, rest) if kind == "skimage" else Path(name)
    try:
        image = pictures.read(path)
    except ValueError as error:
        raise ShowcaseError(f"{path}: {error}; give another photograph") from error
    if min(image.size) < side:
        raise ShowcaseError(f"{path}: has {image.width}x{image.height}, fewer than {side} pixels")
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image) -> bytes:
    """The picture as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def translate(url: str, body: bytes) -> bytes:
    """The server's answer. Raises ShowcaseError when it is none."""
    answer = serving.put(url, body)
    if answer.status != 200:
        raise ShowcaseError(f"the server refused with {answer.status}: {answer.body.decode()}")
    return answer.body


def sheet(befores: list[bytes], afters: list[bytes]) -> Image.Image:
    """Two rows of squares with gaps between them, on white."""
    rows = [[Image.open(io.BytesIO(body)) for body in row] for row in (befores, afters)]
    side = rows[0][0].width + GAP
    made = Image.new("RGB", (side * len(befores) - GAP, 2 * side - GAP), "white")
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            made.paste(image, (across * side, down * side))
    return made


def show(command: str, names: list[str], side: int, out: Path, pair: bool) -> None:
    """Start the server, translate the photographs, and write what is asked for.

    Raises ShowcaseError, or serving.ServingError when the server does not start.
    """
    befores = [jpeg(read(name, side)) for name in names]
    with serving.started(command, SECONDS_TO_START) as url:
        serving.await_answer(url, befores[0], SECONDS_TO_START)
        if pair:
            files.write_whole(out / "before.jpg", befores[0])
            files.write_whole(out / "after.jpg", translate(url, befores[0]))
            return
        afters = [translate(f"{url}?format=png", body) for body in befores]
    files.write_whole(out, jpeg(sheet(befores, afters)))


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a .jpg, or a folder with --pair")
    parser.add_argument("photographs", nargs="+", metavar="PHOTOGRAPH")
    parser.add_argument("--server-command", required=True, metavar="COMMAND", help="see above")
    parser.add_argument(
        "--side", type=argument_types.at_least_one, default=228, metavar="N", help="default: 228"
    )
    parser.add_argument("--pair", action="store_true", help="one photograph, as two files")
    args = parser.parse_args(arguments)
    try:
        show(args.server_command, args.photographs, args.side, args.out, args.pair)
    except (ShowcaseError, serving.ServingError, OSError) as error:
        print(f"showcase.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
