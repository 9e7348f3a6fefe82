import json
import subprocess

import pytest

from torchherd_tools import paths
from torchherd_tools.bench import eager


def run(*command):
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def images(root):
    return [root / "testdata" / "pictures" / f"jpeg-{name}.jpg" for name in ("228", "small")]


def test_codec_prints_a_line_for_each_image(images):
    done = run(paths.floors(), "codec", "--threads", "2", "--seconds", "1", *images)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["picture"] for each in results] == [*map(str, images)]
    assert all(each["pictures"] > 0 and each["pictures_per_second"] > 0 for each in results)


@pytest.mark.parametrize("allocator", ["system", "kept"])
def test_forward_counts_whole_batches(root, allocator):
    model = root / "testdata" / "modules" / "negate.pt"
    limits = ("--batch", "3", "--threads", "1", "--seconds", "1", "--allocator", allocator)
    done = run(paths.floors(), "forward", model, *limits)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["pictures"] > 0 and result["pictures"] % 3 == 0
    assert (result["allocator"], result["batch"], result["threads"]) == (allocator, 3, 1)


def test_lone_takes_one_image_at_a_time(root, images):
    model = root / "testdata" / "modules" / "negate.pt"
    done = run(paths.floors(), "lone", model, images[0], "--seconds", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["pictures"] > 0 and 0 < result["p50_ms"] < 1000


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "wanted codec, forward or lone"),
        (("codec",), 2, "needs a PICTURE"),
        (("codec", "--threads", "0", "x.jpg"), 2, "--threads: wanted a whole number"),
        (("codec", "--size", "228", "x.jpg"), 2, "--size: wanted WIDTHxHEIGHT"),
        (("codec", "--speed", "1", "x.jpg"), 2, "unknown flag --speed"),
        (("codec", "missing.jpg"), 1, "missing.jpg: cannot be read"),
        (("forward", "m.pt", "--allocator", "own"), 2, "--allocator: wanted system or kept"),
        (("forward", "missing.pt"), 1, "missing.pt"),
        (("lone", "missing.pt"), 2, "needs a MODEL"),
        (("lone", "missing.pt", "x.jpg"), 1, "missing.pt"),
    ],
)
def test_failures_are_one_line(arguments, status, says):
    done = run(paths.floors(), *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("floors: ") and says in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_loop(root, capsys):
    model = str(root / "testdata" / "modules" / "negate.pt")
    assert eager.main([model, "--batch", "2", "--threads", "1", "--seconds", "0.1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("pictures_per_second") > 0
    assert result == {"floor": "torchscript", "batch": 2, "threads": 1}
