#!/usr/bin/env python3
"""Export a CycleGAN generator as a TorchScript file that torchherd serves.

The generator comes from a weights file in the layout of horse2zebra_0.4.0.pth, or, with --random,
from a seed. The exported module takes float [N, 3, H, W] in 0..1 and gives the same range. It is
read back and compared with PyTorch's eager result before it takes its place.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import files
import generator

BATCHES = (1, 2, 5)
SIZES = ((64, 64), (96, 72))
MAX_DIFFERENCE = 1e-5


class ExportError(Exception):
    """The export cannot be done. The text says what happened, to what, and what to do."""


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a weights file: from key to floating-point tensor, on the CPU.

    Raises ExportError when the file cannot be read or holds something else. Runs no code from the
    file (weights_only).
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # Given a TorchScript file, torch.load warns before it refuses.
            warnings.filterwarnings("ignore", message=r"'torch\.load' received a zip file")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What torch.load raises depends on where the bytes stop making sense: there is no closed
        # list, and its own text is several paragraphs about pickle.
        raise ExportError(
            f"{path}: not a weights file ({type(error).__name__}); "
            "give one made by torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(state, Mapping):
        raise ExportError(f"{path}: holds a {type(state).__name__}, wanted a state dict")
    for key, weight in state.items():
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise ExportError(f"{path}: {key} is not a floating-point tensor")
    return state


def load_generator(path: Path) -> generator.ScaledGenerator:
    """The generator whose weights are in a file. Raises ExportError when they do not fit."""
    try:
        return generator.from_state(read_state(path))
    except generator.LayoutError as error:
        raise ExportError(f"{path}: not a CycleGAN generator: {error}") from error


def to_torchscript(module: torch.nn.Module, method: str) -> torch.jit.ScriptModule:
    """The module in TorchScript. method is "trace" or "script"."""
    with files.quiet_jit():
        if method == "script":
            return torch.jit.script(module)
        # check() compares more than check_trace would, and at other batch sizes.
        return torch.jit.trace(module, torch.rand(1, 3, 64, 64), check_trace=False)


def check(module: torch.nn.Module, path: Path) -> float:
    """Compare the exported file with the eager module at BATCHES and SIZES, on seeded noise.

    Gives the greatest absolute difference (the range is 0..1). Raises ExportError when it is above
    MAX_DIFFERENCE or not a number.
    """
    exported = files.load_torchscript(path)
    source = torch.Generator().manual_seed(0)
    worst = 0.0
    with torch.inference_mode():
        for batch in BATCHES:
            for height, width in SIZES:
                x = torch.rand(batch, 3, height, width, generator=source)
                difference = (exported(x) - module(x)).abs().max().item()
                # Written so that NaN, which no comparison holds for, fails too.
                if not difference <= MAX_DIFFERENCE:
                    raise ExportError(
                        f"the exported module differs from eager PyTorch by {difference:.2g} at "
                        f"[{batch}, 3, {height}, {width}], more than {MAX_DIFFERENCE:g}; "
                        "nothing was written; check the weights, or try the other --method"
                    )
                worst = max(worst, difference)
    return worst


def export(module: torch.nn.Module, out: Path, method: str = "trace") -> str:
    """Write the module to out as TorchScript, if it passes check(). Gives a line that says so.

    Raises ExportError, and leaves out as it was, when the check fails.
    """
    data = files.torchscript_bytes(to_torchscript(module, method))
    differences = []
    files.write_whole(out, data, lambda part: differences.append(check(module, part)))
    return (
        f"{out}: {len(data)} bytes, by {method}, sha256 {files.sha256(data)}, "
        f"differs from eager by at most {differences[0]:.2g}"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  export.py horse2zebra_0.4.0.pth -o model.pt\n"
        "  export.py --random --seed 0 -o benchmark.pt",
    )
    parser.add_argument(
        "weights", nargs="?", type=Path, metavar="WEIGHTS.pth", help="a generator's state dict"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.pt", help="the file to write"
    )
    parser.add_argument(
        "--method", choices=("trace", "script"), default="trace", help="default: trace"
    )
    drawn = parser.add_argument_group("seeded weights in place of a file, untrained")
    drawn.add_argument("--random", action="store_true", help="draw the weights from --seed")
    drawn.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    drawn.add_argument(
        "--ngf",
        type=at_least_one,
        default=generator.PUBLISHED_NGF,
        metavar="N",
        help="filters of the first layer; default: %(default)s, as published",
    )
    drawn.add_argument(
        "--blocks",
        type=at_least_one,
        default=generator.PUBLISHED_BLOCKS,
        metavar="N",
        help="ResNet blocks; default: %(default)s, as published",
    )
    drawn.add_argument(
        "--gain",
        type=float,
        default=generator.PUBLISHED_GAIN,
        metavar="X",
        help="standard deviation of the weights; default: %(default)s, as published",
    )
    drawn.add_argument(
        "--resize",
        action="store_true",
        help="double sizes by repeating pixels, and pad by reflection",
    )
    args = parser.parse_args(arguments)
    if args.random == (args.weights is not None):
        parser.error("give either WEIGHTS.pth or --random")
    return args


def at_least_one(text: str) -> int:
    """A whole number from 1 on, as a type for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        if args.random:
            layout = generator.Layout(args.ngf, args.blocks, args.resize)
            module = generator.from_state(generator.random_state(layout, args.seed, args.gain))
        else:
            module = load_generator(args.weights)
        print(export(module, args.out, args.method))
    except (ExportError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
