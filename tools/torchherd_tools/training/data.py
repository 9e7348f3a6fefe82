"""Make the training folders of an unpaired translation: photographs, and others in another look.

OUT gets a/ and b/ to train on, held-out/a/ and held-out/b/ to evaluate with, and manifest.csv with
the source, digest and licence of each image. The images of B are rendered in a --look. No
photograph is in two of the four folders. The same sources, options and seed give the same folders.
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

from torchherd_tools import command, files, images
from torchherd_tools.errors import ToolError
from torchherd_tools.training import looks, sources
from torchherd_tools.training.sources import Source, SourceError

SETS = ("a", "b", "held-out/a", "held-out/b")
COLUMNS = ("file", "set", "part", "look", "width", "height", "source", "sha256", "licence")

_RESOLUTION = re.compile(r"\d+x\d+")
_HASH_SIDE = 8
# Different bits of 64: two scalings of one photograph have a few, two photographs about 32.
_SAME_PHOTOGRAPH = 8


class DataError(ToolError):
    """The folders cannot be made."""


@dataclass(frozen=True)
class Photograph:
    """A photograph, the digest of its file, and its difference hash.

    parts are the images made of it, scaled down: the whole, and with --quarters its four quarters
    if the file has enough pixels. pixels is the number of pixels in the file.
    """

    source: Source
    sha256: str
    parts: dict[str, Image.Image]
    pixels: int
    hash: int


def largest_versions(found: Iterable[Source]) -> list[Source]:
    """Return the sources, but only the largest of a folder's files with names like 1920x1080.

    Such files are one wallpaper for several screens. If a held-out photograph were also trained on
    in another size, the evaluation would be worthless.
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
    """Return the photographs of the sources, and a line for each file that was skipped.

    Skipped files cannot be read, have a side below min_side, or look like another photograph; of
    two that look alike the one with more pixels is kept. Photographs are scaled down to max_side.
    With quarters, a photograph of at least twice that size is also cut in four, each scaled to
    max_side: the same scene from a shorter distance.
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
    image = images.read(source.path)
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
    """Return 64 bits: which of two neighbours is lighter in the image, scaled to 9x8 in grey."""
    size = (_HASH_SIDE + 1, _HASH_SIDE)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return int("".join("01"[bit] for bit in bits.astype(int)), 2)


def _alike(one: Photograph, other: Photograph) -> bool:
    return one.sha256 == other.sha256 or (one.hash ^ other.hash).bit_count() <= _SAME_PHOTOGRAPH


def split(
    photographs: Sequence[Photograph], held_out: float, seed: int, hold_out: Sequence[str] = ()
) -> dict[str, list[Photograph]]:
    """Return the photographs of each of SETS: one half for A, one for B.

    Of each half the share held_out is held out, but at least one photograph, and all but one at
    most. Photographs whose paths match a pattern of hold_out go to held-out/a and are in neither
    half. The result does not depend on the order of the photographs. Raises DataError if fewer than
    four are left.
    """
    chosen = [each for each in photographs if matches(each.source, hold_out)]
    rest = [each for each in photographs if not matches(each.source, hold_out)]
    if len(rest) < len(SETS):
        raise DataError(
            f"only {len(rest)} photographs, want at least {len(SETS)}; add more sources"
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


def matches(source: Source, patterns: Iterable[str]) -> bool:
    """Report whether one of the patterns matches the whole path of a source."""
    return any(fnmatch.fnmatchcase(str(source.path), each) for each in patterns)


def write(out: Path, sets: dict[str, list[Photograph]], look: str) -> None:
    """Write the folders as PNG, and manifest.csv. The sets of B are rendered in the look."""
    rows = [COLUMNS]
    for name in SETS:
        rendered = name.endswith("b")
        for photograph in sets[name]:
            for number, (part, image) in enumerate(photograph.parts.items()):
                # Named by the digest: more sources do not change the name of an image.
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
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser(
        "data",
        __doc__,
        epilog="examples:\n"
        "  data OUT --debian mate-backgrounds ukui-wallpapers --skimage --look oil\n"
        "  data OUT --photos holiday --licences holiday.csv --look ink",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    parser.add_argument(
        "--photos", type=Path, nargs="+", default=[], metavar="DIR", help="folders of photographs"
    )
    parser.add_argument(
        "--licences",
        type=Path,
        metavar="CSV",
        help="columns pattern,licence for the images in --photos, by their paths below DIR",
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
        help="files that are not photographs, by patterns of their whole paths",
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
        help="further files to hold out of A, by patterns of their whole paths",
    )
    parser.add_argument(
        "--quarters",
        action="store_true",
        help="also cut large photographs in four, as if taken from a shorter distance",
    )
    parser.add_argument(
        "--max-side",
        type=_at_least_32,
        default=512,
        metavar="N",
        help="longer side in pixels to scale down to; default: %(default)s, which suits the looks",
    )
    parser.add_argument(
        "--min-side",
        type=_at_least_32,
        default=256,
        metavar="N",
        help="leave out images with a shorter side below this; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    args = parser.parse_args(arguments)
    if not (args.photos or args.debian or args.skimage):
        parser.error("give a source: --photos, --debian or --skimage")
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
    """Return the sources that the command line names, without those that it leaves out.

    Raises SourceError if one has no licence, though --licences is given.
    """
    licences = sources.read_licences(args.licences) if args.licences else None
    found = [
        *(each for folder in args.photos for each in sources.from_folder(folder, licences)),
        *(each for package in args.debian for each in sources.from_debian(package)),
        *(sources.from_skimage() if args.skimage else ()),
    ]
    kept = [source for source in found if not matches(source, args.leave_out)]
    for source in kept:
        if not source.licence:
            raise SourceError(f"{source.path}: no line of {args.licences} matches it; add one")
    return largest_versions(kept)


def make(args: argparse.Namespace) -> str:
    """Make the folders of a command line, and return a line with their sizes.

    Raises DataError, SourceError or images.FolderError.
    """
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise DataError(f"{args.out}: exists and is not empty; name a new folder")
    photographs, skipped = read_photographs(
        collect(args), args.min_side, args.max_side, args.quarters
    )
    for line in skipped:
        print(f"data: skipped {line}", file=sys.stderr)
    sets = split(photographs, args.held_out, args.seed, args.hold_out)
    write(args.out, sets, args.look)
    counts = ", ".join(f"{len(sets[name])} in {name}" for name in SETS)
    return f"{args.out}: {counts}; {len(skipped)} skipped"


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        print(make(args))
    except (ToolError, OSError) as error:
        return command.failed("data", error)
    return 0
