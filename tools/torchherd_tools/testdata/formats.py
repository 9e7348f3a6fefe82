"""Make the files of testdata/formats that Pillow can write, and what Pillow makes of them.

The other files there show faults that no encoder makes. They were drawn byte by byte,
and their lines in cases.json stay.
"""

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from torchherd_tools import command
from torchherd_tools.paths import testdata

WIDTH, HEIGHT = 48, 32


def drawing() -> Image.Image:
    """Return an image of four smooth corners: red, green, blue and yellow."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    right, down = x / (WIDTH - 1), y / (HEIGHT - 1)
    corners = np.array([[[250, 20, 20], [20, 240, 30]], [[30, 40, 250], [240, 230, 40]]], float)
    top = corners[0, 0] * (1 - right[..., None]) + corners[0, 1] * right[..., None]
    bottom = corners[1, 0] * (1 - right[..., None]) + corners[1, 1] * right[..., None]
    pixels = top * (1 - down[..., None]) + bottom * down[..., None]
    return Image.fromarray(pixels.round().astype(np.uint8))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """Return a file of an image."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def undated(file: bytes) -> bytes:
    """Return an animated AVIF without the times of its making, so that it is the same each time."""
    out = bytearray(file)
    for kind in (b"mvhd", b"tkhd", b"mdhd"):
        at = out.find(kind) + 8  # after the kind, the version and the flags
        out[at : at + 16] = bytes(16)
    return bytes(out)


def box(kind: bytes, content: bytes) -> bytes:
    """Return a box of ISO/IEC 14496-12."""
    return struct.pack(">I", len(content) + 8) + kind + content


def bmp(header: bytes, tables: bytes, pixels: bytes) -> bytes:
    """Return a BMP of a header without its size, of masks and colours, and of pixels."""
    start = 14 + 4 + len(header) + len(tables)
    return (
        b"BM"
        + struct.pack("<IIII", start + len(pixels), 0, start, 4 + len(header))
        + header
        + tables
        + pixels
    )


def lossless_jpeg(image: Image.Image) -> bytes:
    """Return a lossless JPEG of RGB (ITU-T T.81, annex H): the sample to the left predicts."""
    pixels = np.array(image, np.int16)
    predicted = np.empty_like(pixels)
    predicted[:, 1:] = pixels[:, :-1]
    predicted[1:, 0] = pixels[:-1, 0]  # of a row's first sample, the one above
    predicted[0, 0] = 128
    bits = ""
    for difference in (pixels - predicted).ravel().tolist():
        size = abs(difference).bit_length()  # its code is the size itself, in 4 bits
        bits += f"{size:04b}"
        if size:
            bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB", 8, *pixels.shape[:2], 3) + b"".join(
        bytes([name, 0x11, 0]) for name in b"RGB"
    )
    sizes = bytes(range(9))
    table = bytes([0, 0, 0, 0, len(sizes)] + [0] * 12) + sizes
    scan = bytes([3]) + b"".join(bytes([name, 0]) for name in b"RGB") + bytes([1, 0, 0])
    segments = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in ((0xC3, frame), (0xC4, table), (0xDA, scan))
    )
    return b"\xff\xd8" + segments + data + b"\xff\xd9"


def tiff(compression: int, photometric: int, strip: bytes) -> bytes:
    """Return a TIFF of one strip, which has the drawing's size, and three samples of 8 bits."""
    fields = [
        (256, 3, 1, WIDTH),
        (257, 3, 1, HEIGHT),
        (258, 3, 3, 8 + 2 + 12 * 9 + 4),
        (259, 3, 1, compression),
        (262, 3, 1, photometric),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4 + 6),
        (277, 3, 1, 3),
        (278, 3, 1, HEIGHT),
        (279, 4, 1, len(strip)),
    ]
    directory = b"".join(struct.pack("<HHII", *field) for field in fields)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + directory + bytes(4)
    return head + struct.pack("<HHH", 8, 8, 8) + strip


