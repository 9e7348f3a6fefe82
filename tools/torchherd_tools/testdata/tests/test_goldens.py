import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from torchherd_tools import files
from torchherd_tools.models import formats
from torchherd_tools.testdata import goldens


@pytest.fixture
def testdata(root):
    return root / "testdata"


@pytest.fixture
def manifest(testdata):
    return json.loads((testdata / "goldens" / "goldens.json").read_text())


def test_manifest_and_folders_hold_the_same_files(testdata, manifest):
    pictures = {picture["file"] for picture in manifest["pictures"]}
    assert {f"pictures/{p.name}" for p in (testdata / "pictures").iterdir()} == pictures | {
        "pictures/LICENSES.md"
    }
    named = {"goldens.json", manifest["forward"]["input"], manifest["forward"]["output"]}
    for entry in (*manifest["pictures"], *manifest["resize"]["cases"]):
        named |= {entry[key] for key in ("input", "negate", "bundled", "output") if key in entry}
    assert {path.name for path in (testdata / "goldens").iterdir()} == named


def test_every_image_has_its_licence(testdata):
    text = (testdata / "pictures" / "LICENSES.md").read_text()
    for path in (testdata / "pictures").iterdir():
        assert path.name == "LICENSES.md" or f"`{path.name}`" in text


def test_golden_inputs_are_those_of_pillow(testdata, manifest):
    checked = {"jpeg-420", "exif-6", "png-rgba", "webp-lossy", "jpeg-cmyk"}
    for entry in manifest["pictures"]:
        if entry["name"] in checked:
            im = ImageOps.exif_transpose(Image.open(testdata / entry["file"]))
            assert im.size == (entry["width"], entry["height"])
            pixels = goldens.model_input(im).tobytes()
            # Another version of a decoder may differ by one or two levels in a few pixels.
            golden = Image.open(testdata / "goldens" / entry["input"])
            assert files.sha256(golden.tobytes()) == entry["input_sha256"]
            difference = np.frombuffer(pixels, np.uint8).astype(int) - np.asarray(golden).ravel()
            assert np.abs(difference).max() <= 2, entry["name"]


def test_gray_images_are_refused(manifest):
    refused = {p["name"] for p in manifest["pictures"] if p["expect"] == "need rgb image"}
    assert refused == {
        "jpeg-gray",
        "png-gray",
        "png-gray16",
        "png-gray-alpha",
        "png-bilevel",
    }


def test_rotated_images_have_the_same_content(testdata, manifest):
    upright = [
        np.asarray(Image.open(testdata / "goldens" / p["input"])).astype(float)
        for p in manifest["pictures"]
        if p["name"].startswith("exif-")
    ]
    assert len(upright) == 8
    for im in upright[1:]:
        # JPEG blurs colours in blocks, whose positions differ in a rotated image. A wrong rotation
        # differs by more than 30.
        assert np.abs(im - upright[0]).mean() < 4
        assert np.abs(im[::-1, ::-1] - upright[0]).mean() > 30


def test_forward_golden(root, testdata, manifest):
    forward = manifest["forward"]
    x, y = (
        torch.from_numpy(np.fromfile(testdata / "goldens" / forward[key], "<f4").copy())
        for key in ("input", "output")
    )
    model = root / forward["model"]
    assert files.sha256(model.read_bytes()) == forward["model_sha256"]
    got = formats.load_torchscript(model)(x.reshape(forward["shape"]))
    torch.testing.assert_close(got, y.reshape(forward["shape"]), atol=1e-5, rtol=0)


def test_noise_follows_the_description_in_the_manifest(manifest):
    # Numerical Recipes prints 3C6EF35F, 47502932, D1CCF6E9, AAF95334 for the seed 0.
    assert goldens.lcg_bytes(0, 4) == bytes([0x3C, 0x47, 0xD1, 0xAA])
    case = manifest["resize"]["cases"][0]
    noise = goldens.lcg_bytes(case["seed"], case["width"] * case["height"] * 3)
    assert files.sha256(noise) == case["input_sha256"]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 13)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_writer(interlaced, size, channels):
    values = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    read = np.asarray(Image.open(io.BytesIO(goldens.png(values, interlaced))))
    assert np.array_equal(read.reshape(values.shape), values)


def test_sixteen_bits_keep_the_high_byte():
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(goldens.sixteen_bits(values) >> 8, values)
