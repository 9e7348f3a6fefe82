"""The output of a training run: progress, losses as CSV and as a plot, a grid of samples."""

import csv
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from torchherd_tools import files
from torchherd_tools.training import folders
from torchherd_tools.training.cyclegan import LOSSES, CycleGAN

COLUMNS = ("step", "seconds", "rate", *LOSSES)
SAMPLES = 4


class LossLog:
    """The losses.csv of a run: one row for several steps, with the mean of each loss.

    Rows after the given step are removed: a run that resumes from an older checkpoint writes them
    again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows = [row for row in read_losses(path) if row[0] <= step]
        files.write_whole(path, _csv([COLUMNS, *self.rows]))

    def append(self, step: int, seconds: float, rate: float, losses: Sequence[float]) -> None:
        """Append a row: steps and seconds since the start, Adam's rate, the mean losses."""
        row = [step, round(seconds, 2), rate, *(round(loss, 5) for loss in losses)]
        self.rows.append(row)
        with self.path.open("ab") as out:
            out.write(_csv([row]))


def read_losses(path: Path) -> list[list[float]]:
    """Return the rows of a losses.csv as numbers, in the order of COLUMNS; none without a file.

    An incomplete last line, which a crash leaves, is ignored.
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
    """Plot the losses over the steps as PNG. The rows are those of LossLog, or none.

    The vertical axis ends above 99% of the values, so that one spike does not flatten the rest.
    """
    # pyplot would keep a reference to the figure and look for a display.
    figure = Figure(figsize=(10, 5.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    for column, name in enumerate(LOSSES, start=3):
        axes.plot([row[0] for row in rows], [row[column] for row in rows], label=name, linewidth=1)
    if rows:
        axes.set_ylim(0, 1.05 * np.percentile([row[3:] for row in rows], 99) or None)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(color="0.9")
    figure.legend(loc="outside right upper", frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    files.write_whole(path, out.getvalue())


class Progress:
    """Progress, speed and losses of a run: a bar on a terminal, else one line per report."""

    def __init__(self, step: int, steps: int) -> None:
        self._first, self._steps = step, steps
        self._begin = time.monotonic()
        self._bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            file=sys.stdout,
            disable=None,  # disabled without a terminal
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """Count a step."""
        self._bar.update()

    def show(self, step: int, losses: Sequence[float]) -> None:
        """Show the losses after a step, each for both directions."""
        text = ", ".join(
            f"{name.rpartition('_')[0]} {losses[i]:.3f}/{losses[i + 1]:.3f}"
            for i, name in enumerate(LOSSES)
            if i % 2 == 0
        )
        if not self._bar.disable:
            self._bar.set_postfix_str(text)
            return
        line = tqdm.format_meter(
            step,
            self._steps,
            time.monotonic() - self._begin,
            ncols=0,
            unit="step",
            postfix=text,
            initial=self._first,
        )
        print(line, flush=True)


def write_samples(
    gan: CycleGAN, a: folders.ImageFolder, b: folders.ImageFolder, path: Path
) -> None:
    """Write a grid of translations as PNG, with SAMPLES columns and six rows.

    The rows are A, A to B, and back to A; B, B to A, and back to B. The images are spread evenly
    over each folder, and are the same in each grid.
    """
    rows = []
    for folder, direction in ((a, "ab"), (b, "ba")):
        real = torch.stack([folder.middle(i * len(folder) // SAMPLES) for i in range(SAMPLES)])
        rows += [real, *(each.cpu() for each in gan.there_and_back(real, direction))]
    files.write_whole(path, _png(_grid(rows)))


def _grid(rows: Sequence[Tensor]) -> Image.Image:
    """Join rows of images, each [N, 3, H, W] in -1..1, to one image."""
    joined = torch.cat([torch.cat(tuple(row), dim=2) for row in rows], dim=1)
    return Image.fromarray(folders.to_pixels(joined).permute(1, 2, 0).numpy())


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
