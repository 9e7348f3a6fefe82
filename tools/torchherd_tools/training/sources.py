"""Sources of training photographs and their licences: folders, Debian, scikit-image."""

import csv
import fnmatch
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path, PurePosixPath

import skimage

from torchherd_tools import images
from torchherd_tools.errors import ToolError

NOT_RECORDED = "not recorded"
# The colour photographs among scikit-image's files, with the licences in its documentation.
SKIMAGE = {
    "astronaut.png": "public domain (NASA)",
    "chelsea.png": "CC0, by the photographer (Stefan van der Walt)",
    "coffee.png": "CC0, by the photographer (Rachel Michetti)",
    "rocket.jpg": "public domain (SpaceX)",
}

_ADDRESS = re.compile(r"\s*<[^>]*>[^\w]*")


class SourceError(ToolError):
    """A source of photographs cannot be used."""


@dataclass(frozen=True)
class Source:
    """An image file, its origin for the manifest, and its licence in one line."""

    path: Path
    origin: str
    licence: str


def from_folder(folder: Path, licences: Sequence[tuple[str, str]] | None) -> list[Source]:
    """Return the images of a folder. licences are pairs of a pattern and a licence.

    A pattern is a path below the folder, with * and ? as in a shell; the first that matches counts.
    The licence is empty if no pattern matches, and "not recorded" if licences is None.
    """
    found = []
    for path in images.find(folder):
        name = path.relative_to(folder).as_posix()
        licence = NOT_RECORDED
        if licences is not None:
            matching = (line for pattern, line in licences if fnmatch.fnmatchcase(name, pattern))
            licence = next(matching, "")
        found.append(Source(path, f"{folder.resolve().name}/{name}", licence))
    return found


def read_licences(path: Path) -> list[tuple[str, str]]:
    """Return the (pattern, licence) pairs of a CSV file with these two columns.

    Raises SourceError if the file has other columns or an empty field.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    if not rows or rows[0] != ["pattern", "licence"]:
        raise SourceError(f"{path}: the first line must be: pattern,licence")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not all(row):
            raise SourceError(f"{path}: line {number}: want a pattern and a licence")
    return [(pattern, licence) for pattern, licence in rows[1:]]


def from_debian(package: str, root: Path = Path("/")) -> list[Source]:
    """Return the images of an installed Debian package, with licences from its copyright file.

    Symbolic links are left out: they point to images of the same package. Raises SourceError if the
    package is not installed, or has no images or no copyright file.
    """
    version = _dpkg("dpkg-query", "--show", "--showformat=${Version}", package).strip()
    listed = [root / line.lstrip("/") for line in _dpkg("dpkg", "-L", package).splitlines()]
    suffixes = images.suffixes()
    found = sorted(
        path
        for path in listed
        if path.suffix.lower() in suffixes and path.is_file() and not path.is_symlink()
    )
    if not found:
        raise SourceError(f"{package}: holds no images that Pillow reads; leave it out")
    copyright_file = root / "usr/share/doc" / package / "copyright"
    if not copyright_file.is_file():
        raise SourceError(f"{package}: {copyright_file} is missing; reinstall the package")
    records = read_copyright(copyright_file.read_text(encoding="utf-8"))
    otherwise = f"see /usr/share/doc/{package}/copyright of {package} {version}"
    return [
        Source(path, f"{package} {version}: {name}", licence_of(name, records) or otherwise)
        for path in found
        for name in (f"/{path.relative_to(root)}",)
    ]


def read_copyright(text: str) -> list[tuple[list[str], str]]:
    """Return the Files paragraphs of a Debian copyright file: patterns, and a licence line.

    The line has the licence and its holders, without mail addresses. The list is empty if the file
    is not in Debian's machine-readable format 1.0.
    """
    paragraphs = [message_from_string(each) for each in re.split(r"\n\s*\n", text.strip())]
    if "format" not in paragraphs[0]:
        return []
    records = []
    for paragraph in paragraphs:
        if "files" in paragraph and "license" in paragraph:
            # The first line of the field is the licence's short name; its text may follow.
            licence = paragraph["license"].splitlines()[0].strip()
            holders = (
                _ADDRESS.sub("", line).strip() for line in paragraph["copyright"].split("\n")
            )
            records.append((paragraph["files"].split(), f"{licence}, (c) {'; '.join(holders)}"))
    return records


def licence_of(path: str, records: Sequence[tuple[list[str], str]]) -> str:
    """Return the line of the last record that matches a path; "" if none does.

    The last matching paragraph of a copyright file is the one that applies.
    """
    matching = (
        line
        for patterns, line in reversed(records)
        if any(_matches(path, each) for each in patterns)
    )
    return next(matching, "")


def _matches(path: str, pattern: str) -> bool:
    """Report whether a pattern of a copyright file matches an installed file.

    The pattern is relative to the source package, whose folders the binary package may drop or move
    below others. So the pattern may match an end of the path, or have the same file name.
    """
    parts = PurePosixPath(path).parts
    ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
    return parts[-1] == PurePosixPath(pattern).name or any(
        fnmatch.fnmatchcase(end, pattern) for end in ends
    )


def _dpkg(*command: str) -> str:
    """Return the output of a dpkg command whose last argument is a package."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SourceError(
            "dpkg: no such command; --debian works on Debian and its derivatives"
        ) from error
    if done.returncode != 0:
        raise SourceError(
            f"{command[-1]}: not installed; install it: apt-get install {command[-1]}"
        )
    return done.stdout


def from_skimage() -> list[Source]:
    """Return scikit-image's colour photographs whose licence is known."""
    folder = Path(skimage.data_dir)
    return [
        Source(folder / name, f"scikit-image {skimage.__version__}: data/{name}", licence)
        for name, licence in SKIMAGE.items()
    ]
