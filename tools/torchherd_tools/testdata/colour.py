"""Make testdata/colour: ICC profiles, images in their colours, and what Little CMS makes of them.

The profiles are computed here from published primaries, and from simple models of ink. The expected
colours are those of transicc, the calculator of Little CMS, from the same profile to its sRGB with
relative colorimetric intent and black-point compensation. It computes in floating point. Those of
PQ and HLG are computed here, by the formulas of ITU-R BT.2100. transicc is in Debian's package
liblcms2-utils and avifenc in libavif-bin, and only this command needs them.
"""

import io
import itertools
import json
import math
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchherd_tools import command, paths
from torchherd_tools.errors import ToolError

Array = NDArray[np.float64]

D50 = (0.9642, 1.0, 0.8249)  # ICC.1:2022, 7.2.16
D65 = (0.3127, 0.3290)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

# Chromaticities of red, green, blue and white.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65)
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65)
PROPHOTO = ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), (0.345704, 0.358540))

SIDE = 16  # of the images, in patches
BLOCK = 8  # pixels of a side of a patch in a JPEG


def xyz(xy: tuple[float, float]) -> Array:
    """Return XYZ with Y = 1."""
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def matrix(primaries: Sequence[tuple[float, float]]) -> Array:
    """Return the matrix from linear RGB to XYZ under D50."""
    red, green, blue, white = (xyz(p) for p in primaries)
    columns = np.column_stack([red, green, blue])
    to_xyz = columns * np.linalg.solve(columns, white)
    gain = (BRADFORD @ np.array(D50)) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD @ to_xyz


def s15(value: float) -> int:
    """Return an s15Fixed16Number."""
    return round(value * 65536)


def xyz_tag(value: Sequence[float]) -> bytes:
    """Return an XYZType."""
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(s15(v) for v in value))


def text_tag(text: str) -> bytes:
    """Return a textType."""
    return b"text\0\0\0\0" + text.encode() + b"\0"


def description_tag(text: str, version: int) -> bytes:
    """Return the description of a profile in the form of its version."""
    if version >= 4:
        encoded = text.encode("utf-16-be")
        head = struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28)
        return b"mluc\0\0\0\0" + head + encoded
    ascii_text = text.encode() + b"\0"
    other_texts = bytes(4 + 4 + 2 + 1 + 67)  # none in Unicode and none for Macintosh
    return b"desc\0\0\0\0" + struct.pack(">I", len(ascii_text)) + ascii_text + other_texts


def gamma_tag(gamma: float) -> bytes:
    """Return a curveType of one gamma."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def table_tag(curve: Callable[[float], float], entries: int) -> bytes:
    """Return a sampled curveType."""
    values = [round(65535 * curve(i / (entries - 1))) for i in range(entries)]
    return b"curv\0\0\0\0" + struct.pack(f">I{entries}H", entries, *values)


def srgb_tag() -> bytes:
    """Return sRGB's curve as a parametricCurveType of function type 3."""
    parameters = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0" + struct.pack(">HH5i", 3, 0, *(s15(p) for p in parameters))


def profile(
    device: bytes, space: bytes, pcs: bytes, version: int, tags: dict[bytes, bytes]
) -> bytes:
    """Return an ICC profile. Equal tags share their bytes."""
    head_size, count_size, entry_size = 128, 4, 12
    body, entries, seen = b"", [], {}
    start = head_size + count_size + entry_size * len(tags)
    for signature, content in tags.items():
        if content not in seen:
            body += bytes(-len(body) % 4)
            seen[content] = (start + len(body), len(content))
            body += content
        entries.append(struct.pack(">4sII", signature, *seen[content]))
    body += bytes(-len(body) % 4)
    table = struct.pack(">I", len(entries)) + b"".join(entries)
    date = (2026, 1, 1, 0, 0, 0)
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sI4s4sQI3i4s16s28x",
        head_size + len(table) + len(body),
        bytes(4),
        version << 24 | 0x200000 * (version == 4),
        device,
        space,
        pcs,
        *date,
        b"acsp",
        bytes(4),
        0,
        bytes(4),
        bytes(4),
        0,
        1,
        *(s15(v) for v in D50),
        bytes(4),
        bytes(16),
    )
    return header + table + body


