#!/usr/bin/env python3
"""Compare the answers of a server with those of the reference server, picture by picture.

Each picture goes to both by PUT. Two JPEG answers agree when they have the same size, the same
quantisation tables and the same chroma subsampling, and differ by no more than the threshold. Two
refusals agree when they have the same status. The exit status is 0 only when all pictures agree.

A server can be one that runs already (--server, --reference: the URL to PUT to) or be started here
(--server-command, --reference-command); {port} in the command is replaced by a free port, and the
command's own processes are ended afterwards.
"""

import argparse
import contextlib
import http.client
import io
import math
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
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

import files

HOST = "127.0.0.1"
LEAST_DECIBELS = 55.0
ANSWER_SECONDS = 120
STOP_SECONDS = 10
PROPERTIES = ("size", "mode", "quantisation tables", "subsampling")
SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


class ParityError(Exception):
    """The comparison cannot be made. The text says what happened, to what, and what to do."""


@dataclass
class Answer:
    """What a server sent: the HTTP status and the body."""

    status: int
    body: bytes


@dataclass
class Verdict:
    """Whether two answers agree, and why, in a few words."""

    agrees: bool
    text: str


def put(url: str, body: bytes) -> Answer:
    """PUT the body. A refusal is an answer too. Raises ParityError when none comes."""
    request = urllib.request.Request(url, data=body, method="PUT")
    # A proxy in the environment has no business between two local servers.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as refusal:
        return Answer(refusal.code, refusal.read())
    except (OSError, http.client.HTTPException) as error:
        raise ParityError(f"{url}: no answer: {error}; is the server running?") from error


def compare(ours: Answer, theirs: Answer, least: float = LEAST_DECIBELS) -> Verdict:
    """The verdict on our answer, given the reference's; least is the threshold in dB."""
    if ours.status != theirs.status:
        return Verdict(False, f"status {ours.status}, reference {theirs.status}")
    if ours.status != http.HTTPStatus.OK:
        return Verdict(True, f"both refuse with {ours.status}")
    if ours.body == theirs.body:
        return Verdict(True, "same bytes")
    try:
        ours_im, theirs_im = open_jpeg(ours.body), open_jpeg(theirs.body)
    except (OSError, SyntaxError) as error:
        return Verdict(False, f"not a JPEG: {error}")
    for what, a, b in zip(PROPERTIES, properties(ours_im), properties(theirs_im), strict=True):
        if a != b:
            return Verdict(False, f"other {what}: {a}, reference {b}")
    decibels = psnr(ours_im, theirs_im)
    if decibels == math.inf:
        return Verdict(True, "same pixels")
    return Verdict(decibels >= least, f"{decibels:.1f} dB")


def properties(im: Image.Image) -> tuple[object, ...]:
    """What must be equal in two JPEGs, in the order of PROPERTIES.

    The tables stand for themselves by the first of their values, the one for the mean brightness
    of a block, and by a digest.
    """
    subsampling = SUBSAMPLINGS.get(JpegImagePlugin.get_sampling(im), "none")
    tables = repr(sorted(im.quantization.items())).encode()
    return im.size, im.mode, f"{im.quantization[0][0]} ({files.sha256(tables)[:8]})", subsampling


def open_jpeg(body: bytes) -> Image.Image:
    """A decoded JPEG. Raises OSError or SyntaxError when the body is none."""
    im = Image.open(io.BytesIO(body), formats=["JPEG"])
    im.load()
    return im


def psnr(a: Image.Image, b: Image.Image) -> float:
    """The peak signal-to-noise ratio in dB of two 8-bit pictures of one size; inf when equal."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    error = np.mean(difference**2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(command: str, seconds: float) -> Iterator[str]:
    """Run a server while the block runs. Gives the URL to PUT to.

    {port} in the command becomes a free port. Raises ParityError when the command ends, or does not
    listen on that port within so many seconds. Afterwards the command and what it started are
    ended: they are a process group of their own.
    """
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    try:
        process = subprocess.Popen(words, stdout=sys.stderr, start_new_session=True)
    except OSError as error:
        raise ParityError(f"{words[0]}: cannot be started: {error}") from error
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
            raise ParityError(f"{command}: ended with status {process.returncode} before it served")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.1)
    raise ParityError(
        f"{command}: does not listen on port {port} after {seconds:g} s; "
        "does the command use {port}? --start-seconds allows it more time"
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
    first task has run. Raises ParityError when the time is up.
    """
    deadline = time.monotonic() + seconds
    while (answer := put(url, body)).status != http.HTTPStatus.OK:
        if time.monotonic() > deadline:
            raise ParityError(f"{url}: still answers {answer.status} after {seconds:g} s")
        time.sleep(0.1)


def compare_all(ours: str, theirs: str, pictures: list[Path], least: float) -> bool:
    """PUT every picture to both URLs and print a table. True: all agree."""
    width = max(len(picture.name) for picture in pictures)
    failed = 0
    for picture in pictures:
        body = picture.read_bytes()
        verdict = compare(put(ours, body), put(theirs, body), least)
        failed += not verdict.agrees
        mark = "ok  " if verdict.agrees else "FAIL"
        print(f"{mark}  {picture.name:{width}}  {verdict.text}", flush=True)
    print(f"{len(pictures) - failed} of {len(pictures)} agree, threshold {least:g} dB")
    return failed == 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, what in (("server", "the server under test"), ("reference", "the reference")):
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument(f"--{name}", metavar="URL", help=f"{what}, such as http://HOST/image")
        group.add_argument(
            f"--{name}-command", metavar="COMMAND", help=f"start {what} by this, on {{port}}"
        )
    parser.add_argument(
        "--threshold", type=float, default=LEAST_DECIBELS, help="in dB; default: 55"
    )
    parser.add_argument(
        "--start-seconds", type=float, default=60, help="time to start a server; default: 60"
    )
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0 when all agree, 1 when not or on an error."""
    args = parse(arguments)
    # By default SIGTERM ends Python at once, and the servers started here would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with contextlib.ExitStack() as stack:
            theirs, ours = (
                url or stack.enter_context(started(command, args.start_seconds))
                for url, command in (
                    (args.reference, args.reference_command),
                    (args.server, args.server_command),
                )
            )
            for url in (theirs, ours):
                await_answer(url, args.pictures[0].read_bytes(), args.start_seconds)
            return 0 if compare_all(ours, theirs, args.pictures, args.threshold) else 1
    except (ParityError, OSError) as error:
        print(f"parity.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
