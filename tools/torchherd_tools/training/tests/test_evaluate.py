import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from torchherd_tools.training import evaluate, looks, train

SIZE = (240, 232)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data in the format of the command data, a run of two steps, and its model."""
    folder = tmp_path_factory.mktemp("trained")
    for name, photograph in (
        ("a", photographs.chelsea()),
        ("b", photographs.coffee()),
        ("held-out/a", photographs.astronaut()),
        ("held-out/b", photographs.rocket()),
    ):
        image = Image.fromarray(photograph).resize(SIZE)
        if name.endswith("b"):
            image = Image.fromarray(looks.render(np.array(image), "ink", 1))
        (folder / "data" / name).mkdir(parents=True)
        image.save(folder / "data" / name / "0.png")
    (folder / "data" / "manifest.csv").write_text("file,look\na/0.png,\nb/0.png,ink\n")
    recipe = ["--steps", "2", "--ngf", "2", "--blocks", "1", "--ndf", "2", "--crop", "32"]
    a, b = (str(folder / "data" / name) for name in ("a", "b"))
    arguments = ["--a", a, "--b", b, *recipe, "--export", str(folder / "model.pt")]
    assert train.main([str(folder / "run"), *arguments]) == 0
    return folder


def test_figures_separate_the_look_from_photographs(trained, tmp_path, capsys):
    out = tmp_path / "figures.json"
    arguments = [trained / "data", trained / "run", trained / "model.pt", "--out", out]
    assert evaluate.main([*map(str, arguments)]) == 0
    found = json.loads(out.read_text())
    no_op, model, look = found["ways"].values()
    assert look["kid"] < no_op["kid"]
    assert look["like_look"] == 1 > model["like_look"]
    assert look["chroma"] < 5 < no_op["chroma"]
    assert look["border"] is None and model["border"] > 0
    assert 0 < found["cycle"]["a"] < 1
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in ("no-op", "model", "the look itself (ink)"))


def test_kid_is_zero_for_one_distribution_and_grows_with_the_distance():
    source = torch.Generator().manual_seed(0)
    one, same, other = (torch.randn(80, 16, generator=source).double() for _ in range(3))
    distance, error = evaluate.kid(one, same)
    assert abs(distance) < error
    near, far = (evaluate.kid(one, other + shift)[0] for shift in (0.5, 1))
    assert error < near < far


def test_windows_reach_every_edge():
    x = torch.arange(300 * 500).reshape(1, 300, 500)
    covered = torch.cat([window.flatten() for window in evaluate._windows(x)]).unique()
    assert torch.equal(covered, x.flatten())


def test_a_grid_raises_its_figure():
    smooth = np.array(Image.fromarray(photographs.coffee()).resize(SIZE))
    assert evaluate._grid(smooth) == pytest.approx(1, abs=0.5)
    for period in (2, 4):
        grid = smooth.copy()
        grid[::period, ::period] = np.clip(grid[::period, ::period].astype(int) + 24, 0, 255)
        assert evaluate._grid(grid) > 5


def test_a_border_raises_its_figure():
    one = np.full((40, 50, 3), 100, np.uint8)
    other = one + 10
    assert evaluate._border([(one, other)]) == pytest.approx(1)
    other[: evaluate.BORDER] += 20
    assert evaluate._border([(one, other)]) > 1.5
    assert evaluate._border([(one, one)]) is None


def test_colour_raises_its_figure():
    ink, paper = (255 * tone for tone in (looks.INK, looks.PAPER))
    tones = np.linspace(ink, paper, 20)[None].astype(np.uint8)
    assert evaluate._off_tone(tones).max() < 3
    assert evaluate._off_tone(np.array([[[200, 40, 40]]], np.uint8)).min() > 40


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda data: (data / "held-out/b/0.png").unlink(), "holds no images"),
        (lambda data: Image.new("RGB", (223, 300)).save(data / "held-out/b/0.png"), "223x300"),
        (lambda data: (data / "manifest.csv").unlink(), "manifest.csv"),
    ],
)
def test_errors_are_one_line(trained, tmp_path, capsys, break_it, says):
    for path in (trained / "data").rglob("*.*"):
        copy = tmp_path / path.relative_to(trained / "data")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    break_it(tmp_path)
    assert evaluate.main([str(tmp_path), str(trained / "run"), str(trained / "model.pt")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("evaluate: ") and says in message and message.count("\n") == 1