def common(name: str, version: int) -> dict[bytes, bytes]:
    """Return the tags that each profile has."""
    tags = {
        b"desc": description_tag(name, version),
        b"cprt": text_tag("No copyright, use freely"),
        b"wtpt": xyz_tag(D50),
    }
    if version >= 4:
        tags[b"cprt"] = description_tag("No copyright, use freely", version)
    return tags


def matrix_profile(
    name: str, primaries: Sequence[tuple[float, float]], curve: bytes, version: int = 2
) -> bytes:
    """Return the profile of a display with these primaries."""
    columns = matrix(primaries)
    tags = common(name, version)
    for i, letter in enumerate((b"r", b"g", b"b")):
        tags[letter + b"XYZ"] = xyz_tag(columns[:, i])
    for letter in (b"r", b"g", b"b"):
        tags[letter + b"TRC"] = curve
    return profile(b"mntr", b"RGB ", b"XYZ ", version, tags)


def gray_profile(name: str, curve: bytes) -> bytes:
    """Return the profile of a gray device."""
    return profile(b"mntr", b"GRAY", b"XYZ ", 2, {**common(name, 2), b"kTRC": curve})


def lab(value: Array) -> Array:
    """Return CIE Lab of XYZ under D50."""
    ratio = value / np.array(D50)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def lut(inputs: int, outputs: int, grid: int, bits: int, device: Callable[[Array], Array]) -> bytes:
    """Return a lut8Type or lut16Type, of a function from 0..1 to 0..1."""
    levels = 2**bits - 1
    places = itertools.product(range(grid), repeat=inputs)
    nodes = [device(np.array(place) / (grid - 1)) for place in places]
    values = np.rint(np.clip(np.array(nodes), 0, 1) * levels).astype(f">u{bits // 8}")
    head = struct.pack(">BBBx9i", inputs, outputs, grid, *(s15(v) for v in np.eye(3).flat))
    if bits == 8:
        line = bytes(range(256))
        return b"mft1\0\0\0\0" + head + line * inputs + values.tobytes() + line * outputs
    line = struct.pack(">2H", 0, 65535)
    head += struct.pack(">2H", 2, 2)
    return b"mft2\0\0\0\0" + head + line * inputs + values.tobytes() + line * outputs


def encode_lab(value: Array, bits: int) -> Array:
    """Return Lab in 0..1, in the encoding of lut8Type or the legacy one of lut16Type."""
    scaled = np.array([value[0] / 100, (value[1] + 128) / 255, (value[2] + 128) / 255])
    return scaled if bits == 8 else scaled * (65280 / 65535)


def decode_lab(value: Array) -> Array:
    """Undo encode_lab of 16 bits."""
    value = value * (65535 / 65280)
    return np.array([value[0] * 100, value[1] * 255 - 128, value[2] * 255 - 128])


def from_lab(value: Array) -> Array:
    """Return XYZ under D50 of CIE Lab."""
    f = np.array([value[1] / 500, 0, -value[2] / 200]) + (value[0] + 16) / 116
    return np.array(D50) * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))


def rgb_lut_profile(name: str, bits: int) -> bytes:
    """Return the profile of a scanner whose channels overlap."""
    to_xyz = matrix(ADOBE_RGB)

    def device(rgb: Array) -> Array:
        mixed = np.array([[0.9, 0.08, 0.02], [0.05, 0.9, 0.05], [0.0, 0.1, 0.9]]) @ rgb**2.0
        return encode_lab(lab(to_xyz @ mixed), bits)

    tags = common(name, 2)
    tags[b"A2B0"] = lut(3, 3, 17, bits, device)
    for i, letter in enumerate((b"r", b"g", b"b")):  # for programs without tables
        tags[letter + b"XYZ"] = xyz_tag(to_xyz[:, i])
        tags[letter + b"TRC"] = gamma_tag(2.0)
    return profile(b"scnr", b"RGB ", b"Lab ", 2, tags)


