import io
import shutil

import numpy as np
from PIL import Image

from torchherd_tools import serving


def test_pillow_reads_answers(torchherd, root, tmp_path):
    """Pillow reads the AVIF responses, with the model's pixels and alpha."""
    file = (root / "testdata" / "formats" / "lossless-alpha.webp").read_bytes()
    model = tmp_path / "identity"
    (model / "1").mkdir(parents=True)
    shutil.copy(root / "testdata" / "modules" / "identity.pt", model / "1" / "model.pt")
    (model / "model.yaml").write_text("size: keep\nalpha: keep\n")
    command = f"'{torchherd}' serve --listen=127.0.0.1:{{port}} --admin-listen=off '{model}'"
    with serving.started(command, 60) as url:
        serving.wait_until_serving(url, file, 60)
        answers = {
            quality: serving.put(f"{url}?format=avif&quality={quality}", file)
            for quality in (50, 95)
        }
    with Image.open(io.BytesIO(file)) as sent:
        want = np.array(sent.convert("RGBA"), int)
    differences = []
    for answer in answers.values():
        assert answer.headers["Content-Type"] == "image/avif"
        with Image.open(io.BytesIO(answer.body)) as image:
            assert (image.format, image.mode) == ("AVIF", "RGBA")
            got = np.array(image, int)
        np.testing.assert_array_equal(got[..., 3], want[..., 3])
        differences.append(np.abs(got - want)[..., :3].mean())
    assert differences[1] < 2 < 2 * differences[0]
    assert len(answers[50].body) < len(answers[95].body)
