import io
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from torchherd_tools import serving


@pytest.fixture
def newer_libjpeg(tmp_path):
    """A folder with libjpeg-turbo 3 under the name by which the server loads it."""
    bundled = Path(PIL.__path__[0]).parent / "pillow.libs"
    found = sorted(bundled.glob("libjpeg-*.so.62.*"))
    if not found:
        pytest.skip("this Pillow has no libjpeg-turbo of its own")
    (tmp_path / "libjpeg.so.62").symlink_to(found[0].resolve())
    return tmp_path


def test_lossless_jpeg(torchherd, root, newer_libjpeg):
    file = (root / "testdata" / "formats" / "lossless.jpg").read_bytes()
    model = root / "testdata" / "modules" / "identity.pt"
    command = (
        f"env 'LD_LIBRARY_PATH={newer_libjpeg}' '{torchherd}' serve --listen=127.0.0.1:{{port}} "
        f"--admin-listen=off --size=keep '{model}'"
    )
    with serving.started(command, 60) as url:
        serving.wait_until_serving(url, file, 60)
        response = serving.put(url + "?format=png", file)
    with Image.open(io.BytesIO(response.body)) as answer, Image.open(io.BytesIO(file)) as sent:
        np.testing.assert_array_equal(np.array(answer), np.array(sent))
