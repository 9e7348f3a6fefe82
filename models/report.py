"""What a training run shows of itself: losses as CSV and as a plot, samples as a grid."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import files
import pictures
from cyclegan import LOSSES, CycleGAN

COLUMNS = ("step", "seconds", "rate", *LOSSES)
SAMPLES = 4

_PLOT = (1000, 520)
_MARGIN = (60, 20, 190, 40)  # left, top, right, bottom
_GRID_LINES = 5
_WHITE, _GREY, _BLACK = (255, 255, 255), (215, 215, 215), (40, 40, 40)
_COLOURS = (
    (31, 119, 180),
    (23, 190, 207),
    (214, 39, 40),
    (255, 127, 14),
    (44, 160, 44),
    (188, 189, 34),
    (148, 103, 189),
    (227, 119, 194),
)


class LossLog:
    """losses.csv of a run: a row each few steps, with the mean of every loss since the row before.

    Opened at a step, it drops the rows beyond it: a run that goes on from an older checkpoint makes
    them again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows = [row for row in read_losses(path) if row[0] <= step]
        files.write_whole(path, _csv([COLUMNS, *self.rows]))

    def append(self, step: int, seconds: float, rate: float, losses: Sequence[float]) -> None:
        """Add a row: steps and seconds since the training began, Adam's rate, the mean losses."""
        row = [step, round(seconds, 2), rate, *(round(loss, 5) for loss in losses)]
        self.rows.append(row)
        with self.path.open("ab") as out:
            out.write(_csv([row]))


def read_losses(path: Path) -> list[list[float]]:
    """The rows of a losses.csv as numbers, in the order of COLUMNS; none when there is no file.

    A last line that a crash cut short is left out.
    """
    if not path.exists():
        return []
    whole_lines = path.read_text().split("\n")[:-1]
    return [[int(row[0]), *map(float, row[1:])] for row in csv.reader(whole_lines[1:])]


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def write_plot(rows: Sequence[Sequence[float]], path: Path) -> None:
    """Draw the losses over the steps as PNG. Rows are those of LossLog; with none, only the axes.

    The axis ends where 99% of the values lie below, so that one spike does not flatten the rest.
    """
    image = Image.new("RGB", _PLOT, _WHITE)
    draw = ImageDraw.Draw(image)
    values = sorted(value for row in rows for value in row[3:]) or [1.0]
    top = max(values[int(0.99 * (len(values) - 1))], 1e-6)
    last = max((row[0] for row in rows), default=1)
    _draw_axes(draw, top, last)
    for column, (name, colour) in enumerate(zip(LOSSES, _COLOURS, strict=True)):
        line = [_place(row[0] / last, min(row[3 + column] / top, 1)) for row in rows]
        draw.line(line, fill=colour, width=2)
        right, height = _PLOT[0] - _MARGIN[2] + 12, _MARGIN[1] + 20 * column
        draw.rectangle((right, height + 3, right + 14, height + 9), fill=colour)
        draw.text((right + 20, height), name, fill=_BLACK)
    files.write_whole(path, _png(image))


def _draw_axes(draw: ImageDraw.ImageDraw, top: float, last: float) -> None:
    for i in range(_GRID_LINES + 1):
        part = i / _GRID_LINES
        draw.line([_place(0, part), _place(1, part)], fill=_GREY)
        left, height = _place(0, part)
        draw.text((left - 8, height), f"{top * part:.3g}", fill=_BLACK, anchor="rm")
        across, bottom = _place(part, 0)
        draw.text((across, bottom + 8), f"{last * part:.0f}", fill=_BLACK, anchor="mt")
    middle, bottom = _place(0.5, 0)
    draw.text((middle, bottom + 24), "step", fill=_BLACK, anchor="mt")


def _place(across: float, up: float) -> tuple[float, float]:
    """Where in the plot a point is, by 0..1 from the left and from below."""
    left, above, right, below = _MARGIN
    width, height = _PLOT[0] - left - right, _PLOT[1] - above - below
    return left + across * width, above + (1 - up) * height


def write_samples(
    gan: CycleGAN, a: pictures.PictureFolder, b: pictures.PictureFolder, path: Path
) -> None:
    """Write a grid of translations as PNG, with SAMPLES columns and six rows.

    The rows: A, A to B, and back to A; B, B to A, and back to B. The pictures lie evenly over each
    folder, and are always the same.
    """
    rows = []
    for folder, direction in ((a, "ab"), (b, "ba")):
        real = torch.stack([folder.middle(i * len(folder) // SAMPLES) for i in range(SAMPLES)])
        rows += [real, *(made.cpu() for made in gan.there_and_back(real, direction))]
    files.write_whole(path, _png(_grid(rows)))


def _grid(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of pictures, each [N, 3, H, W] in -1..1, as one picture."""
    joined = torch.cat([torch.cat(tuple(row), dim=2) for row in rows], dim=1)
    return Image.fromarray(pictures.to_pixels(joined).permute(1, 2, 0).numpy())


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
