import io
import shlex

import numpy as np
import pytest
from PIL import Image

from torchherd_tools.models import showcase


@pytest.fixture
def command(root, torchherd):
    """The command that serves the negating module and keeps the size of images."""
    negate = root / "testdata" / "modules" / "negate.pt"
    addresses = ["--listen", "127.0.0.1:{port}", "--admin-listen", "off"]
    flags = ["--size", "keep", "--log-level", "error"]
    return shlex.join([str(torchherd), "serve", *flags, *addresses, str(negate)])


def test_sheet_has_photographs_above_their_responses(command, root, tmp_path):
    own = str(root / "testdata" / "pictures" / "jpeg-420.jpg")
    out = tmp_path / "sheet.jpg"
    flags = ["--server-command", command, "--side", "200"]
    assert showcase.main([str(out), "skimage:chelsea.png", own, *flags]) == 0
    sheet = np.asarray(Image.open(out), int)
    assert sheet.shape == (200 + showcase.GAP + 200, 200 + showcase.GAP + 200, 3)
    for left in (0, 200 + showcase.GAP):
        before, after = (sheet[top : top + 200, left : left + 200] for top in (0, 208))
        assert before.std() > 20
        assert np.abs(before + after - 255).mean() < 4


def test_pair_is_the_bytes_that_were_sent_and_received(command, tmp_path):
    assert (
        showcase.main([str(tmp_path), "skimage:coffee.png", "--pair", "--server-command", command])
        == 0
    )
    before, after = (Image.open(tmp_path / f"{name}.jpg") for name in ("before", "after"))
    assert before.size == after.size == (228, 228)
    assert np.abs(np.asarray(before, int) + np.asarray(after, int) - 255).mean() < 4
    # The server's quality is 75, that of the command's own images is not.
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
def test_errors_are_one_line(command, tmp_path, capsys, photograph, side, says):
    flags = ["--server-command", command, "--side", side]
    assert showcase.main([str(tmp_path / "out.jpg"), photograph, *flags]) == 1
    message = capsys.readouterr().err
    assert message.startswith("showcase: ") and says in message and message.count("\n") == 1
