"""Compare how torchherd and Pillow read the images of a folder, and make a sheet of what differs.

Each file below FOLDER, hidden ones apart, is sent to torchherd, which serves an identity model with
"size: keep", and is read by Pillow: turned upright, converted to sRGB by Little CMS if it has a
profile, then to RGB. The two agree if no value of a pixel differs by more than --levels, or if
neither reads the file. A response of 5xx never agrees.

OUT gets index.html, the sheet of what differs, and files.csv, a line for each file. Both have the
times of decoding: torchherd's in wall time (its Server-Timing header), Pillow's in thread time. The
exit status is 0 only if all files agree.
"""

import argparse
import contextlib
import csv
import html
import http.client
import io
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from torchherd_tools import command, files, paths, serving
from torchherd_tools.errors import ToolError

START_SECONDS = 60
MAX_UPLOAD = "256MiB"
SERVER = (
    f"{{program}} serve {{models}} --listen 127.0.0.1:{{{{port}}}} --admin-listen off "
    f"--log-level error --max-wait 0s --max-upload {MAX_UPLOAD} --max-queue-size {{jobs}}"
)
SETTINGS = "size: keep\ngrayscale: rgb\n"
THUMBNAIL = 160

# What becomes of a file. The first two agree.
SAME = "same"
NEITHER = "neither reads it"
PIXELS = "other pixels"
SIZE = "other size"
ONLY_PILLOW = "only Pillow reads it"
ONLY_TORCHHERD = "only torchherd reads it"
FAILED = "torchherd failed"
DIFFERENCES = (FAILED, PIXELS, SIZE, ONLY_PILLOW, ONLY_TORCHHERD)


@dataclass
class Reading:
    """What a reader makes of a file: an RGB image, or the reason why it has none."""

    image: Image.Image | None
    text: str = ""
    milliseconds: float | None = None
    status: int = 0  # torchherd's; 0: no response


@dataclass
class Row:
    """A line of files.csv."""

    file: str
    result: str
    width: int | None = None  # of Pillow's image, or of torchherd's if only that reads the file
    height: int | None = None
    levels: int | None = None  # the largest difference of a value
    share: float | None = None  # of the pixels that differ by more than the threshold
    status: int = 0
    torchherd: str = ""
    pillow: str = ""
    torchherd_ms: float | None = None
    pillow_ms: float | None = None
    thumbnails: list[str] = field(default_factory=list)  # file names; not in files.csv


