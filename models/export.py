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
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

import argument_types
import checks
import files
import formats
import generator
import half
import info
import precision

BATCHES = (1, 2, 5)
SIZES = ((64, 64), (96, 72))
MAX_DIFFERENCE = 1e-5
# A compiled package orders its sums otherwise, and instance norm makes more of that.
MAX_PACKAGE_DIFFERENCE = 1e-4
MIN_HALF_PSNR = 40.0
MIN_REDUCED_PSNR = 35.0
MADE_BY = f"torchherd models/export.py, PyTorch {torch.__version__.partition('+')[0]}"


class ExportError(Exception):
    """The export cannot be done. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Options:
    """How to export.

    format is "torchscript" or "pt2", an AOTInductor package; dtype is what the model computes in, a
    name of precision.DTYPES; size is what a server resizes pictures to, "WIDTHxHEIGHT" or "keep".

    For TorchScript alone: method is "trace" or "script"; with half, the weights are kept as float16
    and computed with in float32. For a package alone, which takes the one size: batch is the least
    and the greatest number of pictures, device "cpu" or "cuda", and freeze whether the weights are
    laid out for that device.
    """

    format: str = "torchscript"
    dtype: str = "fp32"
    size: str = "228x228"
    method: str = "trace"
    half: bool = False
    batch: tuple[int, int] = (1, 16)
    device: str = "cpu"
    freeze: bool = True


DEFAULTS = Options()
# Options that one format alone has, by their flags.
TORCHSCRIPT_ALONE = {"--method": "method", "--half": "half"}
PT2_ALONE = {"--dynamic-batch": "batch", "--device": "device", "--[no-]freeze": "freeze"}


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
        # compare() tries more than check_trace would, and at other batch sizes.
        return torch.jit.trace(module, torch.rand(1, 3, 64, 64), check_trace=False)


def to_package(module: torch.nn.Module, settings: formats.Settings, freeze: bool) -> bytes:
    """The module as a .pt2. Raises ExportError when it cannot be compiled here."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ExportError(
            "a .pt2 for CUDA is compiled on a GPU, and PyTorch finds none here; "
            "export on the machine that will serve it, or leave out --device"
        )
    try:
        return formats.package_bytes(module, settings, freeze)
    except Exception as error:
        # The compiler's errors have no common class. The first line says what; the rest is a trace.
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"AOTInductor could not compile the model ({type(error).__name__}: {reason}); "
            "is there a C++ compiler, and Triton for CUDA? --format torchscript needs neither"
        ) from error


def settings_for(module: generator.ScaledGenerator, options: Options) -> formats.Settings:
    """What the file says of itself. Raises ExportError when a .pt2 is to have no size."""
    common = formats.Settings(
        options.size,
        (0.0, 1.0),
        generator.find_layout(module.generator.state_dict()).describe(),
        MADE_BY,
        options.dtype,
    )
    if options.format == "torchscript":
        return common
    if options.size == "keep":
        raise ExportError("a .pt2 takes pictures of one size; give --size WIDTHxHEIGHT")
    shape = (3, *_sides(options.size))
    return replace(common, input=shape, batch=options.batch, device=options.device)


def _sides(size: str) -> tuple[int, int]:
    """Height and width of a size, "WIDTHxHEIGHT"."""
    width, height = map(int, size.split("x"))
    return height, width


def narrow(module: generator.ScaledGenerator) -> tuple[generator.ScaledGenerator, float]:
    """The module with float16 weights, and how near its pictures stay: the least PSNR in dB.

    Raises ExportError when that is below MIN_HALF_PSNR.
    """
    narrowed = half.with_half_weights(module)
    kept = checks.least_psnr(narrowed, module, checks.noise((1, *size) for size in SIZES))
    _want(kept, MIN_HALF_PSNR, "with float16 weights", "--half")
    return narrowed, kept


def compare(path: Path, module: generator.ScaledGenerator, options: Options) -> str:
    """Compare a file with the eager module, on the CPU in float32. Gives a line on how near it is.

    Raises ExportError when it is not near enough.
    """
    package = options.format == "pt2"
    if package:
        low, high = options.batch
        sides = _sides(options.size)
        shapes = [(n, *sides) for n in sorted({low, min(low + 1, high), high})]
        exported, limit = formats.load_package(path, options.device), MAX_PACKAGE_DIFFERENCE
    else:
        sides = _sides(DEFAULTS.size if options.size == "keep" else options.size)
        shapes = [(n, *size) for n in BATCHES for size in SIZES]
        exported, limit = formats.load_torchscript(path), MAX_DIFFERENCE
    pictures = checks.noise(shapes)
    if options.dtype == "fp32":
        worst = checks.worst_difference(exported, module, pictures)
        # Written so that NaN, which no comparison holds for, fails too.
        if not worst <= limit:
            raise ExportError(
                f"the exported module differs from eager PyTorch by {worst:.2g}, more than "
                f"{limit:g}; nothing was written; check the weights, or try another "
                + ("--format" if package else "--method")
            )
        return f"differs from eager by at most {worst:.2g}"
    photograph = checks.photograph(*sides).expand(shapes[0][0], -1, -1, -1)
    kept = checks.least_psnr(exported, module, [*pictures, photograph])
    _want(kept, MIN_REDUCED_PSNR, f"in {options.dtype}", "--dtype")
    return f"{options.dtype} keeps {kept:.1f} dB"


