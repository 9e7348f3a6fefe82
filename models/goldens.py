#!/usr/bin/env python3
"""Make testdata/pictures and testdata/goldens: pictures, and what a server must make of them.

The goldens come from Pillow, torchvision and PyTorch, which the Sanic demo runs on. Pictures are
cut from the photographs that scikit-image ships. Both folders belong to this script: files in them
that it does not make are removed. Everything is deterministic with the versions in
requirements.txt. Run fixtures.py and the export of the bundled model first.
"""

import argparse
import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import skimage
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image, ImageOps, features
from torchvision.transforms import functional as F

import files
import formats

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "models" / "photo2ink" / "model.pt"
NEGATE = ROOT / "testdata" / "modules" / "negate.pt"

INPUT_SIZE = (228, 228)
NEED_RGB = "need rgb image"
GRAY_MODES = {"1", "L", "LA", "I", "I;16", "F"}
WITH_BUNDLED = {"jpeg-228", "jpeg-420", "jpeg-portrait"}
# A resize golden larger than this is kept as a digest only: noise does not compress.
MAX_RESIZE_PNG = 16 << 10

LICENCES = {
    "astronaut": "Eileen Collins, photograph by NASA; public domain",
    "chelsea": "Chelsea the cat, photograph by Stefan van der Walt; CC0",
    "coffee": "Cup of coffee at Pikolo Espresso Bar, photograph by Rachel Michetti; CC0",
    "rocket": "Launch of DSCOVR on Falcon 9, photograph by SpaceX; public domain",
}

# What turns an upright picture into the one that an EXIF orientation of 1..8 turns upright.
UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
EXIF_ORIENTATION = 0x0112

# Adam7's passes (PNG specification, 8.2): first column, first row, step in x, step in y.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

LCG_MULTIPLIER = 1664525
LCG_INCREMENT = 1013904223

# (width, height) of the input, (width, height) of the output.
RESIZES = (
    ((37, 53), (228, 228)),
    ((590, 480), (228, 228)),
    ((1, 1), (16, 16)),
    ((3000, 5), (228, 228)),
    ((5, 3000), (64, 32)),
    ((228, 500), (228, 228)),
    ((500, 228), (228, 228)),
    ((37, 53), (40, 30)),
    ((590, 480), (57, 46)),
    ((3000, 5), (61, 7)),
    ((228, 500), (31, 67)),
    ((64, 64), (64, 64)),
    ((228, 228), (114, 57)),
)
# The same for the other filters: shrinking, growing, both, and one side kept.
FILTERS = (
    Image.Resampling.NEAREST,
    Image.Resampling.LANCZOS,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
)
FILTERED_RESIZES = (
    ((590, 480), (57, 46)),
    ((37, 53), (228, 228)),
    ((40, 300), (111, 60)),
    ((228, 500), (228, 31)),
    ((3000, 5), (61, 7)),
    ((2, 3), (17, 16)),
)

# Not a multiple of what any vector instructions take at a time.
GRAY_SIZE = (211, 97)


@dataclass
class Picture:
    """A test picture: its name, the extension and bytes of its file, the photograph it shows."""

    name: str
    extension: str
    data: bytes
    photograph: str

    @property
    def file(self) -> str:
        """The file's name in testdata/pictures."""
        return f"{self.name}.{self.extension}"