def modular(inputs: int, grid: int, device: Callable[[Array], Array]) -> bytes:
    """Return a lutAToBType with a table of 16 bits between curves that do nothing."""
    line = b"curv" + bytes(8)
    places = itertools.product(range(grid), repeat=inputs)
    nodes = [device(np.array(place) / (grid - 1)) for place in places]
    values = np.rint(np.clip(np.array(nodes), 0, 1) * 65535).astype(">u2").tobytes()
    clut = bytes([grid] * inputs).ljust(16, b"\0") + b"\2\0\0\0" + values
    clut += bytes(-len(clut) % 4)
    start = 32
    after = start + 3 * len(line)
    head = struct.pack(">BB2x5I", inputs, 3, start, 0, 0, after, after + len(clut))
    return b"mAB \0\0\0\0" + head + line * 3 + clut + line * inputs


def rgb_modular_profile(name: str) -> bytes:
    """Return a profile of version 4 with a table to Lab in the encoding of that version."""
    to_xyz = matrix(DISPLAY_P3)

    def device(rgb: Array) -> Array:
        value = lab(to_xyz @ rgb**2.2)
        return np.array([value[0] / 100, (value[1] + 128) / 255, (value[2] + 128) / 255])

    tags = common(name, 4) | {b"A2B0": modular(3, 17, device)}
    return profile(b"scnr", b"RGB ", b"Lab ", 4, tags)


PAPER = np.array([0.86, 0.86, 0.82])  # linear light that the paper returns
BLACK = 0.004  # that all inks leave
INKS = np.array([[0.07, 0.42, 0.78], [0.62, 0.05, 0.18], [0.88, 0.75, 0.03], [0.03, 0.03, 0.03]])


def press(cmyk: Array) -> Array:
    """Return Lab of four inks on paper, which each take a part of the light (as by Neugebauer)."""
    dots = cmyk**0.85  # the dots gain
    light = PAPER * np.prod(1 - dots[:, None] * (1 - INKS), axis=0) * (1 - BLACK) + BLACK
    return lab(matrix(SRGB) @ (light / PAPER.max()))


def separate(value: Array) -> Array:
    """Return inks for a Lab color. It is coarse: only the darkest color matters here."""
    light = np.clip(np.linalg.inv(matrix(SRGB)) @ from_lab(value), 0, 1) ** 0.45
    inks = 1 - light
    return np.array([*inks, inks.min() ** 1.5])


def cmyk_profile(name: str) -> bytes:
    """Return the profile of a press."""
    tags = common(name, 2)
    forward = lut(4, 3, 9, 16, lambda cmyk: encode_lab(press(cmyk), 16))
    backward = lut(3, 4, 9, 16, lambda node: separate(decode_lab(node)))
    for intent in (b"0", b"1", b"2"):
        tags[b"A2B" + intent], tags[b"B2A" + intent] = forward, backward
    return profile(b"prtr", b"CMYK", b"Lab ", 2, tags)


def profiles() -> dict[str, bytes]:
    """Return the profiles by their names."""
    return {
        "srgb": matrix_profile("sRGB", SRGB, srgb_tag(), 4),
        "display-p3": matrix_profile("Display P3", DISPLAY_P3, srgb_tag(), 4),
        "adobe-rgb": matrix_profile("like Adobe RGB (1998)", ADOBE_RGB, gamma_tag(2.19921875)),
        "prophoto": matrix_profile("like ProPhoto RGB", PROPHOTO, gamma_tag(1.8)),
        "table": matrix_profile("sampled", DISPLAY_P3, table_tag(lambda v: v**2.6, 64)),
        "gray": gray_profile("gray with dot gain", table_tag(lambda v: v**1.75, 256)),
        "rgb-lut8": rgb_lut_profile("scanner, 8 bits", 8),
        "rgb-lut16": rgb_lut_profile("scanner, 16 bits", 16),
        "rgb-mab": rgb_modular_profile("scanner, version 4"),
        "cmyk": cmyk_profile("press"),
    }


def patches(channels: int, bits: int = 8) -> NDArray[np.unsignedinteger]:
    """Return colors: a lattice, and then others from a fixed seed."""
    count = SIDE * SIDE
    if bits == 16:
        random = np.random.default_rng(channels)
        return random.integers(0, 65536, (count, channels), np.uint16)
    if channels == 1:
        return np.arange(count, dtype=np.uint8)[:, None]
    steps = 6 if channels == 3 else 3
    lattice = np.array(
        list(itertools.product(np.linspace(0, 255, steps), repeat=channels)), dtype=np.uint8
    )
    rest = np.random.default_rng(19).integers(0, 256, (count - len(lattice), channels), np.uint8)
    return np.concatenate([lattice, rest])


