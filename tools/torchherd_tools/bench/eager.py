"""Time a model in PyTorch's own loop, without a server: batch after batch of noise.

The model is a TorchScript file, or by default the eager network that `export --random --seed 0`
exports. Prints one line of JSON.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from torchherd_tools import command
from torchherd_tools.models import formats, generator

SIDE = 228
SEED = 0
WARM_UPS = 3


def load(model: Path | None) -> Callable[[Tensor], Tensor]:
    """Return the TorchScript module of a file, or the eager network."""
    if model is not None:
        return formats.load_torchscript(model)
    return generator.from_state(generator.random_state(generator.PUBLISHED, SEED)).eval()


def images_per_second(model: Callable[[Tensor], Tensor], batch: int, seconds: float) -> float:
    """Return the model's images per second, measured in batches for at least these seconds."""
    images = torch.rand(batch, 3, SIDE, SIDE)
    with torch.inference_mode():
        for _ in range(WARM_UPS):
            model(images)
        done = 0
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            model(images)
            done += batch
    return done / elapsed


def main(arguments: list[str]) -> int:
    """Run the loop and print its speed. Return the exit status."""
    parser = command.parser("eager", __doc__)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL.pt")
    parser.add_argument("--batch", type=command.at_least_one, default=4, help="default: 4")
    parser.add_argument("--threads", type=command.at_least_one, help="default: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=5, help="default: 5")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    rate = images_per_second(load(args.model), args.batch, args.seconds)
    print(
        json.dumps(
            {
                "floor": "eager" if args.model is None else "torchscript",
                "batch": args.batch,
                "threads": torch.get_num_threads(),
                "pictures_per_second": rate,
            }
        )
    )
    return 0
