import http.client
import io
import json
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from torchherd_tools import serving, testing
from torchherd_tools.parity import reference
from torchherd_tools.parity.compare import compare


@pytest.fixture(scope="module")
def serve(root):
    """Starts a reference server for a module and options, and returns its URL."""
    running = []

    def start(module, *options):
        path = root / "testdata" / "modules" / f"{module}.pt"
        port = serving.free_port()
        flags = [str(path), *options, "--threads", "1", "--port", str(port)]
        process = testing.start(reference.main, flags)
        running.append(process)
        serving.wait_for_port(port, 60, lambda: process.exitcode)
        return serving.image_url(port)

    yield start
    for process in running:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def negate(serve):
    return serve("negate", "--wait", "0.05")


@pytest.fixture
def image(root):
    return (root / "testdata" / "pictures" / "jpeg-420.jpg").read_bytes()


def in_parallel(url, images):
    with ThreadPoolExecutor(len(images)) as executor:
        return list(executor.map(serving.put, [url] * len(images), images))


def test_responses_are_the_goldens(negate, root):
    testdata = root / "testdata"
    manifest = json.loads((testdata / "goldens" / "goldens.json").read_text())
    for entry in manifest["pictures"]:
        response = serving.put(negate, (testdata / entry["file"]).read_bytes())
        if entry["expect"] != "ok":
            assert (response.status, response.body.decode()) == (500, entry["expect"])
            continue
        assert response.status == 200, entry["name"]
        if "negate" in entry:
            golden = (testdata / "goldens" / entry["negate"]).read_bytes()
            assert compare(response, serving.Response(200, golden)).agrees, entry["name"]


def test_refuses_data_that_is_not_an_image(negate):
    response = serving.put(negate, b"hello")
    assert (response.status, response.body) == (500, b"cannot read the image")


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
        # The server responds to the header, before the body.
        connection.putrequest("PUT", url.path)
        connection.putheader("Content-Length", str((4 << 20) + 1))
        connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.read()) == (500, b"Too large")
    connection.close()


def test_serves_only_put_on_image(negate):
    assert serving.put(negate.replace("/image", "/other"), b"").status == 404


def test_three_share_a_batch_and_the_rest_is_refused(serve, image):
    url = serve("batch_size", "--batch", "8", "--queue", "3", "--wait", "1.5")
    responses = in_parallel(url, [image] * 6)
    refused = [response.body for response in responses if response.status == 503]
    assert refused == [b"I'm too busy"] * 3
    for response in responses:
        if response.status == 200:
            assert Image.open(io.BytesIO(response.body)).getpixel((0, 0)) == (3, 3, 3)


def test_serves_after_a_failed_batch_and_an_idle_time(serve, image):
    url = serve("fails_on_black", "--wait", "0.005", "--batch", "1")
    black = io.BytesIO()
    Image.new("RGB", (8, 8)).save(black, format="PNG")
    for _ in range(3):
        assert serving.put(url, black.getvalue()).status == 500
        assert serving.put(url, image).status == 200


def test_serves_after_a_model_that_loses_a_result(serve, image):
    url = serve("wrong_count", "--wait", "0.005")
    assert [serving.put(url, image).status for _ in range(2)] == [500, 500]


def test_a_model_that_cannot_be_loaded_is_one_line(root, capsys):
    assert reference.main([str(root / "testdata" / "modules" / "garbage.pt")]) == 1
    message = capsys.readouterr().err
    assert "garbage.pt: cannot be loaded" in message
    assert message.count("\n") == 1
