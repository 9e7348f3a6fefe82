#!/usr/bin/env python3
"""PyTorch's own loop without a server: a model run in Python, batch after batch, on noise.

With a TorchScript file, that; without one, the network that `models/export.py --random --seed 0`
exports, eager. Prints one line of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))

import argument_types
import formats
import generator

SIDE = 228
SEED = 0
WARM_UPS = 3


def load(model: Path | None) -> Callable[[Tensor], Tensor]:
    """The TorchScript module of a file, or the eager network."""
    if model is not None:
        return formats.load_torchscript(model)
    return generator.from_state(generator.random_state(generator.PUBLISHED, SEED)).eval()


def pictures_per_second(model: Callable[[Tensor], Tensor], batch: int, seconds: float) -> float:
    """How many pictures the model runs in a second, in batches, over at least so many seconds."""
    pictures = torch.rand(batch, 3, SIDE, SIDE)
    with torch.inference_mode():
        for _ in range(WARM_UPS):
            model(pictures)
        done = 0
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            model(pictures)
            done += batch
    return done / elapsed


def main(arguments: list[str]) -> int:
    """Run the loop and print how fast it was. Gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL.pt")
    parser.add_argument("--batch", type=argument_types.at_least_one, default=4, help="default: 4")
    parser.add_argument(
        "--threads", type=argument_types.at_least_one, help="default: PyTorch's own choice"
    )
    parser.add_argument("--seconds", type=float, default=5, help="default: 5")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    rate = pictures_per_second(load(args.model), args.batch, args.seconds)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