def _want(kept: float, least: float, how: str, flag: str) -> None:
    """Raise ExportError when pictures keep fewer dB than at least wanted, or none that count."""
    if math.isnan(kept) or kept < least:
        raise ExportError(
            f"{how} the pictures keep {kept:.1f} dB of the full ones, wanted {least:g}; "
            f"nothing was written; leave out {flag}"
        )


def export(module: generator.ScaledGenerator, out: Path, options: Options = DEFAULTS) -> str:
    """Write the module to out, if it passes compare(). Gives a line that says so.

    Raises ExportError, and leaves out as it was, when the comparison fails.
    """
    says = []
    settings = settings_for(module, options)
    if options.half:
        module, kept = narrow(module)
        says.append(f"float16 weights keep {kept:.1f} dB")
    made = precision.computing_in(module, options.dtype)
    if options.format == "pt2":
        how = "by AOTInductor"
        data = to_package(made, settings, options.freeze)
    else:
        how = f"by {options.method}"
        data = formats.torchscript_bytes(to_torchscript(made, options.method), settings)

    def verify(part: Path) -> None:
        if formats.read_settings(part) != settings:
            raise ExportError(f"{out}: the settings inside came back changed; nothing was written")
        says.append(compare(part, module, options))

    files.write_whole(out, data, verify)
    return ", ".join([f"{out}: {len(data)} bytes, {how}, sha256 {files.sha256(data)}", *says])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # Of the options, those that were not given leave no attribute; Options has their defaults.
        argument_default=argparse.SUPPRESS,
        epilog="examples:\n"
        "  export.py horse2zebra_0.4.0.pth -o model.pt\n"
        "  export.py horse2zebra_0.4.0.pth -o model.pt2 --format pt2 --dtype bf16 --size 256x256\n"
        "  export.py --random --seed 0 -o benchmark.pt\n"
        "  export.py info model.pt",
    )
    parser.add_argument(
        "weights",
        nargs="?",
        type=Path,
        default=None,
        metavar="WEIGHTS.pth",
        help="a generator's state dict",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.pt", help="the file to write"
    )
    _add_options(parser)
    drawn = parser.add_argument_group("seeded weights in place of a file, untrained")
    drawn.add_argument(
        "--random", action="store_true", default=False, help="draw the weights from --seed"
    )
    drawn.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    drawn.add_argument(
        "--ngf",
        type=argument_types.at_least_one,
        default=generator.PUBLISHED_NGF,
        metavar="N",
        help="filters of the first layer; default: %(default)s, as published",
    )
    drawn.add_argument(
        "--blocks",
        type=argument_types.at_least_one,
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
        default=False,
        help="double sizes by repeating pixels, and pad by reflection",
    )
    args = parser.parse_args(arguments)
    if args.random == (args.weights is not None):
        parser.error("give either WEIGHTS.pth or --random")
    package = getattr(args, "format", DEFAULTS.format) == "pt2"
    for flag, name in (TORCHSCRIPT_ALONE if package else PT2_ALONE).items():
        if name in args:
            parser.error(f"{flag} is for --format {'torchscript' if package else 'pt2'}")
    if "half" in args and "dtype" in args:
        parser.error("--dtype says how wide the weights are: leave out --half")
    return args


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of Options."""
    parser.add_argument(
        "--format",
        choices=("torchscript", "pt2"),
        help=f"pt2: an AOTInductor package, compiled for this machine; default: {DEFAULTS.format}",
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(precision.DTYPES),
        help="what the model computes in; its tensors in and out are float32. Refused below "
        f"{MIN_REDUCED_PSNR:g} dB of float32's pictures; default: {DEFAULTS.dtype}",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="size that a server resizes pictures to, or keep; stands in the file; "
        f"default: {DEFAULTS.size}",
    )
    script = parser.add_argument_group("for TorchScript alone")
    script.add_argument(
        "--method",
        choices=("trace", "script"),
        help=f"how it is made; default: {DEFAULTS.method}",
    )
    script.add_argument(
        "--half",
        action="store_true",
        help="keep the weights as float16, half the size; refused below "
        f"{MIN_HALF_PSNR:g} dB of the full ones' pictures. The model computes in float32",
    )
    package = parser.add_argument_group("for pt2 alone")
    package.add_argument(
        "--dynamic-batch",
        type=_batch,
        dest="batch",
        metavar="MIN:MAX",
        help="batch sizes that it takes; default: {}:{}".format(*DEFAULTS.batch),
    )
    package.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help=f"what it is compiled for; cuda needs a GPU here; default: {DEFAULTS.device}",
    )
    package.add_argument(
        "--freeze",
        action=argparse.BooleanOptionalAction,
        help="lay the weights out for the device, which is faster; default: --freeze",
    )


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
        given = {
            each.name: getattr(args, each.name) for each in fields(Options) if each.name in args
        }
        print(export(module, args.out, Options(**given)))
    except (ExportError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