def bmp_files() -> list[tuple[str, str, str, bytes, int]]:
    """Return BMPs of kinds that Pillow reads and doesn't write."""
    size = 8
    indices = np.add.outer(np.arange(size), np.arange(size)) % 16
    colours = b"".join(bytes([17 * i, 255 - 17 * i, 8 * i, 0]) for i in range(16))
    short = b"".join(bytes([17 * i, 255 - 17 * i, 8 * i]) for i in range(16))
    nibbles = b"".join(
        bytes(int(row[x]) << 4 | int(row[x + 1]) for x in range(0, size, 2)) for row in indices
    )

    def info(depth: int, compression: int, height: int = size) -> bytes:
        return struct.pack("<iiHHIIiiII", size, height, 1, depth, compression, 0, 0, 0, 0, 0)

    runs = (
        b"".join(bytes([size, int(row[0]) << 4 | int(row[1]), 0, 0]) for row in indices) + b"\0\1"
    )
    words = b"".join(
        struct.pack("<H", (x * 4) << 10 | (y * 4) << 5 | (31 - x))
        for y in range(size)
        for x in range(size)
    )
    rgb = bytes(range(size * size * 3))
    deep = b"".join(bytes([x * 30, y * 30, 200, 99]) for y in range(size) for x in range(size))
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    return [
        ("rle4.bmp", "BMP", "run lengths of 4 bits", bmp(info(4, 2), colours, runs), 0),
        ("4bit.bmp", "BMP", "a palette of 4 bits", bmp(info(4, 0), colours, nibbles), 0),
        ("555.bmp", "BMP", "16 bits", bmp(info(16, 0), b"", words), 0),
        ("top-down.bmp", "BMP", "from the top down", bmp(info(24, 0, -size), b"", rgb), 0),
        (
            "v4.bmp",
            "BMP",
            "version 4 of the header, with masks",
            bmp(info(32, 3) + masks + bytes(52), b"", deep),
            0,
        ),
        (
            "os2-palette.bmp",
            "BMP",
            "a palette of OS/2",
            bmp(struct.pack("<HHHH", size, size, 1, 4), short, nibbles),
            0,
        ),
    ]


def ultra_hdr(image: Image.Image) -> bytes:
    """Return a JPEG with a gain map after it, as Ultra HDR has."""
    packet = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
