import io
import math
import os
import shlex
import sys

import pytest
from PIL import Image, ImageChops

from torchherd_tools import serving
from torchherd_tools.parity import compare


def jpeg(im, **options):
    out = io.BytesIO()
    im.save(out, format="JPEG", **options)
    return serving.Response(200, out.getvalue())


@pytest.fixture
def im(root):
    return Image.open(root / "testdata" / "goldens" / "jpeg-228.input.png")


def test_same_bytes(im):
    assert compare.compare(jpeg(im), jpeg(im)) == compare.Verdict(True, "same bytes")


def test_same_pixels(im):
    verdict = compare.compare(jpeg(im), jpeg(im, comment=b"another file"))
    assert verdict == compare.Verdict(True, "same pixels")


def test_threshold(im):
    noise = ImageChops.add(im, Image.new("RGB", im.size, (3, 3, 3)))
    verdict = compare.compare(jpeg(noise), jpeg(im))
    assert not verdict.agrees and verdict.text.endswith(" dB")
    assert compare.compare(jpeg(noise), jpeg(im), least=30).agrees


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda im: jpeg(im, quality=76), "other quantization tables"),
        (lambda im: jpeg(im, subsampling="4:4:4"), "other subsampling: 4:4:4, reference 4:2:0"),
        (lambda im: jpeg(im.crop((0, 0, 227, 228))), "other size: (227, 228)"),
        (lambda im: jpeg(im.convert("L")), "other mode: L, reference RGB"),
        (lambda im: serving.Response(200, b"hello"), "not a JPEG"),
        (lambda im: serving.Response(503, b"I'm too busy"), "status 503, reference 200"),
    ],
)
def test_differences_are_named(im, change, says):
    verdict = compare.compare(change(im), jpeg(im))
    assert not verdict.agrees
    assert verdict.text.startswith(says)


def test_equal_errors_agree():
    assert compare.compare(serving.Response(500, b"one"), serving.Response(500, b"other")).agrees


def test_psnr_of_one_level_is_48_dB(im):  # noqa: N802
    dark, light = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (1, 1, 1))
    assert compare.psnr(dark, light) == pytest.approx(48.13, abs=0.01)
    assert compare.psnr(im, im) == math.inf


def test_a_command_that_exits_is_an_error():
    with (
        pytest.raises(serving.ServingError, match="exited with status 3"),
        serving.started(shlex.join([sys.executable, "-c", "exit(3)"]), 30),
    ):
        pass


def test_a_command_that_never_listens_is_stopped(tmp_path):
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with (
        pytest.raises(serving.ServingError, match="does not listen"),
        serving.started(shlex.join([sys.executable, "-c", code]), 1.5),
    ):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_whole_command(tool, root, torchherd):
    def server(module):
        flags = ["--compat", "sanic", "--max-wait", "0s", "--admin-listen", "off"]
        file = root / "testdata" / "modules" / f"{module}.pt"
        address = "127.0.0.1:{port}"
        return shlex.join([str(torchherd), "serve", *flags, "--listen", address, str(file)])

    images = [root / "testdata" / "pictures" / f"jpeg-{n}.jpg" for n in ("228", "gray")]
    with serving.started(server("negate"), 60) as url:
        done = tool("parity", "--server", url, "--reference", url, *images)
        assert done.returncode == 0, done.stderr
        assert "2 of 2 agree" in done.stdout
        done = tool(
            *("parity", "--server-command", server("identity"), "--reference", url, *images)
        )
        assert done.returncode == 1
        assert "FAIL  jpeg-228.jpg" in done.stdout
        assert "both respond with 500" in done.stdout
