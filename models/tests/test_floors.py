import json
import subprocess
import sys

import pytest

import servers


def run(*command):
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def pictures(root):
    return [root / "testdata" / "pictures" / f"jpeg-{name}.jpg" for name in ("228", "small")]


def test_codec_prints_a_line_for_each_picture(pictures):
    done = run(servers.FLOORS, "codec", "--threads", "2", "--seconds", "1", *pictures)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["picture"] for each in told] == [*map(str, pictures)]
    assert all(each["pictures"] > 0 and each["pictures_per_second"] > 0 for each in told)


@pytest.mark.parametrize("allocator", ["system", "kept"])
def test_forward_counts_whole_batches(root, allocator):
    model = root / "testdata" / "modules" / "negate.pt"
    limits = ("--batch", "3", "--threads", "1", "--seconds", "1", "--allocator", allocator)
    done = run(servers.FLOORS, "forward", model, *limits)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pictures"] > 0 and told["pictures"] % 3 == 0
    assert (told["allocator"], told["batch"], told["threads"]) == (allocator, 3, 1)


def test_lone_takes_one_picture_at_a_time(root, pictures):
    model = root / "testdata" / "modules" / "negate.pt"
    done = run(servers.FLOORS, "lone", model, pictures[0], "--seconds", "1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pictures"] > 0 and 0 < told["p50_ms"] < 1000


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
    done = run(servers.FLOORS, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("floors: ") and says in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_loop(root):
    model = root / "testdata" / "modules" / "negate.pt"
    limits = ("--batch", "2", "--threads", "1", "--seconds", "0.1")
    done = run(sys.executable, servers.EAGER, model, *limits)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("pictures_per_second") > 0
    assert told == {"floor": "torchscript", "batch": 2, "threads": 1}