def calculate(path: Path, colors: NDArray[np.unsignedinteger]) -> list[list[float]]:
    """Return sRGB, 0 to 255, of colors in a profile."""
    # transicc takes inks in percent.
    largest = 100 if colors.shape[1] == 4 else 255
    scaled = colors * (largest / np.iinfo(colors.dtype).max)
    lines = "".join(" ".join(f"{v:.6f}" for v in color) + "\n" for color in scaled)
    run = subprocess.run(
        ["transicc", "-n", "-s", "-t1", "-b", f"-i{path}", "-o*sRGB"],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [[float(v) for v in line.split()] for line in run.stdout.splitlines() if line.strip()]
    if len(rows) != len(colors) or not all(math.isfinite(v) for row in rows for v in row):
        raise ToolError(f"transicc: {len(rows)} lines for {len(colors)} colors: {run.stderr}")
    return [[round(min(max(v, 0), 255), 3) for v in row[:3]] for row in rows]


def encode(colors: NDArray[np.uint8], icc: bytes) -> tuple[str, bytes, NDArray[np.uint8]]:
    """Return the kind and the content of a file with these pixels and a profile, and its colors.

    CMYK is in a JPEG, as photographs of presses are. Its patches have the size of a block and the
    finest quantization, and the colors are those that Pillow reads.
    """
    pixels = colors.reshape(SIDE, SIDE, -1)
    out = io.BytesIO()
    if colors.shape[1] == 4:
        large = np.kron(pixels, np.ones((BLOCK, BLOCK, 1), np.uint8))
        Image.fromarray(large, "CMYK").save(
            out, "JPEG", icc_profile=icc, qtables=[[1] * 64] * 2, subsampling=0
        )
        read = np.asarray(Image.open(out))[::BLOCK, ::BLOCK]
        return "jpg", out.getvalue(), read.reshape(colors.shape)
    Image.fromarray(pixels.squeeze(), "L" if colors.shape[1] == 1 else "RGB").save(
        out, "PNG", icc_profile=icc
    )
    return "png", out.getvalue(), colors


def deep_png(colors: NDArray[np.uint16], chunks: dict[bytes, bytes]) -> bytes:
    """Return a PNG of 16 bits, which Pillow doesn't write."""
    kind = {1: 0, 3: 2}[colors.shape[1]]
    rows = colors.astype(">u2").reshape(SIDE, -1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    out = b"\x89PNG\r\n\x1a\n"
    head = {b"IHDR": struct.pack(">IIBBBBB", SIDE, SIDE, 16, kind, 0, 0, 0)}
    for name, data in {**head, **chunks, b"IDAT": pixels, b"IEND": b""}.items():
        checksum = zlib.crc32(name + data)
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
    return out


def tiff(colors: NDArray[np.unsignedinteger], icc: bytes) -> bytes:
    """Return a TIFF of RGB or inks, of 8 or 16 bits."""
    samples = colors.shape[1]
    pixels = colors.astype(colors.dtype.newbyteorder("<")).tobytes()
    bits = 8 * colors.dtype.itemsize
    short, long, undefined, start = 3, 4, 7, 8
    depths = struct.pack(f"<{samples}H", *[bits] * samples)
    fields = [
        (256, short, 1, SIDE),
        (257, short, 1, SIDE),
        (258, short, samples, start + len(pixels)),
        (259, short, 1, 1),
        (262, short, 1, {3: 2, 4: 5}[samples]),
        (273, long, 1, start),
        (277, short, 1, samples),
        (278, short, 1, SIDE),
        (279, long, 1, len(pixels)),
        (34675, undefined, len(icc), start + len(pixels) + len(depths)),
    ]
    body = pixels + depths + icc + bytes(len(icc) % 2)
    directory = b"".join(struct.pack("<HHII", *field) for field in fields)
    return (
        struct.pack("<2sHI", b"II", 42, start + len(body))
        + body
        + struct.pack("<H", len(fields))
        + directory
        + bytes(4)
    )


def deep_files(name: str, icc: bytes) -> dict[str, tuple[bytes, NDArray[np.unsignedinteger]]]:
    """Return files of 16 bits, and TIFFs of inks, with their colors, by the ends of their names."""
    if icc[16:20] == b"CMYK":
        depths = {f"-{bits}.tif": patches(4, bits) for bits in (8, 16)}
        return {end: (tiff(colors, icc), colors) for end, colors in depths.items()}
    colors = patches(1 if icc[16:20] == b"GRAY" else 3, 16)
    chunk = b"made here\0\0" + zlib.compress(icc)
    files = {"-16.png": (deep_png(colors, {b"iCCP": chunk}), colors)}
    if name == "display-p3":
        files["-16.tif"] = (tiff(colors, icc), colors)
    return files


REFERENCE_WHITE = 203  # cd/m2, of ITU-R BT.2408


def pq(signal: Array) -> Array:
    """Return the light in cd/m2 of a signal, by the EOTF of PQ."""
    m1, m2 = 0.1593017578125, 78.84375
    c1, c2, c3 = 0.8359375, 18.8515625, 18.6875
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def hlg(signal: Array) -> Array:
    """Return the light in cd/m2 of a display of 1000 cd/m2, by the EOTF of HLG."""
    a = 0.17883277
    b = 1 - 4 * a
    c = 0.5 - a * math.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return 1000 * luminance[:, None] ** 0.2 * scene


def hdr_files(folder: Path) -> list[dict[str, object]]:
    """Make images of high dynamic range, and return what becomes of their colors."""
    expected = []
    for name, number, light in (("pq", 16, pq), ("hlg", 18, hlg)):
        levels = patches(3, 16) >> 6  # of 10 bits
        levels[:64] = levels[:64] // 2  # more of what isn't cut off
        samples = np.rint(levels * (65535 / 1023)).astype(np.uint16)
        to_srgb = np.linalg.inv(matrix(SRGB)) @ matrix(BT2020)
        linear = np.clip(light(levels / 1023) @ to_srgb.T / REFERENCE_WHITE, 0, 1)
        srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
        (folder / f"{name}.png").write_bytes(deep_png(samples, {b"cICP": bytes([9, number, 0, 1])}))
        with tempfile.NamedTemporaryFile(suffix=".png") as plain:
            Path(plain.name).write_bytes(deep_png(samples, {}))
            options = f"--lossless --depth 10 --cicp 9/{number}/0 --jobs 1".split()
            subprocess.run(
                ["avifenc", *options, plain.name, folder / f"{name}.avif"],
                capture_output=True,
                check=True,
            )
        for kind in ("png", "avif"):
            colors = [[round(v, 3) for v in color] for color in (srgb * 255).tolist()]
            expected.append({"name": name, "file": f"{name}.{kind}", "srgb": colors})
    return expected


def make(folder: Path) -> int:
    """Make the files, and return their number."""
    for program, package in (("transicc", "liblcms2-utils"), ("avifenc", "libavif-bin")):
        if shutil.which(program) is None:
            raise ToolError(f"{program} isn't installed: install the package {package}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    expected = []
    for name, icc in profiles().items():
        path = folder / f"{name}.icc"
        path.write_bytes(icc)
        channels = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}[icc[16:20]]
        kind, file, colors = encode(patches(channels), icc)
        (folder / f"{name}.{kind}").write_bytes(file)
        srgb = calculate(path, colors)
        expected.append({"name": name, "file": f"{name}.{kind}", "srgb": srgb})
        for end, (content, deep) in deep_files(name, icc).items():
            (folder / f"{name}{end}").write_bytes(content)
            expected.append({"name": name, "file": name + end, "srgb": calculate(path, deep)})
    expected += hdr_files(folder)
    text = json.dumps(expected).replace("], [", "],\n[").replace('{"name', '\n{"name')
    (folder / "expected.json").write_text(text + "\n")
    return len(list(folder.iterdir()))


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    command.parser("colour", __doc__).parse_args(arguments)
    folder = paths.testdata() / "colour"
    try:
        count = make(folder)
        # The server writes this profile into responses.
        shutil.copyfile(folder / "srgb.icc", paths.root() / "server/internal/colour/srgb.icc")
    except (ToolError, OSError, subprocess.CalledProcessError) as error:
        return command.failed("colour", error)
    print(f"{folder}: {count} files")
    return 0
