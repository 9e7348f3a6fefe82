"""Compare the responses of a server with those of the reference server, image by image.

Each image is sent to both by PUT. Two JPEG responses agree if they have the same size, quantization
tables and chroma subsampling, and differ by no more than the threshold. Two errors agree if they
have the same status. The exit status is 0 only if all images agree.

A server is either running (--server, --reference: the URL to PUT to) or started by this command
(--server-command, --reference-command). {port} in its command is replaced by a free port, and its
processes are stopped afterwards.
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

from torchherd_tools import command, files, serving
from torchherd_tools.errors import ToolError

LEAST_DECIBELS = 55.0
PROPERTIES = ("size", "mode", "quantization tables", "subsampling")
SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


@dataclass
class Verdict:
    """Whether two responses agree, and the reason in a few words."""

    agrees: bool
    text: str


def compare(
    ours: serving.Response, theirs: serving.Response, least: float = LEAST_DECIBELS
) -> Verdict:
    """Compare our response with the reference's; least is the threshold in dB."""
    if ours.status != theirs.status:
        return Verdict(False, f"status {ours.status}, reference {theirs.status}")
    if ours.status != http.HTTPStatus.OK:
        return Verdict(True, f"both respond with {ours.status}")
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
    """Return the properties that must be equal in two JPEGs, in the order of PROPERTIES.

    The quantization tables are shown by their first value, that of a block's mean brightness, and a
    digest.
    """
    subsampling = SUBSAMPLINGS.get(JpegImagePlugin.get_sampling(im), "none")
    tables = repr(sorted(im.quantization.items())).encode()
    return im.size, im.mode, f"{im.quantization[0][0]} ({files.sha256(tables)[:8]})", subsampling


def open_jpeg(body: bytes) -> Image.Image:
    """Decode a JPEG. Raises OSError or SyntaxError if the body is not one."""
    im = Image.open(io.BytesIO(body), formats=["JPEG"])
    im.load()
    return im


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Return the peak signal-to-noise ratio in dB of two 8-bit images of one size; inf if equal."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    error = np.mean(difference**2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def compare_all(ours: str, theirs: str, images: list[Path], least: float) -> bool:
    """PUT every image to both URLs, print a table, and report whether all agree."""
    width = max(len(image.name) for image in images)
    failed = 0
    for image in images:
        body = image.read_bytes()
        verdict = compare(serving.put(ours, body), serving.put(theirs, body), least)
        failed += not verdict.agrees
        mark = "ok  " if verdict.agrees else "FAIL"
        print(f"{mark}  {image.name:{width}}  {verdict.text}", flush=True)
    print(f"{len(images) - failed} of {len(images)} agree, threshold {least:g} dB")
    return failed == 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser("parity", __doc__)
    for name, what in (("server", "the server under test"), ("reference", "the reference server")):
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument(f"--{name}", metavar="URL", help=f"{what}, such as http://HOST/image")
        group.add_argument(
            f"--{name}-command", metavar="COMMAND", help=f"start {what}, with {{port}}"
        )
    parser.add_argument(
        "--threshold", type=float, default=LEAST_DECIBELS, help="in dB; default: 55"
    )
    parser.add_argument(
        "--start-seconds", type=float, default=60, help="time limit to start a server; default: 60"
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status: 0 if all agree, 1 if not or on an error."""
    args = parse(arguments)
    # By default SIGTERM ends Python at once, and the servers started here would keep running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with contextlib.ExitStack() as stack:
            theirs, ours = (
                url or stack.enter_context(serving.started(line, args.start_seconds))
                for url, line in (
                    (args.reference, args.reference_command),
                    (args.server, args.server_command),
                )
            )
            for url in (theirs, ours):
                serving.wait_until_serving(url, args.images[0].read_bytes(), args.start_seconds)
            return 0 if compare_all(ours, theirs, args.images, args.threshold) else 1
    except (ToolError, OSError) as error:
        return command.failed("parity", error)
