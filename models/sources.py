"""Where training photographs come from, and their licences: folders, Debian, scikit-image."""

import csv
import fnmatch
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path, PurePosixPath

import skimage

import pictures

NOT_RECORDED = "not recorded"
# The photographs in colour among scikit-image's own files, with what its documentation says.
SKIMAGE = {
    "astronaut.png": "public domain (NASA)",
    "chelsea.png": "CC0, by the photographer (Stefan van der Walt)",
    "coffee.png": "CC0, by the photographer (Rachel Michetti)",
    "rocket.jpg": "public domain (SpaceX)",
}

_ADDRESS = re.compile(r"\s*<[^>]*>[^\w]*")


class SourceError(Exception):
    """A source cannot be used. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Source:
    """A picture's file, what the manifest calls its origin, and its licence in one line."""

    path: Path
    origin: str
    licence: str


def from_folder(folder: Path, licences: Sequence[tuple[str, str]] | None) -> list[Source]:
    """The pictures of a folder. licences are pairs of a pattern and a line; the first one fitting.

    A pattern is a path below the folder, with * and ? as in a shell. Without licences each
    picture's is "not recorded"; one that no pattern fits has an empty one.
    """
    found = []
    for path in pictures.find(folder):
        name = path.relative_to(folder).as_posix()
        licence = NOT_RECORDED
        if licences is not None:
            fitting = (line for pattern, line in licences if fnmatch.fnmatchcase(name, pattern))
            licence = next(fitting, "")
        found.append(Source(path, f"{folder.resolve().name}/{name}", licence))
    return found


def read_licences(path: Path) -> list[tuple[str, str]]:
    """The (pattern, licence) pairs of a CSV file of two columns with these names.

    Raises SourceError when it has other columns or an empty field.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    if not rows or rows[0] != ["pattern", "licence"]:
        raise SourceError(f"{path}: the first line must be: pattern,licence")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not all(row):
            raise SourceError(f"{path}: line {number}: wanted a pattern and a licence")
    return [(pattern, licence) for pattern, licence in rows[1:]]


def from_debian(package: str, root: Path = Path("/")) -> list[Source]:
    """The pictures that an installed Debian package brought, with what its copyright file says.

    Links are left out: they lead to pictures of the same package. Raises SourceError when the
    package is not installed, or brought no picture or no copyright file.
    """
    version = _dpkg("dpkg-query", "--show", "--showformat=${Version}", package).strip()
    listed = [root / line.lstrip("/") for line in _dpkg("dpkg", "-L", package).splitlines()]
    suffixes = pictures.suffixes()
    found = sorted(
        path
        for path in listed
        if path.suffix.lower() in suffixes and path.is_file() and not path.is_symlink()
    )
    if not found:
        raise SourceError(f"{package}: holds no pictures that Pillow reads; leave it out")
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
    """The Files paragraphs of a Debian copyright file: patterns, and licence and holders as a line.

    Empty when the file is not in Debian's machine-readable format 1.0. Mail addresses are left out.
    """
    paragraphs = [message_from_string(each) for each in re.split(r"\n\s*\n", text.strip())]
    if "format" not in paragraphs[0]:
        return []
    records = []
    for paragraph in paragraphs:
        if "files" in paragraph and "license" in paragraph:
            # The first line of the field is the licence's short name, its text may follow.
            licence = paragraph["license"].splitlines()[0].strip()
            holders = (
                _ADDRESS.sub("", line).strip() for line in paragraph["copyright"].split("\n")
            )
            records.append((paragraph["files"].split(), f"{licence}, (c) {'; '.join(holders)}"))
    return records


def licence_of(path: str, records: Sequence[tuple[list[str], str]]) -> str:
    """The line of the last record that a path fits, which is the one that counts; "" for none."""
    fitting = (
        line for patterns, line in reversed(records) if any(_fits(path, each) for each in patterns)
    )
    return next(fitting, "")


def _fits(path: str, pattern: str) -> bool:
    """Whether an installed file is, by its path, one that a copyright file's pattern means.

    The pattern is relative to the source package, whose folders a package may leave out or lay
    below others. So an end of the path may fit the pattern; or the file's name be the pattern's.
    """
    parts = PurePosixPath(path).parts
    ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
    return parts[-1] == PurePosixPath(pattern).name or any(
        fnmatch.fnmatchcase(end, pattern) for end in ends
    )


def _dpkg(*command: str) -> str:
    """What a command of dpkg prints. Its last argument is a package, for the error's text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SourceError("dpkg: no such command; --debian works on Debian and its kin") from error
    if done.returncode != 0:
        raise SourceError(
            f"{command[-1]}: not installed; install it: apt-get install {command[-1]}"
        )
    return done.stdout


def from_skimage() -> list[Source]:
    """scikit-image's bundled photographs in colour whose licence is plain."""
    folder = Path(skimage.data_dir)
    return [
        Source(folder / name, f"scikit-image {skimage.__version__}: data/{name}", licence)
        for name, licence in SKIMAGE.items()
    ]
