"""Lets the tests import the scripts of models/ and bench/, and gives what several of them need."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parent.parent
ROOT = MODELS.parent
sys.path[:0] = [str(MODELS), str(ROOT / "bench")]


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of models/ as a user does, given its name and arguments."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(MODELS / name), *map(str, arguments)]
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, check=False
        )

    return run


class FileServer:
    """An HTTP server on 127.0.0.1 that sends self.body to every GET and counts them."""

    def __init__(self) -> None:
        self.body = b""
        self.gets = 0
        self.announced: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.gets += 1
                self.send_response(200)
                length = len(outer.body) if outer.announced is None else outer.announced
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/weights.pth"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    """A FileServer that is closed after the test."""
    server = FileServer()
    yield server
    server.close()
