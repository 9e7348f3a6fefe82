#!/usr/bin/env python3
"""Make the training folders of an unpaired translation: photographs, and others in another look.

OUT gets a/ and b/ to train on, held-out/a/ and held-out/b/ to judge by, and manifest.csv, which
says of every picture where it comes from, its digest and its licence. The pictures of B are
rendered in a --look; no photograph is in two of the four folders. The same sources, options and
seed give the same folders.
"""

import argparse
import csv
import fnmatch
import io
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import files
import looks
import pictures

SETS = ("a", "b", "held-out/a", "held-out/b")
COLUMNS = ("file", "set", "look", "width", "height", "source", "sha256", "licence")
NOT_RECORDED = "not recorded"
# The photographs in colour among scikit-image's own files, with what its documentation says.
SKIMAGE = {
    "astronaut.png": "public domain (NASA)",
    "chelsea.png": "CC0, by the photographer (Stefan van der Walt)",
    "coffee.png": "CC0, by the photographer (Rachel Michetti)",
    "rocket.jpg": "public domain (SpaceX)",
}

_RESOLUTION = re.compile(r"\d+x\d+")
_HASH_SIDE = 8
# Of 64 bits. Two scalings of one photograph differ by a few, two photographs by about 32.
_SAME_PHOTOGRAPH = 8


class DataError(Exception):
    """The folders cannot be made. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Source:
    """A picture's file, what the manifest calls its origin, and its licence in one line."""

    path: Path
    origin: str
    licence: str


@dataclass(frozen=True)
class Photograph:
    """A photograph that was read: scaled down, with the digest of its file and its difference hash.

    pixels counts those of the file.
    """

    source: Source
    sha256: str
    image: Image.Image
    pixels: int
    hash: int


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

    Raises DataError when it has other columns or an empty field.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    if not rows or rows[0] != ["pattern", "licence"]:
        raise DataError(f"{path}: the first line must be: pattern,licence")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not all(row):
            raise DataError(f"{path}: line {number}: wanted a pattern and a licence")
    return [(pattern, licence) for pattern, licence in rows[1:]]


def from_debian(package: str, root: Path = Path("/")) -> list[Source]:
    """The pictures that an installed Debian package brought, with its copyright file as licence.

    Links are left out: they lead to pictures of the same package. Raises DataError when the package
    is not installed, or brought no picture or no copyright file.
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
        raise DataError(f"{package}: holds no pictures that Pillow reads; leave it out")
    copyright_file = root / "usr/share/doc" / package / "copyright"
    if not copyright_file.is_file():
        raise DataError(f"{package}: {copyright_file} is missing; reinstall the package")
    licence = f"see /usr/share/doc/{package}/copyright of {package} {version}"
    return [
        Source(path, f"{package} {version}: /{path.relative_to(root)}", licence) for path in found
    ]


def _dpkg(*command: str) -> str:
    """What a command of dpkg prints. Its last argument is a package, for the error's text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DataError("dpkg: no such command; --debian works on Debian and its kin") from error
    if done.returncode != 0:
        raise DataError(f"{command[-1]}: not installed; install it: apt-get install {command[-1]}")
    return done.stdout


def from_skimage() -> list[Source]:
    """scikit-image's bundled photographs in colour whose licence is plain."""
    folder = Path(skimage.data_dir)
    return [
        Source(folder / name, f"scikit-image {skimage.__version__}: data/{name}", licence)
        for name, licence in SKIMAGE.items()
    ]


def largest_versions(sources: Iterable[Source]) -> list[Source]:
    """The sources, but of files in one folder that are named 1920x1080 and alike only the largest.

    Wallpapers come so, one photograph cut for several screens. Were a cut of a held-out photograph
    trained on, the judgement would be worth nothing.
    """
    best: dict[object, Source] = {}
    for source in sources:
        named_by_size = _RESOLUTION.fullmatch(source.path.stem)
        key = source.path.parent if named_by_size else source.path
        if key not in best or _named_pixels(source) > _named_pixels(best[key]):
            best[key] = source
    return list(best.values())


def _named_pixels(source: Source) -> int:
    if not _RESOLUTION.fullmatch(source.path.stem):
        return 0
    width, height = map(int, source.path.stem.split("x"))
    return width * height


def read_photographs(
    sources: Iterable[Source], min_side: int, max_side: int
) -> tuple[list[Photograph], list[str]]:
    """The photographs of the sources, and a line for each file that was skipped.

    Skipped are files that cannot be read, pictures whose shorter side is below min_side, and
    pictures that look like one read before: of those the one with the most pixels is kept. Longer
    sides than max_side are scaled down to it.
    """
    kept: list[Photograph] = []
    skipped = []
    for source in sources:
        try:
            found = _read(source, min_side, max_side)
        except ValueError as error:
            skipped.append(f"{source.path}: {error}")
            continue
        twin = next((one for one in kept if _alike(one, found)), None)
        if twin is None:
            kept.append(found)
            continue
        if found.pixels > twin.pixels:
            kept[kept.index(twin)] = found
            twin, found = found, twin
        skipped.append(f"{found.source.path}: looks like {twin.source.path}")
    return kept, skipped


def _read(source: Source, min_side: int, max_side: int) -> Photograph:
    image = pictures.read(source.path)
    if min(image.size) < min_side:
        raise ValueError(f"is {image.width}x{image.height}, smaller than --min-side {min_side}")
    pixels = image.width * image.height
    digest = files.sha256(source.path.read_bytes())
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return Photograph(source, digest, image, pixels, difference_hash(image))


