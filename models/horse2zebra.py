#!/usr/bin/env python3
"""Fetch the published horse-to-zebra CycleGAN and export it for torchherd.

The weights are those of the book "Deep Learning with PyTorch". They are not part of this project:
they are downloaded from the book's repository, checked against the id that git gives to the file
there, and exported to model.pt beside them. A checked file that is already there is used again.
"""

import argparse
import hashlib
import http.client
import sys
import urllib.request
from pathlib import Path

import export
import files

URL = (
    "https://github.com/deep-learning-with-pytorch/dlwpt-code/raw/master/"
    "data/p1ch2/horse2zebra_0.4.0.pth"
)
BLOB_ID = "ce10268a67fba8227bd42a071e17eef1b358fa2b"
DEFAULT_FOLDER = Path(__file__).resolve().parent / "horse2zebra"
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
# The published file has 46 MB. A server that sends without end must not fill the memory.
MAX_BYTES = 1 << 28


class DownloadError(Exception):
    """The weights cannot be had. The text says what happened, to what, and what to do."""


def blob_id(data: bytes) -> str:
    """The id git gives to a file with these bytes: 40 hexadecimal digits.

    Git hashes a header and the content with SHA-1 (git-hash-object).
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def download(url: str) -> bytes:
    """The bytes behind a URL, with a progress line on stderr.

    Raises DownloadError when the server cannot be reached, refuses, stops early or sends more than
    MAX_BYTES.
    """
    data = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(CHUNK_BYTES):
                data += chunk
                _show_progress(len(data), total)
                if len(data) > MAX_BYTES:
                    raise DownloadError(f"{url}: more than {MAX_BYTES} bytes, gave up")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: {error}; check the network and try again") from error
    finally:
        if data:
            print(file=sys.stderr)
    if len(data) < total:
        raise DownloadError(f"{url}: {len(data)} of {total} bytes came; try again")
    return bytes(data)


def _show_progress(done: int, total: int) -> None:
    of_total = f" of {total / 1e6:.1f} MB, {100 * done // total} %" if total else " MB"
    print(f"\rdownloading {done / 1e6:.1f}{of_total}", end="", file=sys.stderr, flush=True)


def fetch(url: str, wanted: str, path: Path) -> bool:
    """Make sure that path holds the file with the wanted git blob id. False: it did already.

    Raises DownloadError when the download fails or is another file, which is then not kept. A file
    with another id at path is removed first.
    """
    if path.exists():
        if blob_id(path.read_bytes()) == wanted:
            return False
        print(f"{path}: not the wanted file, removed", file=sys.stderr)
        path.unlink()
    data = download(url)
    found = blob_id(data)
    if found != wanted:
        raise DownloadError(
            f"{url}: sent another file than expected (git blob id {found}, wanted {wanted}); "
            "it was not kept; check the URL"
        )
    files.write_whole(path, data)
    return True


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=DEFAULT_FOLDER,
        help="where the weights and model.pt go; default: models/horse2zebra",
    )
    parser.add_argument("--url", default=URL, help="default: the book's repository")
    parser.add_argument("--blob-id", default=BLOB_ID, help="the weights' git blob id")
    parser.add_argument(
        "--method", choices=("trace", "script"), default="trace", help="default: trace"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    weights = args.folder / "horse2zebra_0.4.0.pth"
    try:
        fetched = fetch(args.url, args.blob_id, weights)
        print(f"{weights}: {'downloaded' if fetched else 'already there'}, git blob id verified")
        module = export.load_generator(weights)
        print(export.export(module, args.folder / "model.pt", export.Options(method=args.method)))
    except (DownloadError, export.ExportError, OSError) as error:
        print(f"horse2zebra.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