hdrgm:Version="1.0" hdrgm:GainMapMax="2"/></rdf:RDF></x:xmpmeta>"""
    gain = image.convert("L").reduce(4)
    return saved(image, "MPO", save_all=True, append_images=[gain], xmp=packet.encode())


def jpeg2000_files(rgb: Image.Image, alpha: Image.Image) -> list[tuple[str, str, str, bytes, int]]:
    """Return JPEG 2000 files: JP2, and codestreams alone."""
    form = "JPEG2000"
    kinds = [
        ("rgb.jp2", "lossless", rgb, {}, 0),
        ("rgb.j2k", "a codestream without boxes", rgb, {"no_jp2": True}, 0),
        (
            "lossy.jp2",
            "lossy, several layers",
            rgb,
            {"irreversible": True, "quality_mode": "dB", "quality_layers": [30, 40]},
            1,
        ),
        ("tiles.jp2", "tiles", rgb, {"tile_size": (20, 20), "progression": "RPCL"}, 0),
        ("gray.jp2", "grey", rgb.convert("L"), {}, 0),
        ("gray-alpha.jp2", "grey with alpha", alpha.convert("LA"), {}, 0),
        ("rgba.jp2", "with alpha, which is dropped", alpha, {}, 0),
        ("ycc.jp2", "sYCC", rgb.convert("YCbCr"), {}, 1),
    ]
    files = [
        (name, "JPEG 2000", kind, saved(image, form, **options), tolerance)
        for name, kind, image, options, tolerance in kinds
    ]
    return [*files, palette_jp2(rgb)]


def palette_jp2(rgb: Image.Image) -> tuple[str, str, str, bytes, int]:
    """Return a JP2 file of indices, whose palette is in the header."""
    indices = rgb.quantize(60)
    colours = bytes(indices.getpalette())
    file = saved(Image.frombytes("L", rgb.size, indices.tobytes()), "JPEG2000")
    count = len(colours) // 3
    head = file.index(b"jp2h") - 4
    (size,) = struct.unpack(">I", file[head : head + 4])
    header = file[head + 8 : head + size].replace(b"\0\0\0\x11", b"\0\0\0\x10")  # grey: sRGB
    header += box(b"pclr", struct.pack(">HB3B", count, 3, 7, 7, 7) + colours)
    header += box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    changed = file[:head] + box(b"jp2h", header) + file[head + size :]
    return ("palette.jp2", "JPEG 2000", "a palette", changed, 0)


def read_files() -> list[tuple[str, str, str, bytes, int]]:
    """Return name, format, kind, content and tolerance of each file that is read."""
    rgb = drawing()
    alpha = rgb.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    grey = rgb.convert("L")
    gray_alpha = alpha.convert("LA")
    palette = rgb.quantize(60)
    frames = [rgb.transpose(Image.Transpose.ROTATE_180)]
    grainy = Image.fromarray(np.tile(np.array(rgb), (4, 4, 1)))
    return [
        ("progressive.jpg", "JPEG", "progressive", saved(rgb, "JPEG", progressive=True), 2),
        ("cmyk.jpg", "JPEG", "CMYK", saved(rgb.convert("CMYK"), "JPEG", quality=95), 2),
        (
            "mpo.jpg",
            "JPEG",
            "MPO: the first image",
            saved(rgb, "MPO", save_all=True, append_images=frames),
            2,
        ),
        ("ultra-hdr.jpg", "JPEG", "Ultra HDR: the base image", ultra_hdr(rgb), 2),
        ("gray-alpha.png", "PNG", "grey with alpha", saved(gray_alpha, "PNG"), 0),
        ("palette.png", "PNG", "a palette", saved(palette, "PNG"), 0),
        (
            "apng.png",
            "PNG",
            "animated: the first image",
            saved(rgb, "PNG", save_all=True, append_images=frames),
            0,
        ),
        (
            "lossy-alpha.webp",
            "WebP",
            "lossy with alpha, which is dropped",
            saved(alpha, "WEBP", quality=90),
            0,
        ),
        ("lossless.webp", "WebP", "lossless", saved(rgb, "WEBP", lossless=True), 0),
        (
            "lossless-alpha.webp",
            "WebP",
            "lossless with alpha",
            saved(alpha, "WEBP", lossless=True, exact=True),
            0,
        ),
        (
            "animated.webp",
            "WebP",
            "lossy and animated: the first frame",
            saved(rgb, "WEBP", save_all=True, append_images=frames),
            0,
        ),
        (
            "444.avif",
            "AVIF",
            "8 bits, 4:4:4",
            saved(rgb, "AVIF", subsampling="4:4:4", quality=95),
            2,
        ),
        (
            "422.avif",
            "AVIF",
            "8 bits, 4:2:2",
            saved(rgb, "AVIF", subsampling="4:2:2", quality=95),
            2,
        ),
        ("400.avif", "AVIF", "grey", saved(grey, "AVIF", subsampling="4:0:0", quality=95), 2),
        ("alpha.avif", "AVIF", "with alpha, which is dropped", saved(alpha, "AVIF", quality=95), 2),
        (
            "limited.avif",
            "AVIF",
            "limited range",
            saved(rgb, "AVIF", range="limited", quality=95),
            2,
        ),
        (
            "animated.avif",
            "AVIF",
            "animated: the first image",
            undated(saved(rgb, "AVIF", save_all=True, append_images=frames, quality=95)),
            2,
        ),
        ("tall.avif", "AVIF", "several blocks", saved(grainy, "AVIF", quality=95), 3),
        (
            "large.avif",
            "AVIF",
            "2.6 megapixels",
            saved(rgb.resize((1600, 1600)), "AVIF", quality=60, speed=9),
            6,
        ),
        *jpeg2000_files(rgb, alpha),
        ("rgba.bmp", "BMP", "32 bits", saved(alpha, "BMP"), 0),
        ("palette.bmp", "BMP", "a palette of 8 bits", saved(palette, "BMP"), 0),
        ("bilevel.bmp", "BMP", "1 bit", saved(rgb.convert("1"), "BMP"), 0),
        ("interlaced.gif", "GIF", "interlaced", saved(palette, "GIF", interlace=1), 0),
        ("packbits.tiff", "TIFF", "PackBits", saved(rgb, "TIFF", compression="packbits"), 0),
        (
            "lzw-predictor.tiff",
            "TIFF",
            "LZW with a predictor",
            saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
            0,
        ),
        (
            "deflate.tiff",
            "TIFF",
            "Deflate",
            saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
            0,
        ),
        (
            "g3.tiff",
            "TIFF",
            "fax of group 3",
            saved(rgb.convert("1"), "TIFF", compression="group3"),
            0,
        ),
        ("gray-alpha.tiff", "TIFF", "grey with alpha", saved(gray_alpha, "TIFF"), 0),
        ("palette.tiff", "TIFF", "a palette", saved(palette, "TIFF", compression="tiff_lzw"), 0),
        ("cmyk.tiff", "TIFF", "CMYK", saved(rgb.convert("CMYK"), "TIFF"), 0),
        ("gray.tiff", "TIFF", "grey, Deflate", saved(grey, "TIFF", compression="tiff_deflate"), 0),
        *bmp_files(),
    ]


def refused_files() -> list[tuple[str, str, str, bytes, str]]:
    """Return name, format, kind, content and text of each file that is refused by its name."""
    rgb = drawing()
    heic = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    return [
        (
            "lossless.jpg",
            "JPEG",
            "lossless compression",
            lossless_jpeg(rgb),
            "lossless compression",
        ),
        (
            "lab.tiff",
            "TIFF",
            "CIE Lab colours",
            saved(Image.new("LAB", (8, 8)), "TIFF"),
            "CIE L*a*b*",
        ),
        (
            "float.tiff",
            "TIFF",
            "floating-point samples",
            saved(Image.new("F", (8, 8)), "TIFF"),
            "floating-point",
        ),
        (
            "zstd.tiff",
            "TIFF",
            "Zstandard compression",
            saved(rgb, "TIFF", compression="zstd"),
            "Zstandard",
        ),
        ("lzma.tiff", "TIFF", "LZMA compression", saved(rgb, "TIFF", compression="lzma"), "LZMA"),
        (
            "old-lzw.tiff",
            "TIFF",
            "LZW compression of the old kind",
            tiff(5, 2, bytes.fromhex("0001000804")),
            "LZW compression of the old kind",
        ),
        (
            "progressive-jpeg.tiff",
            "TIFF",
            "progressive JPEG compression",
            tiff(7, 6, saved(rgb, "JPEG", progressive=True)),
            "progressive JPEG compression",
        ),
        (
            "cmyk.jp2",
            "JPEG 2000",
            "a colour space other than sRGB, grey and sYCC",
            saved(rgb.convert("RGBA"), "JPEG2000").replace(
                b"\x01\0\0\0\0\0\x10", b"\x01\0\0\0\0\0\x0c", 1
            ),
            "the colour space 12",
        ),
        ("jxl.jxl", "JPEG XL", "every kind", b"\xff\x0a" + bytes(16), "JPEG XL"),
        ("heic.heic", "HEIC", "every kind", heic, "HEIC"),
        ("icon.ico", "ICO", "every kind", saved(rgb, "ICO", sizes=[(16, 16)]), "ICO"),
        ("ppm.ppm", "PNM", "every kind", saved(rgb, "PPM"), "PNM"),
        ("tga.tga", "TGA", "every kind", saved(rgb, "TGA"), "TGA"),
        ("psd.psd", "Photoshop", "every kind", b"8BPS\0\1" + bytes(32), "Photoshop"),
    ]


def main(arguments: list[str]) -> int:
    """Write the files and their lines in cases.json, and return the exit status 0."""
    command.parser("formats", __doc__).parse_args(arguments)
    folder = testdata() / "formats"
    cases = [c for c in json.loads((folder / "cases.json").read_text()) if not c.get("made")]
    for name, form, kind, content, tolerance in read_files():
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        places = [
            (1, 1),
            (width - 2, 1),
            (1, height - 2),
            (width - 2, height - 2),
            (width // 2, height // 2),
        ]
        pixels = [
            {"x": x, "y": y, "rgb": "{:02x}{:02x}{:02x}".format(*image.getpixel((x, y)))}
            for x, y in places
        ]
        case = {
            "file": name,
            "format": form,
            "kind": kind,
            "width": width,
            "height": height,
            "tolerance": tolerance,
            "pixels": pixels,
        }
        cases.append(case | {"made": True})
        write(folder / name, content)
    for name, form, kind, content, text in refused_files():
        cases.append({"file": name, "format": form, "kind": kind, "refused": text, "made": True})
        write(folder / name, content)
    order = ["JPEG", "PNG", "WebP", "AVIF", "JPEG 2000", "GIF", "BMP", "TIFF"]
    cases.sort(
        key=lambda c: (
            order.index(c["format"]) if c["format"] in order else len(order),
            "refused" in c,
        )
    )
    (folder / "cases.json").write_text(
        "[\n" + ",\n".join("  " + json.dumps(c) for c in cases) + "\n]\n"
    )
    return 0


def write(path: Path, content: bytes) -> None:
    """Write a file of testdata/formats."""
    path.write_bytes(content)
