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
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

import files
import serving

LEAST_DECIBELS = 55.0
PROPERTIES = ("size", "mode", "quantisation tables", "subsampling")
SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


@dataclass
class Verdict:
    """Whether two answers agree, and why, in a few words."""

    agrees: bool
    text: str


def compare(ours: serving.Answer, theirs: serving.Answer, least: float = LEAST_DECIBELS) -> Verdict:
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


def compare_all(ours: str, theirs: str, pictures: list[Path], least: float) -> bool:
    """PUT every picture to both URLs and print a table. True: all agree."""
    width = max(len(picture.name) for picture in pictures)
    failed = 0
    for picture in pictures:
        body = picture.read_bytes()
        verdict = compare(serving.put(ours, body), serving.put(theirs, body), least)
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
                url or stack.enter_context(serving.started(command, args.start_seconds))
                for url, command in (
                    (args.reference, args.reference_command),
                    (args.server, args.server_command),
                )
            )
            for url in (theirs, ours):
                serving.await_answer(url, args.pictures[0].read_bytes(), args.start_seconds)
            return 0 if compare_all(ours, theirs, args.pictures, args.threshold) else 1
    except (serving.ServingError, OSError) as error:
        print(f"parity.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
