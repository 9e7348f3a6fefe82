"""A server run for a while, and pictures sent to it: what several scripts here do."""

import contextlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

HOST = "127.0.0.1"
ANSWER_SECONDS = 120
STOP_SECONDS = 10


class ServingError(Exception):
    """A server cannot be run or asked. The text says what happened, to what, and what to do."""


@dataclass
class Answer:
    """What a server sent: the HTTP status and the body."""

    status: int
    body: bytes


def put(url: str, body: bytes, method: str = "PUT") -> Answer:
    """PUT the body, or send it by another method. A refusal is an answer too.

    Raises ServingError when none comes.
    """
    # Without a type, urllib would say that the body is a form.
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    # A proxy in the environment has no business between two local servers.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as refusal:
        return Answer(refusal.code, refusal.read())
    except (OSError, http.client.HTTPException) as error:
        raise ServingError(f"{url}: no answer: {error}; is the server running?") from error


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(command: str, seconds: float) -> Iterator[str]:
    """Run a server while the block runs. Gives the URL to PUT to.

    {port} in the command becomes a free port. Raises ServingError when the command ends, or does
    not listen on that port within so many seconds. Afterwards the command and what it started are
    ended: they are a process group of their own.
    """
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    try:
        process = subprocess.Popen(words, stdout=sys.stderr, start_new_session=True)
    except OSError as error:
        raise ServingError(f"{words[0]}: cannot be started: {error}") from error
    try:
        _wait_for_port(process, port, seconds, command)
        yield f"http://{HOST}:{port}/image"
    finally:
        _end(process)


def _wait_for_port(
    process: subprocess.Popen[bytes], port: int, seconds: float, command: str
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServingError(
                f"{command}: ended with status {process.returncode} before it served"
            )
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise ServingError(
        f"{command}: does not listen on port {port} after {seconds:g} s; "
        "does the command use {port}, and is that time enough?"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        # The group outlives its leader while a child of it runs, so it is signalled either way.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def await_answer(url: str, body: bytes, seconds: float) -> None:
    """PUT the body until it is answered with a picture, for at most so many seconds.

    A server that listens may still be loading its model, and the Sanic demo answers 500 before its
    first task has run. Raises ServingError when the time is up.
    """
    deadline = time.monotonic() + seconds
    while (answer := put(url, body)).status != http.HTTPStatus.OK:
        if time.monotonic() > deadline:
            raise ServingError(f"{url}: still answers {answer.status} after {seconds:g} s")
        time.sleep(0.1)
