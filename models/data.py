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
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import files
import looks
import pictures
import sources
from sources import Source, SourceError

SETS = ("a", "b", "held-out/a", "held-out/b")
COLUMNS = ("file", "set", "part", "look", "width", "height", "source", "sha256", "licence")

_RESOLUTION = re.compile(r"\d+x\d+")
_HASH_SIDE = 8
# Of 64 bits. Two scalings of one photograph differ by a few, two photographs by about 32.
_SAME_PHOTOGRAPH = 8


class DataError(Exception):
    """The folders cannot be made. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Photograph:
    """A photograph that was read, with the digest of its file and its difference hash.

    parts are the pictures it gives, scaled down: the whole, and with --quarters, where the file has
    pixels enough, its four quarters. pixels counts those of the file.
    """

    source: Source
    sha256: str
    parts: dict[str, Image.Image]
    pixels: int
    hash: int


def largest_versions(found: Iterable[Source]) -> list[Source]:
    """The sources, but of files in one folder that are named 1920x1080 and alike only the largest.

    Wallpapers come so, one photograph cut for several screens. Were a cut of a held-out photograph
    trained on, the judgement would be worth nothing.
    """
    best: dict[object, Source] = {}
    for source in found:
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
    wanted: Iterable[Source], min_side: int, max_side: int, quarters: bool = False
) -> tuple[list[Photograph], list[str]]:
    """The photographs of the sources, and a line for each file that was skipped.

    Skipped are files that cannot be read, pictures whose shorter side is below min_side, and
    pictures that look like one read before: of those the one with the most pixels is kept. Longer
    sides than max_side are scaled down to it. With quarters, those of a photograph that is at least
    twice as large are cut too, each of max_side again: the same places from nearer by.
    """
    kept: list[Photograph] = []
    skipped = []
    for source in wanted:
        try:
            found = _read(source, min_side, max_side, quarters)
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


def _read(source: Source, min_side: int, max_side: int, quarters: bool) -> Photograph:
    image = pictures.read(source.path)
    if min(image.size) < min_side:
        raise ValueError(f"is {image.width}x{image.height}, smaller than --min-side {min_side}")
    pixels = image.width * image.height
    digest = files.sha256(source.path.read_bytes())
    parts = {"whole": _shrunk(image, max_side)}
    if quarters and max(image.size) >= 2 * max_side:
        parts |= _quarters(_shrunk(image, 2 * max_side))
    return Photograph(source, digest, parts, pixels, difference_hash(parts["whole"]))


def _shrunk(image: Image.Image, max_side: int) -> Image.Image:
    shrunk = image.copy()
    shrunk.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return shrunk


def _quarters(image: Image.Image) -> dict[str, Image.Image]:
    width, height = image.width // 2, image.height // 2
    return {
        f"{down} {across}": image.crop((left, top, left + width, top + height))
        for down, top in (("upper", 0), ("lower", height))
        for across, left in (("left", 0), ("right", width))
    }


def difference_hash(image: Image.Image) -> int:
    """64 bits: which of two neighbours is lighter, in the picture shrunk to 9x8 in grey."""
    size = (_HASH_SIDE + 1, _HASH_SIDE)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return int("".join("01"[bit] for bit in bits.astype(int)), 2)


def _alike(one: Photograph, other: Photograph) -> bool:
    return one.sha256 == other.sha256 or (one.hash ^ other.hash).bit_count() <= _SAME_PHOTOGRAPH


def split(
    photographs: Sequence[Photograph], held_out: float, seed: int, hold_out: Sequence[str] = ()
) -> dict[str, list[Photograph]]:
    """The photographs of each of SETS. Half are A's; of either half the share held_out is held out.

    At least one is held out of each, and one trained on. Those whose paths fit a pattern of
    hold_out come first to held-out/a, and are in neither half. The order of the photographs does
    not matter, only what they are. Raises DataError when fewer than four are left.
    """
    chosen = [each for each in photographs if fits(each.source, hold_out)]
    rest = [each for each in photographs if not fits(each.source, hold_out)]
    if len(rest) < len(SETS):
        raise DataError(
            f"only {len(rest)} photographs; wanted at least {len(SETS)}: name more sources"
        )
    shuffled = sorted(rest, key=lambda each: each.sha256)
    random.Random(seed).shuffle(shuffled)
    middle = len(shuffled) // 2
    sets = {}
    for name, half in (("a", shuffled[:middle]), ("b", shuffled[middle:])):
        count = min(max(round(held_out * len(half)), 1), len(half) - 1)
        sets[f"held-out/{name}"], sets[name] = half[:count], half[count:]
    sets["held-out/a"] = sorted(chosen, key=lambda each: each.sha256) + sets["held-out/a"]
    return sets


def fits(source: Source, patterns: Iterable[str]) -> bool:
    """Whether the whole path of a source fits one of the patterns."""
    return any(fnmatch.fnmatchcase(str(source.path), each) for each in patterns)


def write(out: Path, sets: dict[str, list[Photograph]], look: str) -> None:
    """Write the folders as PNG, and manifest.csv. The sets of B are rendered in the look."""
    rows = [COLUMNS]
    for name in SETS:
        rendered = name.endswith("b")
        for photograph in sets[name]:
            for number, (part, image) in enumerate(photograph.parts.items()):
                # Part of the digest, so that a picture keeps its name whatever else is added.
                file = f"{name}/{photograph.sha256[:16]}-{number}.png"
                if rendered:
                    image = _render(image, look, seed=int(photograph.sha256[:16], 16) + number)
                files.write_whole(out / file, _png(image))
                rows.append(
                    (
                        *(file, name, part, look if rendered else "", image.width, image.height),
                        *(photograph.source.origin, photograph.sha256, photograph.source.licence),
                    )
                )
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    files.write_whole(out / "manifest.csv", text.getvalue().encode())


def _render(image: Image.Image, look: str, seed: int) -> Image.Image:
    return Image.fromarray(looks.render(np.array(image), look, seed))


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
        "--hold-out",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="files to hold out of A beyond that share, by patterns of their whole paths",
    )
    parser.add_argument(
        "--quarters",
        action="store_true",
        help="cut large photographs in four as well, which shows the same places from nearer by",
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

    Raises SourceError when one has no licence line, though there are --licences.
    """
    licences = sources.read_licences(args.licences) if args.licences else None
    found = [
        *(each for folder in args.photos for each in sources.from_folder(folder, licences)),
        *(each for package in args.debian for each in sources.from_debian(package)),
        *(sources.from_skimage() if args.skimage else ()),
    ]
    kept = [source for source in found if not fits(source, args.leave_out)]
    for source in kept:
        if not source.licence:
            raise SourceError(f"{source.path}: no line of {args.licences} is for it; add one")
    return largest_versions(kept)


def make(args: argparse.Namespace) -> str:
    """Make the folders that a command line asks for. Gives a line that counts them.

    Raises DataError, SourceError or pictures.FolderError.
    """
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise DataError(f"{args.out}: is there and not empty; give a new folder")
    photographs, skipped = read_photographs(
        collect(args), args.min_side, args.max_side, args.quarters
    )
    for line in skipped:
        print(f"data.py: skipped {line}", file=sys.stderr)
    sets = split(photographs, args.held_out, args.seed, args.hold_out)
    write(args.out, sets, args.look)
    counts = ", ".join(f"{len(sets[name])} in {name}" for name in SETS)
    return f"{args.out}: {counts}; {len(skipped)} skipped"


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        print(make(args))
    except (DataError, SourceError, pictures.FolderError, OSError) as error:
        print(f"data.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
