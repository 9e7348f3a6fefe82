"""The bundled model matches its card, and does its task."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage import data as photographs

from torchherd_tools import files
from torchherd_tools.models import formats, generator, info
from torchherd_tools.training import evaluate


@pytest.fixture
def folder(root):
    return root / "models" / "photo2ink"


def test_card_describes_the_file(folder):
    data = (folder / "model.pt").read_bytes()
    card = (folder / "README.md").read_text()
    assert len(data) <= 4 << 20
    assert files.sha256(data) in card
    assert f"{len(data):,} bytes" in card
    lines = info.describe(folder / "model.pt")
    assert lines["architecture"] == generator.Layout(16, 6, True).describe()
    assert lines["input"] == "float32 [N, 3, H, W] in 0..1, images of size 228x228"


def test_every_training_image_has_a_licence(folder):
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["set"] for row in rows} == {"a", "b", "held-out/a", "held-out/b"}
    free = ("CC0", "CC-BY-", "GPL-", "public domain")
    assert all(row["licence"].startswith(free) for row in rows)
    # No photograph is in two sets, so the card's evaluation uses none of the training images.
    assert len({(row["sha256"], row["set"]) for row in rows}) == len(
        {row["sha256"] for row in rows}
    )


@pytest.mark.parametrize("name", ["chelsea", "coffee", "astronaut", "rocket"])
def test_photographs_become_ink(folder, name):
    photograph = Image.fromarray(getattr(photographs, name)())
    photograph = np.array(ImageOps.fit(photograph, (228, 228)))
    drawn = evaluate.translator(formats.load_torchscript(folder / "model.pt"))(photograph)
    off_tone = [evaluate._off_tone(each).mean() for each in (photograph, drawn)]
    assert off_tone[1] < 6 and off_tone[1] < off_tone[0] / 2
    # The image has both ink and paper.
    assert np.percentile(drawn, 1) < 90 and np.percentile(drawn, 98) > 220


@pytest.mark.parametrize("side", [228, 512, 1024])
def test_bundled_model_takes_any_size(folder, side):
    module = formats.load_torchscript(folder / "model.pt")
    with torch.inference_mode():
        y = module(torch.rand(1, 3, side, side))
    assert y.shape == (1, 3, side, side)
    assert y.isfinite().all()
