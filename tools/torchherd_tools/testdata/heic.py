"""Make the HEIC files of testdata/heic, by pillow-heif: pip install pillow-heif.

Its encoder is under the GPL, so that it isn't in requirements.txt; the files are drawings of this
project's own.
"""

import io
import struct

import numpy as np
from PIL import Image

from torchherd_tools import command
from torchherd_tools.paths import testdata
from torchherd_tools.testdata.formats import box, drawing

TILE = 64


def encoded(image: Image.Image, **options: object) -> bytes:
    """Return a HEIC file of an image, as pillow-heif writes it."""
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=options.pop("quality", 90), **options)
    return out.getvalue()


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Return the contents of boxes by their kinds, the first of each."""
    found: dict[bytes, bytes] = {}
    while len(data) >= 8:
        size, kind = struct.unpack(">I4s", data[:8])
        found.setdefault(kind, data[8:size])
        data = data[size:]
    return found


def full(kind: bytes, content: bytes, version: int = 0) -> bytes:
    """Return a box with a version."""
    return box(kind, bytes([version, 0, 0, 0]) + content)


def grid(image: Image.Image) -> bytes:
    """Return a HEIC file of tiles, as phones write; the last ones are larger than the image."""
    across, down = -(-image.width // TILE), -(-image.height // TILE)
    tiles, configuration = [], b""
    for y in range(down):
        for x in range(across):
            part = image.crop((x * TILE, y * TILE, (x + 1) * TILE, (y + 1) * TILE))
            file = encoded(part)
            top = boxes(file)
            configuration = boxes(boxes(boxes(top[b"meta"][4:])[b"iprp"])[b"ipco"])[b"hvcC"]
            tiles.append(top[b"mdat"])
    count = len(tiles)
    primary = count + 1
    layout = struct.pack(">BBBBHH", 0, 0, down - 1, across - 1, image.width, image.height)
    infos = b"".join(
        full(b"infe", struct.pack(">HH4sB", i + 1, 0, b"hvc1", 0), 2) for i in range(count)
    )
    infos += full(b"infe", struct.pack(">HH4sB", primary, 0, b"grid", 0), 2)
    properties = box(b"hvcC", configuration)
    properties += full(b"ispe", struct.pack(">II", TILE, TILE))
    properties += full(b"ispe", struct.pack(">II", *image.size))
    properties += box(b"irot", bytes([3]))  # a quarter turn to the right
    used = b"".join(struct.pack(">HBBB", i + 1, 2, 0x81, 2) for i in range(count))
    used += struct.pack(">HBBB", primary, 2, 3, 0x84)
    references = box(b"dimg", struct.pack(f">HH{count}H", primary, count, *range(1, count + 1)))

    def meta(start: int) -> bytes:
        places = b""
        for i, tile in enumerate([*tiles, layout]):
            places += struct.pack(">HHHII", i + 1, 0, 1, start, len(tile))
            start += len(tile)
        return full(
            b"meta",
            full(b"hdlr", struct.pack(">I4s13x", 0, b"pict"))
            + full(b"pitm", struct.pack(">H", primary))
            + full(b"iloc", struct.pack(">BBH", 0x44, 0, primary) + places)
            + full(b"iinf", struct.pack(">H", primary) + infos)
            + box(
                b"iprp", box(b"ipco", properties) + full(b"ipma", struct.pack(">I", primary) + used)
            )
            + full(b"iref", references),
        )

    head = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", b"".join([*tiles, layout]))


def main(arguments: list[str]) -> int:
    """Write the files, and the exit status 0."""
    command.parser("heic", __doc__).parse_args(arguments)
    folder = testdata() / "heic"
    folder.mkdir(exist_ok=True)
    rgb = drawing().resize((150, 100), Image.Resampling.BICUBIC)
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    rgb.save(folder / "drawing.png")
    (folder / "rgb.heic").write_bytes(encoded(rgb, chroma=444))
    (folder / "rgba.heic").write_bytes(encoded(alpha))
    (folder / "grid.heic").write_bytes(grid(rgb))
    noise = np.random.default_rng(5).integers(0, 256, (1200, 1600, 3), np.uint8)
    (folder / "noise.heic").write_bytes(encoded(Image.fromarray(noise), quality=10))
    return 0
