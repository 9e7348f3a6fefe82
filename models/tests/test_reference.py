import http.client
import io
import json
import shlex
import sys
import threading
import urllib.parse

import pytest
from PIL import Image

import parity
import serving


@pytest.fixture(scope="module")
def serve():
    """Starts reference servers, given a module's name and options; gives URLs. Ends them after."""
    from conftest import ROOT

    running = []

    def start(module, *options):
        path = ROOT / "testdata" / "modules" / f"{module}.pt"
        command = [sys.executable, str(ROOT / "bench" / "reference.py"), str(path), *options]
        context = serving.started(shlex.join([*command, "--threads", "1", "--port", "{port}"]), 60)
        url = context.__enter__()
        running.append(context)
        return url

    yield start
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def negate(serve):
    return serve("negate", "--wait", "0.05")


@pytest.fixture
def picture(root):
    return (root / "testdata" / "pictures" / "jpeg-420.jpg").read_bytes()


def in_parallel(url, pictures):
    answers = [None] * len(pictures)

    def send(i):
        answers[i] = serving.put(url, pictures[i])

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_answers_are_the_goldens(negate, root):
    testdata = root / "testdata"
    manifest = json.loads((testdata / "goldens" / "goldens.json").read_text())
    for entry in manifest["pictures"]:
        answer = serving.put(negate, (testdata / entry["file"]).read_bytes())
        if entry["expect"] != "ok":
            assert (answer.status, answer.body.decode()) == (500, entry["expect"])
            continue
        assert answer.status == 200, entry["name"]
        if "negate" in entry:
            golden = (testdata / "goldens" / entry["negate"]).read_bytes()
            assert parity.compare(answer, serving.Answer(200, golden)).agrees, entry["name"]


def test_refuses_what_is_no_picture(negate):
    answer = serving.put(negate, b"hello")
    assert (answer.status, answer.body) == (500, b"not a picture that can be read")


@pytest.mark.parametrize("chunked", [False, True])
def test_refuses_a_large_body(negate, chunked):
    url = urllib.parse.urlsplit(negate)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    if chunked:
        part = bytes(1 << 20)
        connection.putrequest("PUT", url.path)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(5):
            connection.send(b"%x\r\n" % len(part) + part + b"\r\n")
    else:
        # It answers to the header, before the body.
        connection.putrequest("PUT", url.path)
        connection.putheader("Content-Length", str((4 << 20) + 1))
        connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (500, b"Too large")
    connection.close()


def test_only_put_on_image(negate):
    assert serving.put(negate.replace("/image", "/other"), b"").status == 404


def test_three_share_a_batch_and_the_rest_is_refused(serve, picture):
    url = serve("batch_size", "--batch", "8", "--queue", "3", "--wait", "1.5")
    answers = in_parallel(url, [picture] * 6)
    refused = [answer.body for answer in answers if answer.status == 503]
    assert refused == [b"I'm too busy"] * 3
    for answer in answers:
        if answer.status == 200:
            assert Image.open(io.BytesIO(answer.body)).getpixel((0, 0)) == (3, 3, 3)


def test_goes_on_after_a_failed_batch_and_an_idle_time(serve, picture):
    url = serve("fails_on_black", "--wait", "0.005", "--batch", "1")
    black = io.BytesIO()
    Image.new("RGB", (8, 8)).save(black, format="PNG")
    for _ in range(3):
        assert serving.put(url, black.getvalue()).status == 500
        assert serving.put(url, picture).status == 200


def test_goes_on_after_a_model_that_loses_an_answer(serve, picture):
    url = serve("wrong_count", "--wait", "0.005")
    assert [serving.put(url, picture).status for _ in range(2)] == [500, 500]


def test_a_model_that_cannot_be_loaded_is_one_line(root):
    import subprocess

    command = [sys.executable, root / "bench" / "reference.py"]
    done = subprocess.run(
        [*command, root / "testdata" / "modules" / "garbage.pt"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "garbage.pt: cannot be loaded" in done.stderr
    assert done.stderr.count("\n") == 1
