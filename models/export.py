#!/usr/bin/env python3
"""Export a CycleGAN generator as a file that torchherd serves, or tell what a model's file is.

  export.py WEIGHTS.pth -o OUT.pt     export; more below
  export.py info FILE                 format, architecture, input, weights, size, digest, maker

The generator comes from a weights file in the layout of horse2zebra_0.4.0.pth, or, with --random,
from a seed. The exported module takes float [N, 3, H, W] in 0..1 and gives the same range. It is
read back and compared with PyTorch's eager result before it takes its place.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import files
import formats
import generator
import half
import info

BATCHES = (1, 2, 5)
SIZES = ((64, 64), (96, 72))
MAX_DIFFERENCE = 1e-5
# A compiled package orders its sums otherwise, and instance norm makes more of that.
MAX_PACKAGE_DIFFERENCE = 1e-4
MIN_HALF_PSNR = 40.0
MADE_BY = f"torchherd models/export.py, PyTorch {torch.__version__.partition('+')[0]}"


class ExportError(Exception):
    """The export cannot be done. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Options:
    """How to export.

    format is "torchscript", made by a method, "trace" or "script", or "pt2", an AOTInductor package
    for this machine's CPU. With half, the weights are kept as float16. size is what a server
    resizes pictures to, "WIDTHxHEIGHT" or "keep"; a package takes that size alone, and batches from
    the first to the second number of batch.
    """

    format: str = "torchscript"
    method: str = "trace"
    half: bool = False
    size: str = "228x228"
    batch: tuple[int, int] = (1, 16)


DEFAULTS = Options()


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
    with formats.quiet_jit():
        if method == "script":
            return torch.jit.script(module)
        # check() compares more than check_trace would, and at other batch sizes.
        return torch.jit.trace(module, torch.rand(1, 3, 64, 64), check_trace=False)


def to_package(module: torch.nn.Module, options: Options, settings: formats.Settings) -> bytes:
    """The module as a .pt2. Raises ExportError when it cannot be compiled here, or has no size."""
    if options.size == "keep":
        raise ExportError("a .pt2 takes pictures of one size; give --size WIDTHxHEIGHT")
    height, width = _sides(options.size)
    try:
        return formats.package_bytes(module, (3, height, width), options.batch, settings)
    except Exception as error:
        # The compiler's errors have no common class. The first line says what; the rest is a trace.
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"AOTInductor could not compile the model ({type(error).__name__}: {reason}); "
            "is there a C++ compiler? --format torchscript needs none"
        ) from error


def _sides(size: str) -> tuple[int, int]:
    """Height and width of a size, "WIDTHxHEIGHT"."""
    width, height = map(int, size.split("x"))
    return height, width


def check(
    exported: Callable[[Tensor], Tensor],
    module: torch.nn.Module,
    shapes: list[tuple[int, int, int]],
    limit: float,
) -> float:
    """Compare an exported model with the eager module, on seeded noise.

    shapes are (N, H, W). Gives the greatest absolute difference (the range is 0..1). Raises
    ExportError when it is above the limit or not a number.
    """
    worst = 0.0
    for x in noise(shapes):
        with torch.inference_mode():
            difference = (exported(x) - module(x)).abs().max().item()
        # Written so that NaN, which no comparison holds for, fails too.
        if not difference <= limit:
            raise ExportError(
                f"the exported module differs from eager PyTorch by {difference:.2g} at "
                f"{list(x.shape)}, more than {limit:g}; "
                "nothing was written; check the weights, or try another --method"
            )
        worst = max(worst, difference)
    return worst


def noise(shapes: list[tuple[int, int, int]]) -> list[Tensor]:
    """Seeded noise in 0..1, float [N, 3, H, W], for shapes (N, H, W)."""
    source = torch.Generator().manual_seed(0)
    return [torch.rand(n, 3, h, w, generator=source) for n, h, w in shapes]


def narrow(module: generator.ScaledGenerator) -> tuple[generator.ScaledGenerator, float]:
    """The module with float16 weights, and how near its pictures stay: the least PSNR in dB.

    Raises ExportError when that is below MIN_HALF_PSNR.
    """
    narrowed = half.with_half_weights(module)
    worst = math.inf
    for x in noise([(1, height, width) for height, width in SIZES]):
        with torch.inference_mode():
            error = (narrowed(x) - module(x)).square().mean().item()
        worst = min(worst, -10 * math.log10(max(error, 1e-12)) if error == error else -math.inf)
    if worst < MIN_HALF_PSNR:
        raise ExportError(
            f"with float16 weights the pictures keep {worst:.1f} dB of the full ones, wanted "
            f"{MIN_HALF_PSNR:g}; nothing was written; leave out --half"
        )
    return narrowed, worst