def photograph(name: str) -> Image.Image:
    """A photograph of scikit-image's, RGB."""
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def crop(name: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """The part (left, top, right, bottom) of a photograph, scaled to (width, height)."""
    return photograph(name).resize(size, Image.Resampling.LANCZOS, box=box)


def encode(im: Image.Image, kind: str, **options: object) -> bytes:
    """The picture's bytes in a format of Pillow's."""
    out = io.BytesIO()
    im.save(out, format=kind, **options)
    return out.getvalue()


def jpegs() -> Iterator[Picture]:
    """JPEG: chroma subsamplings, coding modes, sizes, CMYK, gray."""

    def jpeg(name: str, source: str, im: Image.Image, **options: object) -> Picture:
        options = {"quality": 85, "subsampling": "4:2:0", **options}
        return Picture(f"jpeg-{name}", "jpg", encode(im, "JPEG", **options), source)

    coffee = crop("coffee", (0, 0, 600, 400), (300, 200))
    yield jpeg("420", "coffee", coffee)
    yield jpeg("422", "coffee", coffee, subsampling="4:2:2")
    yield jpeg("444", "coffee", coffee, subsampling="4:4:4")
    yield jpeg("progressive", "coffee", coffee, progressive=True)
    yield jpeg("restart", "coffee", coffee, restart_marker_blocks=5)
    yield jpeg("228", "astronaut", crop("astronaut", (80, 0, 400, 320), (228, 228)))
    yield jpeg("large", "rocket", crop("rocket", (25, 0, 550, 427), (590, 480)), quality=75)
    yield jpeg("portrait", "astronaut", crop("astronaut", (90, 0, 390, 450), (240, 360)))
    yield jpeg("small", "coffee", crop("coffee", (100, 50, 500, 370), (100, 80)))
    yield jpeg("odd", "chelsea", crop("chelsea", (60, 20, 406, 282), (173, 131)))
    chelsea = crop("chelsea", (80, 20, 400, 260), (160, 120))
    yield jpeg("cmyk", "chelsea", chelsea.convert("CMYK"))
    yield Picture("jpeg-gray", "jpg", encode(chelsea.convert("L"), "JPEG"), "chelsea")


def turned() -> Iterator[Picture]:
    """JPEG with each EXIF orientation; all show the same upright picture of 120x80."""
    upright = crop("coffee", (60, 40, 480, 320), (120, 80))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        stored = upright.transpose(UNTURN[orientation]) if orientation in UNTURN else upright
        data = encode(stored, "JPEG", quality=85, exif=exif)
        yield Picture(f"exif-{orientation}", "jpg", data, "coffee")


def others() -> Iterator[Picture]:
    """PNG, WebP, GIF, BMP and TIFF, in the variants that decoders treat apart."""
    im = crop("chelsea", (80, 20, 400, 260), (120, 90))
    rgb = np.asarray(im)
    gray = np.asarray(im.convert("L"))
    ramp = np.broadcast_to(np.linspace(0, 255, 120).astype(np.uint8), (90, 120))
    rgba = Image.fromarray(np.dstack([rgb, ramp]))
    variants: dict[str, tuple[str, bytes]] = {
        "png-rgb": ("png", png(rgb)),
        "png-rgba": ("png", png(np.dstack([rgb, ramp]))),
        "png-palette": ("png", encode(im.quantize(64), "PNG", optimize=True)),
        "png-palette-alpha": ("png", encode(im.quantize(64), "PNG", transparency=3)),
        "png-rgb16": ("png", png(sixteen_bits(rgb))),
        "png-gray": ("png", png(gray[..., None])),
        "png-gray16": ("png", png(sixteen_bits(gray)[..., None])),
        "png-gray-alpha": ("png", png(np.dstack([gray, ramp]))),
        "png-bilevel": ("png", encode(im.convert("1"), "PNG", optimize=True)),
        "png-interlaced": ("png", png(rgb, interlaced=True)),
        "webp-lossy": ("webp", encode(im, "WEBP", quality=80)),
        "webp-lossless": ("webp", encode(im, "WEBP", lossless=True)),
        "webp-alpha": ("webp", encode(rgba, "WEBP", quality=80, exact=True)),
        "gif": ("gif", two_frames(im)),
        "bmp": ("bmp", encode(im, "BMP")),
        "tiff": ("tiff", encode(im, "TIFF")),
        "tiff-lzw": ("tiff", encode(im, "TIFF", compression="tiff_lzw")),
        "tiff-deflate": ("tiff", encode(im, "TIFF", compression="tiff_adobe_deflate")),
    }
    for name, (extension, data) in variants.items():
        yield Picture(name, extension, data, "chelsea")


def two_frames(im: Image.Image) -> bytes:
    """A GIF whose first frame is the picture and whose second is its negative."""
    first = im.quantize(64)
    second = ImageOps.invert(im).quantize(64)
    return encode(first, "GIF", save_all=True, append_images=[second], duration=200, loop=0)


def sixteen_bits(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """16-bit values whose high byte is the given one.

    The low byte is 255 minus it, so that scaling by 1/257 and rounding gives another result than
    taking the high byte, as Pillow does.
    """
    wide = values.astype(np.uint16)
    return wide << 8 | 255 - wide


def png(values: NDArray[np.uint8] | NDArray[np.uint16], interlaced: bool = False) -> bytes:
    """A PNG of [height, width, 1..4] values, 8 or 16 bits deep, interlaced by Adam7 if asked.

    Pillow can write neither 16-bit colour nor an interlaced file. PNG specification, third edition.
    """
    height, width, channels = values.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    depth = 8 * values.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    scanlines = b"".join(
        b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes()
        for left, top, across, down in passes
        for row in values[top::down, left::across]
        if row.size
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_chunk(kind, body)
        for kind, body in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(scanlines, 9)),
            (b"IEND", b""),
        )
    )


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    checked = kind + body
    return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))


