"""The whole way of a model: train, export, serve, translate. `make model-smoke` runs it alone."""

import io

import pytest
from PIL import Image

import serving
import train


@pytest.fixture
def folders(root, tmp_path):
    """Two folders with a handful of photographs each."""
    photographs = sorted((root / "testdata" / "pictures").glob("jpeg-[0-9lops]*.jpg"))
    for name, taken in (("a", photographs[::2]), ("b", photographs[1::2])):
        (tmp_path / name).mkdir()
        for path in taken:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    return tmp_path / "a", tmp_path / "b"


def test_trained_model_is_served(root, folders, tmp_path):
    a, b = folders
    model = tmp_path / "model.pt"
    recipe = ["--ngf", "8", "--blocks", "2", "--ndf", "8", "--crop", "64", "--steps", "20"]
    arguments = [str(tmp_path / "run"), "--a", str(a), "--b", str(b), "--export", str(model)]
    assert train.main([*arguments, *recipe]) == 0

    server = root / "bin" / "torchherd"
    assert server.exists(), f"{server} is missing; make build makes it"
    picture = (root / "testdata" / "pictures" / "jpeg-420.jpg").read_bytes()
    addresses = "--listen 127.0.0.1:{port} --admin-listen off"
    with serving.started(f"{server} serve {addresses} {model}", 60) as url:
        serving.await_answer(url, picture, 60)
        answer = serving.put(url, picture)
    assert answer.status == 200
    im = Image.open(io.BytesIO(answer.body))
    assert (im.format, im.mode, im.size) == ("JPEG", "RGB", (228, 228))
    assert len(im.getcolors(228 * 228)) > 100, "the answer is flat"
