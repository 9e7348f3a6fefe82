"""Make testdata/pictures and testdata/goldens: images, and the expected results of a server.

The goldens come from Pillow, torchvision and PyTorch, which the Sanic demo uses. The images are
cropped from photographs that scikit-image ships. Other files in the two folders are removed. With
the versions in tools/requirements.txt the files are always the same. The bundled model and the
command fixtures come first.
"""

import io
import json
import struct
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

from torchherd_tools import command, files, paths
from torchherd_tools.errors import ToolError
from torchherd_tools.models import formats

INPUT_SIZE = (228, 228)
NEED_RGB = "need rgb image"
GRAY_MODES = {"1", "L", "LA", "I", "I;16", "F"}
WITH_BUNDLED = {"jpeg-228", "jpeg-420", "jpeg-portrait"}
# Of a larger resize golden only the digest is kept: noise does not compress.
MAX_RESIZE_PNG = 16 << 10

LICENCES = {
    "astronaut": "Eileen Collins, photograph by NASA; public domain",
    "chelsea": "Chelsea the cat, photograph by Stefan van der Walt; CC0",
    "coffee": "Cup of coffee at Pikolo Espresso Bar, photograph by Rachel Michetti; CC0",
    "rocket": "Launch of DSCOVR on Falcon 9, photograph by SpaceX; public domain",
}

# The transpositions that an EXIF orientation of 2..8 reverts.
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

# The passes of Adam7 (PNG specification, 8.2): first column, first row, step in x, step in y.
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
# The sizes for the other filters: down, up, both, and one side kept.
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

# Not a multiple of any vector width.
GRAY_SIZE = (211, 97)


class GoldensError(ToolError):
    """A file that the goldens are made from is missing."""


@dataclass
class TestImage:
    """A test image: its name, the extension and bytes of its file, the photograph it shows."""

    name: str
    extension: str
    data: bytes
    photograph: str

    @property
    def file(self) -> str:
        """Return the file's name in testdata/pictures."""
        return f"{self.name}.{self.extension}"


