"""Start a server, send images to it, stop it."""

import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message

from torchherd_tools.errors import ToolError

HOST = "127.0.0.1"
RESPONSE_SECONDS = 120
STOP_SECONDS = 10
POLL_SECONDS = 0.05


class ServingError(ToolError):
    """A server cannot be started, or does not respond."""


@dataclass
class Response:
    """A response of a server: the HTTP status, the body and the headers."""

    status: int
    body: bytes
    headers: Message = field(default_factory=Message, compare=False)

    def stages(self) -> dict[str, float]:
        """Return the durations in ms of the Server-Timing header, by the names of the stages."""
        found = re.findall(r"([\w-]+);dur=([\d.]+)", self.headers.get("Server-Timing", ""))
        return {stage: float(duration) for stage, duration in found}


def put(url: str, body: bytes, method: str = "PUT") -> Response:
    """Send the body by PUT or another method, and return the response, whatever its status.

    Raises ServingError if there is no response.
    """
    # Without a type, urllib declares the body a form.
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    # The servers are local: a proxy in the environment does not reach them.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=RESPONSE_SECONDS) as response:
            return Response(response.status, response.read(), response.headers)
    except urllib.error.HTTPError as error:
        return Response(error.code, error.read(), error.headers)
    except (OSError, http.client.HTTPException) as error:
        raise ServingError(f"{url}: no response: {error}; is the server running?") from error


def free_port() -> int:
    """Return a TCP port on which no process listens, and reserve it for a minute.

    A connection that the server closes leaves the port in TIME_WAIT. Servers can listen on it,
    since they set SO_REUSEADDR, but the kernel does not return it as a free port to another
    process, such as a test that runs in parallel.
    """
    with socket.create_server((HOST, 0), backlog=1) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port)):
            listener.accept()[0].close()
    return port


@contextlib.contextmanager
def started(command: str, seconds: float) -> Iterator[str]:
    """Run a server inside the block, and yield the URL that takes images.

    {port} in the command is replaced by a free port. Raises ServingError if the command exits, or
    does not listen on that port within the given seconds. After the block, the command and its
    children are stopped: they have a process group of their own.
    """
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    try:
        process = subprocess.Popen(words, stdout=sys.stderr, start_new_session=True)
    except OSError as error:
        raise ServingError(f"{words[0]}: cannot be started: {error}") from error
    try:
        try:
            wait_for_port(port, seconds, process.poll)
        except ServingError as error:
            raise ServingError(f"{command}: {error}") from error
        yield image_url(port)
    finally:
        _stop(process)


def image_url(port: int) -> str:
    """Return the URL that takes images of a server on this machine."""
    return f"http://{HOST}:{port}/image"


def wait_for_port(port: int, seconds: float, exit_status: Callable[[], int | None]) -> None:
    """Wait until a process listens on a port; exit_status returns None while it runs.

    Raises ServingError if the process exits, or the seconds pass.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (status := exit_status()) is not None:
            raise ServingError(f"exited with status {status} before it listened")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(POLL_SECONDS)
    raise ServingError(
        f"does not listen on port {port} after {seconds:g} s; "
        "does the command use {port}, and is that time enough?"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        # The group outlives its leader as long as a child runs, so it gets the signal either way.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def wait_until_serving(url: str, body: bytes, seconds: float, method: str = "PUT") -> None:
    """Send the body until the response has status 200.

    A server that listens may still be loading its model, and the Sanic demo responds with 500
    before its first task has run. Raises ServingError if the seconds pass.
    """
    deadline = time.monotonic() + seconds
    while (response := put(url, body, method)).status != http.HTTPStatus.OK:
        if time.monotonic() > deadline:
            raise ServingError(f"{url}: still responds with {response.status} after {seconds:g} s")
        time.sleep(POLL_SECONDS)
