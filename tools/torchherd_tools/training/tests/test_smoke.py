"""A model from start to end: train, export, serve, translate. `make model-smoke` runs it alone."""

import io
import shlex

import pytest
from PIL import Image

from torchherd_tools import serving
from torchherd_tools.training import train


@pytest.fixture
def folders(root, tmp_path):
    """Two folders with a few photographs each."""
    photographs = sorted((root / "testdata" / "pictures").glob("jpeg-[0-9lops]*.jpg"))
    for name, chosen in (("a", photographs[::2]), ("b", photographs[1::2])):
        (tmp_path / name).mkdir()
        for path in chosen:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    return tmp_path / "a", tmp_path / "b"


def test_trained_model_is_served(root, torchherd, folders, tmp_path):
    a, b = folders
    model = tmp_path / "model.pt"
    recipe = ["--ngf", "8", "--blocks", "2", "--ndf", "8", "--crop", "64", "--steps", "20"]
    arguments = [str(tmp_path / "run"), "--a", str(a), "--b", str(b), "--export", str(model)]
    assert train.main([*arguments, *recipe]) == 0

    image = (root / "testdata" / "pictures" / "jpeg-420.jpg").read_bytes()
    addresses = ["--listen", "127.0.0.1:{port}", "--admin-listen", "off"]
    command = shlex.join([str(torchherd), "serve", *addresses, str(model)])
    with serving.started(command, 60) as url:
        serving.wait_until_serving(url, image, 60)
        response = serving.put(url, image)
    assert response.status == 200
    im = Image.open(io.BytesIO(response.body))
    assert (im.format, im.mode, im.size) == ("JPEG", "RGB", (228, 228))
    assert len(im.getcolors(228 * 228)) > 100, "the response is flat"