def model_input(im: Image.Image) -> Image.Image:
    """An upright picture as the model gets it: RGB, 228x228, Pillow's bilinear with antialias.

    Alpha is dropped, not blended; a palette and CMYK are converted before the resize.
    """
    rgb = im.convert("RGB")
    # A palette's transparent entry would live on as a transparent colour of the golden PNG.
    rgb.info.clear()
    return F.resize(rgb, list(INPUT_SIZE))


def answer(model: torch.jit.ScriptModule, im: Image.Image) -> bytes:
    """The demo's answer to a 228x228 picture: JPEG in Pillow's default quality 75, 4:2:0.

    Values are clamped to 0..1 first; the demo's wrap round. to_pil_image multiplies by 255 and
    cuts the fraction off.
    """
    with torch.inference_mode():
        out = model(F.to_tensor(im)[None])[0].clamp(0, 1)
    return encode(F.to_pil_image(out), "JPEG")


class Goldens:
    """Collects the files of testdata/goldens. Files of equal content are kept once."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}

    def add(self, name: str, data: bytes) -> str:
        """Keep data under this name, or under that of an equal file. Gives the name."""
        name = self._names.setdefault(data, name)
        self.files[name] = data
        return name


def picture_golden(
    picture: Picture,
    goldens: Goldens,
    negate: torch.jit.ScriptModule,
    bundled: torch.jit.ScriptModule,
) -> dict[str, object]:
    """The manifest's entry for a picture. Its golden files are added to goldens."""
    stored = Image.open(io.BytesIO(picture.data))
    im = ImageOps.exif_transpose(stored)
    entry: dict[str, object] = {
        "name": picture.name,
        "file": f"pictures/{picture.file}",
        "width": im.width,
        "height": im.height,
        "mode": stored.mode,
    }
    if stored.mode in GRAY_MODES:
        entry |= {"expect": NEED_RGB}
        if stored.mode == "I;16":  # Pillow takes 16 bits for 8, and makes them white
            return entry
        return entry | {"gray_input_sha256": files.sha256(model_input(im).tobytes())}
    made = model_input(im)
    entry |= {
        "expect": "ok",
        "input": goldens.add(f"{picture.name}.input.png", encode(made, "PNG", optimize=True)),
        "input_sha256": files.sha256(made.tobytes()),
    }
    if picture.name.startswith("jpeg-") and stored.mode == "RGB":
        entry["negate"] = goldens.add(f"{picture.name}.negate.jpg", answer(negate, made))
    if picture.name in WITH_BUNDLED:
        entry["bundled"] = goldens.add(f"{picture.name}.bundled.jpg", answer(bundled, made))
    return entry


def forward_golden(goldens: Goldens, bundled: torch.jit.ScriptModule) -> dict[str, object]:
    """The bundled model's result, by PyTorch on the CPU, for two photographs of 64x64."""
    size = (64, 64)
    x = torch.stack(
        [
            F.to_tensor(crop("chelsea", (80, 20, 320, 260), size)),
            F.to_tensor(crop("coffee", (100, 0, 500, 400), size)),
        ]
    )
    with torch.inference_mode():
        y = bundled(x)
    return {
        "model": "models/photo2ink/model.pt",
        "model_sha256": files.sha256(BUNDLED.read_bytes()),
        "shape": list(x.shape),
        "dtype": "float32, little-endian, NCHW",
        "input": goldens.add("forward.input.f32", x.numpy().astype("<f4").tobytes()),
        "output": goldens.add("forward.output.f32", y.numpy().astype("<f4").tobytes()),
    }


def lcg_bytes(seed: int, count: int) -> bytes:
    """Noise that any language can make again.

    A 32-bit linear congruential generator with the constants of Numerical Recipes: the state
    starts as seed; for each byte it becomes state * 1664525 + 1013904223 modulo 2^32, and its top
    8 bits are the byte.
    """
    out = bytearray(count)
    state = seed
    for i in range(count):
        state = (state * LCG_MULTIPLIER + LCG_INCREMENT) & 0xFFFFFFFF
        out[i] = state >> 24
    return bytes(out)


def gray_golden(seed: int, size: tuple[int, int]) -> dict[str, object]:
    """Noise of that size, made grey by Pillow."""
    width, height = size
    noise = lcg_bytes(seed, width * height * 3)
    return {
        "seed": seed,
        "width": width,
        "height": height,
        "output_sha256": files.sha256(Image.frombytes("RGB", size, noise).convert("L").tobytes()),
    }


