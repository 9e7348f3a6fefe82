"""Download the published horse-to-zebra CycleGAN and export it for torchherd.

The weights are those of the book "Deep Learning with PyTorch". They are not part of this project:
they are downloaded from the book's repository, verified by their git blob id there, and exported to
model.pt beside them. A verified file is not downloaded again.
"""

import argparse
import hashlib
import http.client
import sys
import urllib.request
from pathlib import Path

from torchherd_tools import command, files, paths
from torchherd_tools.errors import ToolError
from torchherd_tools.models import export, generator

URL = (
    "https://github.com/deep-learning-with-pytorch/dlwpt-code/raw/master/"
    "data/p1ch2/horse2zebra_0.4.0.pth"
)
BLOB_ID = "ce10268a67fba8227bd42a071e17eef1b358fa2b"
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
# The published file has 46 MB; the limit keeps a wrong server from filling the memory.
MAX_BYTES = 1 << 28


class DownloadError(ToolError):
    """The weights cannot be downloaded."""


def blob_id(data: bytes) -> str:
    """Return the id that git gives to a file with these bytes: 40 hexadecimal digits.

    Git hashes a header and the content with SHA-1 (git-hash-object).
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def download(url: str) -> bytes:
    """Download a URL, with a progress line on stderr.

    Raises DownloadError if the server is unreachable, refuses, stops early or sends more than
    MAX_BYTES.
    """
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            total = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(CHUNK_BYTES):
                data += chunk
                _show_progress(len(data), total)
                if len(data) > MAX_BYTES:
                    raise DownloadError(f"{url}: more than {MAX_BYTES} bytes; check the URL")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: {error}; check the network and try again") from error
    finally:
        if data:
            print(file=sys.stderr)
    if len(data) < total:
        raise DownloadError(f"{url}: received {len(data)} of {total} bytes; try again")
    return bytes(data)


def _show_progress(done: int, total: int) -> None:
    of_total = f" of {total / 1e6:.1f} MB, {100 * done // total} %" if total else " MB"
    print(f"\rdownloading {done / 1e6:.1f}{of_total}", end="", file=sys.stderr, flush=True)


def fetch(url: str, wanted: str, path: Path) -> bool:
    """Download the file with the wanted git blob id to path. Return False if it is there already.

    A file with another id at path is removed first. Raises DownloadError if the download fails or
    has another id; it is not kept then.
    """
    if path.exists():
        if blob_id(path.read_bytes()) == wanted:
            return False
        print(f"{path}: removed, since its git blob id is wrong", file=sys.stderr)
        path.unlink()
    data = download(url)
    found = blob_id(data)
    if found != wanted:
        raise DownloadError(
            f"{url}: wrong file (git blob id {found}, want {wanted}); it was not kept; "
            "check the URL"
        )
    files.write_whole(path, data)
    return True


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser("horse2zebra", __doc__)
    parser.add_argument(
        "--folder", type=Path, help="for the weights and model.pt; default: models/horse2zebra"
    )
    parser.add_argument("--url", default=URL, help="default: the book's repository")
    parser.add_argument("--blob-id", default=BLOB_ID, help="git blob id of the weights")
    parser.add_argument(
        "--method", choices=("trace", "script"), default="trace", help="default: trace"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        folder = args.folder or paths.root() / "models" / "horse2zebra"
        weights = folder / "horse2zebra_0.4.0.pth"
        fetched = fetch(args.url, args.blob_id, weights)
        print(f"{weights}: {'downloaded' if fetched else 'already there'}, git blob id verified")
        module = export.load_generator(weights, input_range=generator.BOOK_RANGE)
        print(export.export(module, folder / "model.pt", export.Options(method=args.method)))
    except (ToolError, OSError) as error:
        return command.failed("horse2zebra", error)
    return 0
