import csv
import io
import shutil

import numpy as np
import pytest
from PIL import Image, ImageCms

from torchherd_tools.parity import corpus

# Files of testdata/formats, and what becomes of them.
FILES = {
    "progressive.jpg": corpus.SAME,
    "palette.png": corpus.SAME,
    "gif-transparent.gif": corpus.SAME,
    "tiff-rgba16-associated.tiff": corpus.PIXELS,  # libtiff rounds, Pillow doesn't
    "gif-frame-larger-than-screen.gif": corpus.SIZE,
    "float.tiff": corpus.ONLY_PILLOW,
    "png-ancillary-crc.png": corpus.ONLY_TORCHHERD,
    "README.md": corpus.NEITHER,
}


@pytest.fixture
def folder(tmp_path):
    """An empty folder for images."""
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def test_differences_are_found_and_shown(torchherd, root, tool, folder, tmp_path):
    below = folder / "below" / "another"
    below.mkdir(parents=True)
    for name in FILES:
        shutil.copy(root / "testdata" / "formats" / name, below)
    hostile = folder / "<b>&amp;\udcff.PNG"
    shutil.copy(below / "float.tiff", hostile)
    (folder / ".hidden").write_text("not looked at")
    out = folder / "sheet"  # which isn't compared itself
    for _ in range(2):
        run = tool("parity-corpus", folder, "--out", out, "--jobs", 3)
        assert run.returncode == 1, run.stderr
    with (out / "files.csv").open(newline="", errors="surrogateescape") as file:
        found = {row["file"]: row for row in csv.DictReader(file)}
    expected = {f"below/another/{name}": result for name, result in FILES.items()}
    expected[hostile.name] = corpus.ONLY_PILLOW
    assert {name: row["result"] for name, row in found.items()} == expected
    assert "9 files: 3 same, 1 neither reads it, 1 other pixels, 1 other size" in run.stdout

    pixels = found["below/another/tiff-rgba16-associated.tiff"]
    assert pixels["levels"] == "3" and 0 < float(pixels["share"]) < 1
    assert (pixels["width"], pixels["height"], pixels["status"]) == ("40", "30", "200")
    assert float(pixels["torchherd_ms"]) > 0 and float(pixels["pillow_ms"]) > 0
    refused = found["below/another/float.tiff"]
    assert refused["status"] == "422" and "floating-point" in refused["torchherd"]

    sheet = (out / "index.html").read_text()
    assert "floating-point" in sheet and "&lt;b&gt;&amp;amp;?.PNG" in sheet and "<b>" not in sheet
    names = [part.split('"')[0] for part in sheet.split('<img src="')[1:]]
    # Three for other pixels, two for another size, one for what one of them reads.
    assert len(names) == 3 + 2 + 3
    for name in names:
        with Image.open(out / name) as image:
            assert max(image.size) <= corpus.THUMBNAIL


def test_all_agree(torchherd, root, tool, folder, tmp_path):
    for name in ("exif-6.jpg", "png-rgba.png"):
        shutil.copy(root / "testdata" / "pictures" / name, folder)
    run = tool("parity-corpus", folder, "--out", tmp_path / "out", "--levels", 0)
    assert run.returncode == 0, run.stderr + run.stdout
    assert run.stdout.startswith("2 files: 2 same")
    assert "<h2>" not in (tmp_path / "out" / "index.html").read_text()


def test_no_files(tool, folder):
    run = tool("parity-corpus", folder)
    assert run.returncode == 1
    assert run.stderr.endswith("name a folder of images\n") and run.stderr.count("\n") == 1


def test_no_server(tool, folder):
    (folder / "file").write_bytes(b"")
    run = tool("parity-corpus", folder, "--server", "http://127.0.0.1:1/image")
    assert run.returncode == 1 and "is the server running?" in run.stderr


@pytest.mark.parametrize("status", [0, 500, 503])
def test_a_failure_never_agrees(status):
    ours, theirs = corpus.Reading(None, status=status), corpus.Reading(None)
    assert corpus.compare("file", ours, theirs, 2).result == corpus.FAILED


def png(image, **options):
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def test_pillow_turns_and_drops_alpha():
    image = Image.new("RGBA", (2, 3), (10, 20, 30, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    read = corpus.pillow(png(image, exif=exif)).image
    assert read.size == (3, 2) and read.getpixel((0, 0)) == (10, 20, 30)


def test_pillow_converts_colours(root):
    path = root / "testdata" / "colour" / "prophoto.png"
    with Image.open(path) as image:
        plain = np.asarray(image.convert("RGB"), int)
    read = np.asarray(corpus.pillow(path.read_bytes()).image)
    assert abs(read - plain).max() > 20


def test_pillow_ignores_broken_profiles_and_those_of_another_kind():
    image = Image.new("RGB", (1, 1), (10, 20, 30))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"nonsense", lab):
        assert corpus.pillow(png(image, icc_profile=profile)).image.getpixel((0, 0)) == (10, 20, 30)


def test_pillow_keeps_the_upper_bits_of_16():
    image = Image.fromarray(np.full((1, 1), 0x8012, np.uint16))
    assert corpus.pillow(png(image)).image.getpixel((0, 0)) == (0x80, 0x80, 0x80)


def test_pillow_says_why_it_refuses():
    assert "recognizes" in corpus.pillow(b"text").text
    whole = png(Image.effect_noise((64, 64), 50))
    assert corpus.pillow(whole[: len(whole) // 2]).text.startswith("OSError: ")