def pillow(body: bytes) -> Reading:
    """Read an image with Pillow: upright, in sRGB, as RGB."""
    before = time.thread_time()
    try:
        with Image.open(io.BytesIO(body)) as opened:
            image = to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        return Reading(None, "not in a format that Pillow recognizes")
    except Exception as error:
        # Which exceptions there are depends on the format, and isn't documented.
        return Reading(None, " ".join(f"{type(error).__name__}: {error}".split()))
    return Reading(image, milliseconds=1000 * (time.thread_time() - before))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB without alpha, and to sRGB if it has a profile that can be used."""
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip 16 bits at 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB")
    plain = image.convert({"CMYK": "CMYK", "L": "L", "LA": "L"}.get(image.mode, "RGB"))
    # Broken profiles, and those of another kind than the image, are ignored.
    with contextlib.suppress(OSError, ValueError, ImageCms.PyCMSError):
        return ImageCms.profileToProfile(
            plain,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            outputMode="RGB",
        )
    return plain.convert("RGB")


def torchherd(url: str, body: bytes) -> Reading:
    """Send an image to torchherd, and read the PNG of the response."""
    try:
        response = serving.put(f"{url}?format=png", body)
    except serving.ServingError as error:
        return Reading(None, str(error))
    if response.status != http.HTTPStatus.OK:
        text = " ".join(response.body.decode(errors="replace").split())
        return Reading(None, text, status=response.status)
    with Image.open(io.BytesIO(response.body), formats=["PNG"]) as image:
        decode = response.stages().get("decode")
        return Reading(image.convert("RGB"), milliseconds=decode, status=response.status)


def compare(file: str, ours: Reading, theirs: Reading, threshold: int) -> Row:
    """Compare torchherd's reading of a file with Pillow's."""
    row = Row(
        file,
        SAME,
        status=ours.status,
        torchherd=ours.text,
        pillow=theirs.text,
        torchherd_ms=ours.milliseconds,
        pillow_ms=theirs.milliseconds,
    )
    if image := theirs.image or ours.image:
        row.width, row.height = image.size
    if ours.image is None and not 400 <= ours.status < 500:
        row.result = FAILED
    elif ours.image is None:
        row.result = NEITHER if theirs.image is None else ONLY_PILLOW
    elif theirs.image is None:
        row.result = ONLY_TORCHHERD
    elif ours.image.size != theirs.image.size:
        row.result = SIZE
        row.torchherd = "{}x{}".format(*ours.image.size)
    else:
        worst = difference(ours.image, theirs.image).max(axis=2)
        row.levels = int(worst.max())
        row.share = float((worst > threshold).mean())
        if row.levels > threshold:
            row.result = PIXELS
    return row


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    """Return the absolute difference of two images of one size, uint8 HxWx3."""
    first, second = np.asarray(a), np.asarray(b)
    return np.maximum(first, second) - np.minimum(first, second)


def thumbnails(ours: Reading, theirs: Reading, row: Row) -> Iterator[tuple[str, Image.Image]]:
    """Yield torchherd's image, Pillow's, and where they differ: black is equal, white differs."""
    for name, reading in (("torchherd", ours), ("pillow", theirs)):
        if reading.image is not None:
            yield name, reading.image
    if row.result == PIXELS:
        values = difference(ours.image, theirs.image).max(axis=2)
        yield "difference", Image.fromarray((values > 0).astype(np.uint8) * 127 + values // 2)


class Corpus:
    """A folder of images that is compared, and the folder of the sheet."""

    def __init__(self, folder: Path, out: Path, url: str, threshold: int) -> None:
        self.folder, self.out, self.url, self.threshold = folder, out, url, threshold

    def row(self, path: Path) -> Row:
        """Compare the two readings of a file. If they differ, write thumbnails of them to OUT."""
        name = path.relative_to(self.folder).as_posix()
        try:
            body = path.read_bytes()
        except OSError as error:
            return Row(name, FAILED, torchherd=f"cannot be read: {error.strerror}")
        ours, theirs = torchherd(self.url, body), pillow(body)
        row = compare(name, ours, theirs, self.threshold)
        if row.result in DIFFERENCES:
            for what, image in thumbnails(ours, theirs, row):
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                png = io.BytesIO()
                image.save(png, "PNG")
                # The name of a file is no part of it: it may be anything.
                thumbnail = f"images/{files.sha256(os.fsencode(name))[:16]}-{what}.png"
                files.write_whole(self.out / thumbnail, png.getvalue())
                row.thumbnails.append(thumbnail)
        return row


def find(folder: Path, out: Path) -> list[Path]:
    """Return the files below a folder but hidden ones and those below OUT, sorted by path.

    Raises ToolError if there is none. Names say nothing: a server gets files without suffixes, too.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_relative_to(out)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise ToolError(f"{folder}: no such folder, or no files in it; name a folder of images")
    return found


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write files.csv, which has a line for each file."""
    names = [column.name for column in fields(Row) if column.name != "thumbnails"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            f"{value:.4g}" if isinstance(value, float) else value
            for value in (getattr(row, name) for name in names)
        )
    files.write_whole(path, text.getvalue().encode(errors="surrogateescape"))


STYLE = """
body { font: 14px sans-serif; margin: 2em } table { border-collapse: collapse }
td, th { border: 1px solid #bbb; padding: 4px 8px; text-align: left; vertical-align: top }
img { image-rendering: pixelated; background: #eee }
"""


def write_sheet(path: Path, folder: Path, rows: list[Row], threshold: int) -> None:
    """Write index.html: the differences, those of one kind together."""
    lines = [
        "<!doctype html><meta charset=utf-8><title>torchherd beside Pillow</title>",
        f"<style>{STYLE}</style><h1>torchherd beside Pillow</h1>",
        f"<p>{html.escape(printable(str(folder)))}, threshold {threshold} levels</p>",
        f"<p>{summary(rows)}</p>",
    ]
    for kind in DIFFERENCES:
        chosen = [row for row in rows if row.result == kind]
        if not chosen:
            continue
        lines.append(f"<h2>{kind}: {len(chosen)}</h2><table>")
        lines.append("<tr><th>file<th>images<th>what<th>decoding: torchherd, Pillow</tr>")
        for row in chosen:
            images = " ".join(
                f'<img src="{name}" loading=lazy title="{name}">' for name in row.thumbnails
            )
            cells = printable(row.file), what(row), f"{ms(row.torchherd_ms)}, {ms(row.pillow_ms)}"
            first, second, third = map(html.escape, cells)
            lines.append(f"<tr><td>{first}<td>{images}<td>{second}<td>{third}</tr>")
        lines.append("</table>")
    files.write_whole(path, "\n".join([*lines, ""]).encode())


def what(row: Row) -> str:
    """Say in a line what differs."""
    parts = [f"{row.width}x{row.height}"] if row.width else []
    if row.result == PIXELS:
        parts.append(f"up to {row.levels} levels, {row.share:.2%} of the pixels")
    parts += [f"torchherd: {row.status} {row.torchherd}"] if row.torchherd else []
    parts += [f"Pillow: {row.pillow}"] if row.pillow else []
    return printable("; ".join(parts))


def ms(value: float | None) -> str:
    """Format a duration in milliseconds."""
    return "-" if value is None else f"{value:.1f} ms"


def summary(rows: list[Row]) -> str:
    """Say how many files agree, and how many differ in which way."""
    count = Counter(row.result for row in rows)
    parts = [f"{count[kind]} {kind}" for kind in (SAME, NEITHER, *DIFFERENCES) if count[kind]]
    return f"{len(rows)} files: {', '.join(parts)}"


def printable(text: str) -> str:
    """Replace what UTF-8 can't hold: a file's name may be any bytes."""
    return text.encode(errors="replace").decode()


@contextlib.contextmanager
def identity(jobs: int) -> Iterator[str]:
    """Run this checkout's torchherd with an identity model, and yield the URL that takes images."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "identity")
        (model / "1").mkdir(parents=True)
        shutil.copy(paths.testdata() / "modules" / "identity.pt", model / "1" / "model.pt")
        (model / "model.yaml").write_text(SETTINGS)
        program, models = shlex.quote(str(paths.torchherd())), shlex.quote(str(model))
        line = SERVER.format(program=program, models=models, jobs=jobs)
        with serving.started(line, START_SECONDS) as url:
            yield url


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser("parity-corpus", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--out", type=Path, default=Path("build/parity-corpus"), help="default: build/parity-corpus"
    )
    parser.add_argument(
        "--levels", type=int, default=2, help="largest difference of 0..255 that agrees; default: 2"
    )
    parser.add_argument(
        "--jobs",
        type=command.at_least_one,
        default=len(os.sched_getaffinity(0)),
        help="files at a time; 1 for times that can be compared; default: one per core",
    )
    parser.add_argument(
        "--server", metavar="URL", help="a running server in place of an own one: http://HOST/image"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command. Return the exit status: 0 if all files agree, 1 if not or on an error."""
    args = parse(arguments)
    # By default SIGTERM ends Python at once, and the server started here would keep running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Pillow warns of damaged metadata, and of images above half its limit.
    warnings.simplefilter("ignore")
    folder, out = args.folder.resolve(), args.out.resolve()
    try:
        found = find(folder, out)
        server = contextlib.nullcontext(args.server) if args.server else identity(args.jobs)
        with server as url, ThreadPoolExecutor(args.jobs) as pool:
            probe = io.BytesIO()
            Image.new("RGB", (8, 8)).save(probe, "PNG")
            serving.wait_until_serving(url, probe.getvalue(), START_SECONDS)
            rows = []
            for row in pool.map(Corpus(folder, out, url, args.levels).row, found):
                rows.append(row)
                if row.result in DIFFERENCES:
                    print(f"{row.result:24}{printable(row.file)}: {what(row)}", flush=True)
        write_csv(out / "files.csv", rows)
        write_sheet(out / "index.html", folder, rows, args.levels)
    except (ToolError, OSError) as error:
        return command.failed("parity-corpus", error)
    print(f"{summary(rows)}; {out / 'index.html'}")
    return 1 if any(row.result in DIFFERENCES for row in rows) else 0