def photograph(name: str) -> Image.Image:
    """Return a photograph of scikit-image, RGB."""
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def crop(name: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Return a part (left, top, right, bottom) of a photograph, scaled to (width, height)."""
    return photograph(name).resize(size, Image.Resampling.LANCZOS, box=box)


def encode(im: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image in a format of Pillow."""
    out = io.BytesIO()
    im.save(out, format=kind, **options)
    return out.getvalue()


def jpegs() -> Iterator[TestImage]:
    """Yield JPEGs: chroma subsamplings, coding modes, sizes, CMYK, gray."""

    def jpeg(name: str, source: str, im: Image.Image, **options: object) -> TestImage:
        options = {"quality": 85, "subsampling": "4:2:0", **options}
        return TestImage(f"jpeg-{name}", "jpg", encode(im, "JPEG", **options), source)

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
    yield TestImage("jpeg-gray", "jpg", encode(chelsea.convert("L"), "JPEG"), "chelsea")


def turned() -> Iterator[TestImage]:
    """Yield a JPEG for each EXIF orientation; upright, all show the same image of 120x80."""
    upright = crop("coffee", (60, 40, 480, 320), (120, 80))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        stored = upright.transpose(UNTURN[orientation]) if orientation in UNTURN else upright
        data = encode(stored, "JPEG", quality=85, exif=exif)
        yield TestImage(f"exif-{orientation}", "jpg", data, "coffee")


def others() -> Iterator[TestImage]:
    """Yield PNG, WebP, GIF, BMP and TIFF in the variants that decoders distinguish."""
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
        yield TestImage(name, extension, data, "chelsea")


def two_frames(im: Image.Image) -> bytes:
    """Return a GIF whose first frame is the image and whose second is its negative."""
    first = im.quantize(64)
    second = ImageOps.invert(im).quantize(64)
    return encode(first, "GIF", save_all=True, append_images=[second], duration=200, loop=0)


def sixteen_bits(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return 16-bit values whose high bytes are the given values.

    The low byte is 255 minus the high one, so that scaling by 1/257 and rounding differs from
    taking the high byte, as Pillow does.
    """
    wide = values.astype(np.uint16)
    return wide << 8 | 255 - wide


def png(values: NDArray[np.uint8] | NDArray[np.uint16], interlaced: bool = False) -> bytes:
    """Encode [height, width, 1..4] values of 8 or 16 bits as PNG, interlaced by Adam7 if set.

    Pillow writes neither 16-bit colour nor interlaced files. See the PNG specification, third
    edition.
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
    """Return the model's input for an upright image: RGB, 228x228, bilinear with antialiasing.

    Alpha is dropped, not blended; a palette and CMYK are converted before the resize.
    """
    rgb = im.convert("RGB")
    # A transparent palette entry would become a transparent colour of the golden PNG.
    rgb.info.clear()
    return F.resize(rgb, list(INPUT_SIZE))


def response(model: torch.jit.ScriptModule, im: Image.Image) -> bytes:
    """Return the demo's response to a 228x228 image: JPEG in Pillow's default quality 75, 4:2:0.

    Values are clamped to 0..1 first; in the demo they wrap around. to_pil_image multiplies by 255
    and truncates.
    """
    with torch.inference_mode():
        out = model(F.to_tensor(im)[None])[0].clamp(0, 1)
    return encode(F.to_pil_image(out), "JPEG")


class Goldens:
    """The files of testdata/goldens; equal files are kept once."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}

    def add(self, name: str, data: bytes) -> str:
        """Add a file under this name, or that of an equal file, and return the name."""
        name = self._names.setdefault(data, name)
        self.files[name] = data
        return name


def image_golden(
    image: TestImage,
    goldens: Goldens,
    negate: torch.jit.ScriptModule,
    bundled: torch.jit.ScriptModule,
) -> dict[str, object]:
    """Return the manifest's entry for an image, and add its files to goldens."""
    stored = Image.open(io.BytesIO(image.data))
    im = ImageOps.exif_transpose(stored)
    entry: dict[str, object] = {
        "name": image.name,
        "file": f"pictures/{image.file}",
        "width": im.width,
        "height": im.height,
        "mode": stored.mode,
    }
    if stored.mode in GRAY_MODES:
        entry |= {"expect": NEED_RGB}
        if stored.mode == "I;16":  # Pillow converts 16-bit gray to white
            return entry
        return entry | {"gray_input_sha256": files.sha256(model_input(im).tobytes())}
    made = model_input(im)
    entry |= {
        "expect": "ok",
        "input": goldens.add(f"{image.name}.input.png", encode(made, "PNG", optimize=True)),
        "input_sha256": files.sha256(made.tobytes()),
    }
    if image.name.startswith("jpeg-") and stored.mode == "RGB":
        entry["negate"] = goldens.add(f"{image.name}.negate.jpg", response(negate, made))
    if image.name in WITH_BUNDLED:
        entry["bundled"] = goldens.add(f"{image.name}.bundled.jpg", response(bundled, made))
    return entry


def forward_golden(goldens: Goldens, bundled: torch.jit.ScriptModule) -> dict[str, object]:
    """Return the bundled model's result, by PyTorch on the CPU, for two photographs of 64x64."""
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
        "model_sha256": files.sha256(paths.bundled_model().read_bytes()),
        "shape": list(x.shape),
        "dtype": "float32, little-endian, NCHW",
        "input": goldens.add("forward.input.f32", x.numpy().astype("<f4").tobytes()),
        "output": goldens.add("forward.output.f32", y.numpy().astype("<f4").tobytes()),
    }


def lcg_bytes(seed: int, count: int) -> bytes:
    """Return noise that is easy to make in every language.

    It comes from a 32-bit linear congruential generator with the constants of Numerical Recipes:
    the state starts as seed; for each byte it becomes state * 1664525 + 1013904223 modulo 2^32, and
    the byte is its top 8 bits.
    """
    out = bytearray(count)
    state = seed
    for i in range(count):
        state = (state * LCG_MULTIPLIER + LCG_INCREMENT) & 0xFFFFFFFF
        out[i] = state >> 24
    return bytes(out)


def gray_golden(seed: int, size: tuple[int, int]) -> dict[str, object]:
    """Return the manifest's entry for noise, converted to gray by Pillow."""
    width, height = size
    noise = lcg_bytes(seed, width * height * 3)
    return {
        "seed": seed,
        "width": width,
        "height": height,
        "output_sha256": files.sha256(Image.frombytes("RGB", size, noise).convert("L").tobytes()),
    }


def resize_goldens(goldens: Goldens) -> Iterator[dict[str, object]]:
    """Yield the manifest's entries of all resizes, and add their files to goldens."""
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
    """Return the manifest's entry for noise, resized by one of Pillow's filters.

    A small result is added to goldens, so that people can look at a difference.
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


def licences(images: list[TestImage]) -> bytes:
    """Return the text of testdata/pictures/LICENSES.md."""
    lines = [
        "# Licences of the test images",
        "",
        "`make goldens` cropped all images from photographs that scikit-image ships in",
        "`skimage/data`. The licences are those in its documentation.",
        "",
        "| photograph | licence | files |",
        "|---|---|---|",
    ]
    for name, licence in LICENCES.items():
        cut = ", ".join(f"`{p.file}`" for p in images if p.photograph == name)
        lines.append(f"| `{name}` | {licence} | {cut} |")
    return ("\n".join(lines) + "\n").encode()


def made_with() -> dict[str, str]:
    """Return the versions on which the goldens' bytes depend."""
    return {
        "pillow": PIL.__version__,
        "libjpeg_turbo": str(features.version("libjpeg_turbo")),
        "libwebp": str(features.version("webp")),
        "scikit-image": skimage.__version__,
        "torch": torch.__version__.split("+")[0],
        "torchvision": torchvision.__version__.split("+")[0],
    }


def make_all() -> dict[str, bytes]:
    """Return the files of both folders: paths below testdata, and bytes.

    Raises GoldensError if a model is missing.
    """
    negate_file = paths.testdata() / "modules" / "negate.pt"
    for needed, maker in ((paths.bundled_model(), "export"), (negate_file, "fixtures")):
        if not needed.is_file():
            raise GoldensError(f"{needed}: no such file; make it with the command {maker}")
    negate = formats.load_torchscript(negate_file)
    bundled = formats.load_torchscript(paths.bundled_model())
    images = [*jpegs(), *turned(), *others()]
    goldens = Goldens()
    manifest = {
        "made_with": made_with(),
        "input_size": list(INPUT_SIZE),
        "pictures": [image_golden(each, goldens, negate, bundled) for each in images],
        "forward": forward_golden(goldens, bundled),
        "resize": {
            "filters": "Pillow's, RGB, uint8",
            "noise": "state = seed; for each byte, in row-major RGBRGB order: "
            f"state = (state * {LCG_MULTIPLIER} + {LCG_INCREMENT}) mod 2^32; byte = state >> 24",
            "cases": list(resize_goldens(goldens)),
        },
        "gray": gray_golden(1, GRAY_SIZE),
    }
    made = {f"pictures/{image.file}": image.data for image in images}
    made["pictures/LICENSES.md"] = licences(images)
    made |= {f"goldens/{name}": data for name, data in goldens.files.items()}
    made["goldens/goldens.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    return made


def remove_others(folder: Path, made: dict[str, bytes]) -> None:
    """Remove the files in pictures/ and goldens/ that were not made."""
    for name in ("pictures", "goldens"):
        for path in (folder / name).glob("*"):
            if path.is_file() and f"{name}/{path.name}" not in made:
                print(f"{path}: removed, since it is no longer made")
                path.unlink()


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    parser = command.parser("goldens", __doc__)
    parser.add_argument("--folder", type=Path, help="default: testdata")
    args = parser.parse_args(arguments)
    try:
        folder = args.folder or paths.testdata()
        made = make_all()
        for name, data in made.items():
            files.write_whole(folder / name, data)
        remove_others(folder, made)
    except (ToolError, OSError) as error:
        return command.failed("goldens", error)
    print(f"{folder}: {len(made)} files, {sum(map(len, made.values()))} bytes")
    return 0
