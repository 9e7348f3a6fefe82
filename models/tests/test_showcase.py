import io

import numpy as np
import pytest
from PIL import Image

import showcase


@pytest.fixture
def command(root):
    """Serves the negating module at each picture's own size."""
    server = root / "bin" / "torchherd"
    assert server.exists(), f"{server} is missing; make build makes it"
    negate = root / "testdata" / "modules" / "negate.pt"
    addresses = "--listen 127.0.0.1:{port} --admin-listen off"
    return f"{server} serve --size keep --log-level error {addresses} {negate}"


def test_sheet_shows_photographs_above_their_answers(command, root, tmp_path):
    own = str(root / "testdata" / "pictures" / "jpeg-420.jpg")
    out = tmp_path / "sheet.jpg"
    flags = ["--server-command", command, "--side", "200"]
    assert showcase.main([str(out), "skimage:chelsea.png", own, *flags]) == 0
    made = np.asarray(Image.open(out), int)
    assert made.shape == (200 + showcase.GAP + 200, 200 + showcase.GAP + 200, 3)
    for left in (0, 200 + showcase.GAP):
        before, after = (made[top : top + 200, left : left + 200] for top in (0, 208))
        assert before.std() > 20
        assert np.abs(before + after - 255).mean() < 4


def test_pair_is_what_curl_gets(command, tmp_path):
    assert (
        showcase.main([str(tmp_path), "skimage:coffee.png", "--pair", "--server-command", command])
        == 0
    )
    before, after = (Image.open(tmp_path / f"{name}.jpg") for name in ("before", "after"))
    assert before.size == after.size == (228, 228)
    assert np.abs(np.asarray(before, int) + np.asarray(after, int) - 255).mean() < 4
    # Pillow's quality 75, the server's; not that of this script's own pictures.
    plain = io.BytesIO()
    after.save(plain, "JPEG", quality=75)
    assert after.quantization == Image.open(plain).quantization


@pytest.mark.parametrize(
    ("photograph", "side", "says"),
    [
        ("missing.jpg", "8", "missing.jpg: FileNotFoundError"),
        ("skimage:coffee.png", "401", "fewer than 401"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_line(command, tmp_path, capsys, photograph, side, says):
    flags = ["--server-command", command, "--side", side]
    assert showcase.main([str(tmp_path / "out.jpg"), photograph, *flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith("showcase.py: ") and says in message and message.count("\n") == 1