def difference_hash(image: Image.Image) -> int:
    """64 bits: which of two neighbours is lighter, in the picture shrunk to 9x8 in grey."""
    size = (_HASH_SIDE + 1, _HASH_SIDE)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return int("".join("01"[bit] for bit in bits.astype(int)), 2)


def _alike(one: Photograph, other: Photograph) -> bool:
    return one.sha256 == other.sha256 or (one.hash ^ other.hash).bit_count() <= _SAME_PHOTOGRAPH


def split(
    photographs: Sequence[Photograph], held_out: float, seed: int
) -> dict[str, list[Photograph]]:
    """The photographs of each of SETS. Half are A's; of either half the share held_out is held out.

    At least one is held out of each, and one trained on. The order of the photographs does not
    matter, only what they are. Raises DataError when they are fewer than four.
    """
    if len(photographs) < len(SETS):
        raise DataError(
            f"only {len(photographs)} photographs; wanted at least {len(SETS)}: name more sources"
        )
    shuffled = sorted(photographs, key=lambda each: each.sha256)
    random.Random(seed).shuffle(shuffled)
    middle = len(shuffled) // 2
    parts = {}
    for name, half in (("a", shuffled[:middle]), ("b", shuffled[middle:])):
        count = min(max(round(held_out * len(half)), 1), len(half) - 1)
        parts[f"held-out/{name}"], parts[name] = half[:count], half[count:]
    return parts


def write(out: Path, parts: dict[str, list[Photograph]], look: str) -> None:
    """Write the folders as PNG, and manifest.csv. The sets of B are rendered in the look."""
    rows = [COLUMNS]
    for name in SETS:
        rendered = name.endswith("b")
        for photograph in parts[name]:
            # Part of the digest, so that a picture keeps its name whatever else is added.
            file = f"{name}/{photograph.sha256[:16]}.png"
            image = _render(photograph, look) if rendered else photograph.image
            files.write_whole(out / file, _png(image))
            source = photograph.source
            rows.append(
                (
                    *(file, name, look if rendered else "", image.width, image.height),
                    *(source.origin, photograph.sha256, source.licence),
                )
            )
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write_whole(out / "manifest.csv", text.getvalue().encode())


def _render(photograph: Photograph, look: str) -> Image.Image:
    seed = int(photograph.sha256[:16], 16)
    return Image.fromarray(looks.render(np.array(photograph.image), look, seed))


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  data.py data --debian mate-backgrounds ukui-wallpapers --skimage --look oil\n"
        "  data.py data --photos holiday --licences holiday.csv --look ink",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    parser.add_argument(
        "--photos", type=Path, nargs="+", default=[], metavar="DIR", help="folders of photographs"
    )
    parser.add_argument(
        "--licences",
        type=Path,
        metavar="CSV",
        help="columns pattern,licence: of the pictures in --photos, by their paths below DIR",
    )
    parser.add_argument(
        "--debian", nargs="+", default=[], metavar="PACKAGE", help="installed Debian packages"
    )
    parser.add_argument("--skimage", action="store_true", help="scikit-image's photographs")
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="files that are no photographs, by patterns of their whole paths",
    )
    parser.add_argument("--look", choices=tuple(looks.LOOKS), required=True, help="B's look")
    parser.add_argument(
        "--held-out", type=_share, default=0.1, metavar="X", help="share; default: %(default)s"
    )
    parser.add_argument(
        "--max-side",
        type=_at_least_32,
        default=512,
        metavar="N",
        help="longer side in pixels to scale down to; default: %(default)s, which the looks suit",
    )
    parser.add_argument(
        "--min-side",
        type=_at_least_32,
        default=256,
        metavar="N",
        help="leave out pictures with a shorter side below this; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    args = parser.parse_args(arguments)
    if not (args.photos or args.debian or args.skimage):
        parser.error("name a source: --photos, --debian or --skimage")
    return args


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _at_least_32(text: str) -> int:
    value = int(text)
    if value < 32:
        raise argparse.ArgumentTypeError(f"{value} is below 32")
    return value


def collect(args: argparse.Namespace) -> list[Source]:
    """The sources that a command line names, without those that it leaves out.

    Raises DataError when one has no licence line, though there are --licences.
    """
    licences = read_licences(args.licences) if args.licences else None
    found = [
        *(source for folder in args.photos for source in from_folder(folder, licences)),
        *(source for package in args.debian for source in from_debian(package)),
        *(from_skimage() if args.skimage else ()),
    ]
    kept = [
        source
        for source in found
        if not any(fnmatch.fnmatchcase(str(source.path), each) for each in args.leave_out)
    ]
    for source in kept:
        if not source.licence:
            raise DataError(f"{source.path}: no line of {args.licences} is for it; add one")
    return largest_versions(kept)


def make(args: argparse.Namespace) -> str:
    """Make the folders that a command line asks for. Gives a line that counts them.

    Raises DataError or pictures.FolderError.
    """
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise DataError(f"{args.out}: is there and not empty; give a new folder")
    photographs, skipped = read_photographs(collect(args), args.min_side, args.max_side)
    for line in skipped:
        print(f"data.py: skipped {line}", file=sys.stderr)
    parts = split(photographs, args.held_out, args.seed)
    write(args.out, parts, args.look)
    counts = ", ".join(f"{len(parts[name])} in {name}" for name in SETS)
    return f"{args.out}: {counts}; {len(skipped)} skipped"


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        print(make(args))
    except (DataError, pictures.FolderError, OSError) as error:
        print(f"data.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