def resize_goldens(goldens: Goldens) -> Iterator[dict[str, object]]:
    """The manifest's entries of all resizes. Their files are added to goldens."""
    for seed, (before, after) in enumerate(RESIZES, start=1):
        yield resize_golden(Image.Resampling.BILINEAR, seed, before, after, goldens)
    for kind in FILTERS:
        for seed, (before, after) in enumerate(FILTERED_RESIZES, start=1):
            yield resize_golden(kind, seed, before, after)


def resize_golden(
    kind: Image.Resampling,
    seed: int,
    before: tuple[int, int],
    after: tuple[int, int],
    goldens: Goldens | None = None,
) -> dict[str, object]:
    """Noise of one size, resized by one of Pillow's filters to another.

    A small one is added to goldens, so that a difference can be looked at.
    """
    width, height = before
    noise = lcg_bytes(seed, width * height * 3)
    resized = Image.frombytes("RGB", before, noise).resize(after, kind)
    name = f"resize-{width}x{height}-{after[0]}x{after[1]}.png"
    entry: dict[str, object] = {
        "filter": kind.name.lower(),
        "seed": seed,
        "width": width,
        "height": height,
        "out_width": after[0],
        "out_height": after[1],
        "input_sha256": files.sha256(noise),
        "output_sha256": files.sha256(resized.tobytes()),
    }
    data = encode(resized, "PNG", optimize=True)
    if goldens is not None and len(data) <= MAX_RESIZE_PNG:
        entry["output"] = goldens.add(name, data)
    return entry


def licences(pictures: list[Picture]) -> bytes:
    """The text of testdata/pictures/LICENSES.md."""
    lines = [
        "# Where the pictures come from",
        "",
        "`models/goldens.py` cut all of them from photographs that scikit-image ships in",
        "`skimage/data`; the licences are those that its documentation gives.",
        "",
        "| photograph | licence | files |",
        "|---|---|---|",
    ]
    for name, licence in LICENCES.items():
        cut = ", ".join(f"`{p.file}`" for p in pictures if p.photograph == name)
        lines.append(f"| `{name}` | {licence} | {cut} |")
    return ("\n".join(lines) + "\n").encode()


def made_with() -> dict[str, str]:
    """The versions that the goldens' bytes depend on."""
    return {
        "pillow": PIL.__version__,
        "libjpeg_turbo": str(features.version("libjpeg_turbo")),
        "libwebp": str(features.version("webp")),
        "scikit-image": skimage.__version__,
        "torch": torch.__version__.split("+")[0],
        "torchvision": torchvision.__version__.split("+")[0],
    }


def make_all() -> dict[str, bytes]:
    """Every file of both folders: its path below testdata, and its bytes."""
    negate = formats.load_torchscript(NEGATE)
    bundled = formats.load_torchscript(BUNDLED)
    pictures = [*jpegs(), *turned(), *others()]
    goldens = Goldens()
    manifest = {
        "made_with": made_with(),
        "input_size": list(INPUT_SIZE),
        "pictures": [picture_golden(p, goldens, negate, bundled) for p in pictures],
        "forward": forward_golden(goldens, bundled),
        "resize": {
            "filters": "Pillow's, RGB, uint8",
            "noise": "state = seed; for each byte, in row-major RGBRGB order: "
            f"state = (state * {LCG_MULTIPLIER} + {LCG_INCREMENT}) mod 2^32; byte = state >> 24",
            "cases": list(resize_goldens(goldens)),
        },
        "gray": gray_golden(1, GRAY_SIZE),
    }
    made = {f"pictures/{picture.file}": picture.data for picture in pictures}
    made["pictures/LICENSES.md"] = licences(pictures)
    made |= {f"goldens/{name}": data for name, data in goldens.files.items()}
    made["goldens/goldens.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    return made


def remove_others(folder: Path, made: dict[str, bytes]) -> None:
    """Remove the files in pictures/ and goldens/ that are not among those made."""
    for name in ("pictures", "goldens"):
        for path in (folder / name).glob("*"):
            if path.is_file() and f"{name}/{path.name}" not in made:
                print(f"{path}: no longer made, removed")
                path.unlink()


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "testdata", help="default: testdata")
    folder = parser.parse_args(arguments).folder
    for needed, maker in ((BUNDLED, "models/export.py"), (NEGATE, "models/fixtures.py")):
        if not needed.is_file():
            print(f"goldens.py: {needed}: no such file; make it by {maker}", file=sys.stderr)
            return 1
    made = make_all()
    for name, data in made.items():
        files.write_whole(folder / name, data)
    remove_others(folder, made)
    print(f"{folder}: {len(made)} files, {sum(map(len, made.values()))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