def export(module: generator.ScaledGenerator, out: Path, options: Options = DEFAULTS) -> str:
    """Write the module to out, if it passes check(). Gives a line that says so.

    Raises ExportError, and leaves out as it was, when the check fails.
    """
    says = []
    how = f"by {options.method}" if options.format == "torchscript" else "by AOTInductor"
    settings = formats.Settings(
        options.size,
        (0.0, 1.0),
        generator.find_layout(module.generator.state_dict()).describe(),
        MADE_BY,
    )
    if options.half:
        module, kept = narrow(module)
        says.append(f"float16 weights keep {kept:.1f} dB")
    if options.format == "pt2":
        data = to_package(module, options, settings)
    else:
        data = formats.torchscript_bytes(to_torchscript(module, options.method), settings)

    def verify(part: Path) -> None:
        if formats.read_settings(part) != settings:
            raise ExportError(f"{out}: the settings inside came back changed; nothing was written")
        if options.format == "pt2":
            height, width = _sides(options.size)
            low, high = options.batch
            shapes = [(n, height, width) for n in sorted({low, min(low + 1, high), high})]
            worst = check(formats.load_package(part), module, shapes, MAX_PACKAGE_DIFFERENCE)
        else:
            shapes = [(n, height, width) for n in BATCHES for height, width in SIZES]
            worst = check(formats.load_torchscript(part), module, shapes, MAX_DIFFERENCE)
        says.append(f"differs from eager by at most {worst:.2g}")

    files.write_whole(out, data, verify)
    made = f"{out}: {len(data)} bytes, {how}, sha256 {files.sha256(data)}"
    return ", ".join([made, *says])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  export.py horse2zebra_0.4.0.pth -o model.pt\n"
        "  export.py horse2zebra_0.4.0.pth -o model.pt2 --format pt2 --size 256x256\n"
        "  export.py --random --seed 0 -o benchmark.pt\n"
        "  export.py info model.pt",
    )
    parser.add_argument(
        "weights", nargs="?", type=Path, metavar="WEIGHTS.pth", help="a generator's state dict"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.pt", help="the file to write"
    )
    parser.add_argument(
        "--format",
        choices=("torchscript", "pt2"),
        default=DEFAULTS.format,
        help="pt2: an AOTInductor package, compiled for this machine's CPU; default: %(default)s",
    )
    parser.add_argument(
        "--method",
        choices=("trace", "script"),
        default=DEFAULTS.method,
        help="how TorchScript is made; default: %(default)s",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="keep the weights as float16, half the size; refused below "
        f"{MIN_HALF_PSNR:g} dB of the full ones' pictures. The model computes in float32",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default=DEFAULTS.size,
        metavar="WIDTHxHEIGHT",
        help="size that a server resizes pictures to, or keep; stands in the file; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--dynamic-batch",
        type=_batch,
        default=DEFAULTS.batch,
        metavar="MIN:MAX",
        help="batch sizes that a .pt2 takes; default: 1:16",
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


def _size(text: str) -> str:
    if text != "keep":
        width, _, height = text.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) > 4 and int(height) > 4):
            raise argparse.ArgumentTypeError(
                f"{text} is no size; write it like 228x228 (at least 5 a side), or keep"
            )
    return text


def _batch(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"{text} is no range of batch sizes; write it like 1:16")
    return int(low), int(high)


def at_least_one(text: str) -> int:
    """A whole number from 1 on, as a type for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    if arguments[:1] == ["info"]:
        return info.main(arguments[1:])
    args = parse(arguments)
    try:
        if args.random:
            layout = generator.Layout(args.ngf, args.blocks, args.resize)
            module = generator.from_state(generator.random_state(layout, args.seed, args.gain))
        else:
            module = load_generator(args.weights)
        options = Options(args.format, args.method, args.half, args.size, args.dynamic_batch)
        print(export(module, args.out, options))
    except (ExportError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
