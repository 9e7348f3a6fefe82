"""Fixtures that several tests share."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from torchherd_tools import paths

# Proxies do not reach the servers that tests start.
os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
# The networks in tests are small, and tests run in parallel: more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return paths.root()


@pytest.fixture(scope="session")
def torchherd() -> Path:
    """The server."""
    program = paths.torchherd()
    assert program.exists(), f"{program}: no such file; build it by make build"
    return program


@pytest.fixture
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of the package in a process of its own, like a user."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "torchherd_tools", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            words, capture_output=True, text=True, timeout=300, env=environment, check=False
        )

    return run


class FileServer:
    """An HTTP server on 127.0.0.1 that responds to every GET with self.body, and counts them."""

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
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    """A FileServer that is closed after the test."""
    server = FileServer()
    yield server
    server.close()
