"""Export a CycleGAN generator, or a TorchScript file, as a file that torchherd serves.

The weights come from a file in the layout of horse2zebra_0.4.0.pth, or, with --random, from a seed.
The exported module takes float [N, 3, H, W] in 0..1 and returns the same range. Before the file
replaces an older one, it is loaded and compared with PyTorch's eager result.

With --format pt2, WEIGHTS can be any TorchScript file of one input: it is converted, and the
package compared with it.
"""

import argparse
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from torchherd_tools import command, files
from torchherd_tools.errors import ToolError
from torchherd_tools.models import checks, conversion, formats, generator, half, precision

BATCHES = (1, 2, 5)
SIZES = ((64, 64), (96, 72))
MAX_DIFFERENCE = 1e-5
# A compiled package sums in another order, and instance norm amplifies the difference.
MAX_PACKAGE_DIFFERENCE = 1e-4
MIN_HALF_PSNR = 40.0
MIN_REDUCED_PSNR = 35.0
MADE_BY = f"torchherd_tools export, PyTorch {torch.__version__.partition('+')[0]}"


class ExportError(ToolError):
    """The model cannot be exported."""


@dataclass(frozen=True)
class Options:
    """Options of an export.

    format is "torchscript", or "pt2" for an AOTInductor package. dtype is what the model computes
    in, a name of precision.DTYPES. size is the size that a server resizes images to,
    "WIDTHxHEIGHT" or "keep".

    For TorchScript only: method is "trace" or "script"; with half, the weights are stored as
    float16 and the model computes in float32. For a package only, which takes one size: batch is
    the minimum and maximum batch size, device is "cpu" or "cuda", and with freeze the weights
    get the memory layout of that device.
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
# Options of one format only, by their flags.
TORCHSCRIPT_ONLY = {"--method": "method", "--half": "half"}
PT2_ONLY = {
    "--dynamic-batch": "batch",
    "--device": "device",
    "--[no-]freeze": "freeze",
    "--output": "output",
}


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict of a weights file: floating-point tensors by key, on the CPU.

    Raises ExportError if the file cannot be read or holds something else. No code of the file runs
    (weights_only).
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # torch.load warns about a TorchScript file before it raises.
            warnings.filterwarnings("ignore", message=r"'torch\.load' received a zip file")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load documents no list of exceptions, and its own text is several paragraphs about
        # pickle.
        raise ExportError(
            f"{path}: not a weights file ({type(error).__name__}); "
            "use one made by torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(state, Mapping):
        raise ExportError(f"{path}: holds a {type(state).__name__}, want a state dict")
    for key, weight in state.items():
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise ExportError(f"{path}: {key} is not a floating-point tensor")
    return state


def load_generator(path: Path) -> generator.ScaledGenerator:
    """Return the generator with the weights of a file. Raises ExportError if they do not fit."""
    try:
        return generator.from_state(read_state(path))
    except generator.LayoutError as error:
        raise ExportError(f"{path}: not a CycleGAN generator: {error}") from error


def to_torchscript(module: torch.nn.Module, method: str) -> torch.jit.ScriptModule:
    """Convert a module to TorchScript by method "trace" or "script"."""
    with formats.quiet_jit():
        if method == "script":
            return torch.jit.script(module)
        # compare() checks more than check_trace would, and other batch sizes.
        return torch.jit.trace(module, torch.rand(1, 3, 64, 64), check_trace=False)


def to_package(module: torch.nn.Module, settings: formats.Settings, freeze: bool) -> bytes:
    """Compile a module to a .pt2. Raises ExportError if this machine cannot compile it."""
    _check_device(settings.device)
    try:
        return formats.package_bytes(module, settings, freeze)
    except Exception as error:
        # The compiler's exceptions have no common class. Their first line is the reason, the rest
        # is a stack trace.
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"AOTInductor could not compile the model ({type(error).__name__}: {reason}); "
            "it needs a C++ compiler, and Triton for CUDA; --format torchscript needs neither"
        ) from error


def _check_device(device: str | None) -> None:
    """Raise ExportError if this machine cannot compile for the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ExportError(
            "a .pt2 for CUDA is compiled on a GPU, and PyTorch finds none here; "
            "export on the machine that will serve it, or leave out --device"
        )


def settings_for(module: generator.ScaledGenerator, options: Options) -> formats.Settings:
    """Return the settings to write into the file. Raises ExportError for a .pt2 without a size."""
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
        raise ExportError("a .pt2 takes images of one size; give --size WIDTHxHEIGHT")
    shape = (3, *_sides(options.size))
    return replace(common, input=shape, batch=options.batch, device=options.device)


def _sides(size: str) -> tuple[int, int]:
    """Return height and width of a size "WIDTHxHEIGHT"."""
    width, height = map(int, size.split("x"))
    return height, width


def narrow(module: generator.ScaledGenerator) -> tuple[generator.ScaledGenerator, float]:
    """Return the module with float16 weights, and the least PSNR of its images in dB.

    Raises ExportError if that is below MIN_HALF_PSNR.
    """
    narrowed = half.with_half_weights(module)
    psnr = checks.least_psnr(narrowed, module, checks.noise((1, *size) for size in SIZES))
    _require(psnr, MIN_HALF_PSNR, "with float16 weights", "--half")
    return narrowed, psnr


def compare(path: Path, module: generator.ScaledGenerator, options: Options) -> str:
    """Compare a file with the eager module, on the CPU in float32, and return the result in words.

    Raises ExportError if they differ too much.
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
    images = checks.noise(shapes)
    if options.dtype == "fp32":
        worst = checks.worst_difference(exported, module, images)
        # Negated because a comparison with NaN is false: NaN must fail.
        if not worst <= limit:
            raise ExportError(
                f"the exported module differs from eager PyTorch by {worst:.2g}, more than "
                f"{limit:g}; nothing was written; check the weights, or try another "
                + ("--format" if package else "--method")
            )
        return f"differs from eager by at most {worst:.2g}"
    photograph = checks.photograph(*sides).expand(shapes[0][0], -1, -1, -1)
    psnr = checks.least_psnr(exported, module, [*images, photograph])
    _require(psnr, MIN_REDUCED_PSNR, f"in {options.dtype}", "--dtype")
    return f"{options.dtype} keeps {psnr:.1f} dB"


def _require(psnr: float, least: float, how: str, flag: str) -> None:
    """Raise ExportError if the PSNR is below least, or NaN."""
    if math.isnan(psnr) or psnr < least:
        raise ExportError(
            f"{how} the images keep {psnr:.1f} dB of the float32 ones, want {least:g}; "
            f"nothing was written; leave out {flag}"
        )


def export(module: generator.ScaledGenerator, out: Path, options: Options = DEFAULTS) -> str:
    """Write the module to out and return a line that describes the file.

    Raises ExportError, and leaves out unchanged, if compare() fails.
    """
    remarks = []
    settings = settings_for(module, options)
    if options.half:
        module, psnr = narrow(module)
        remarks.append(f"float16 weights keep {psnr:.1f} dB")
    computing = precision.computing_in(module, options.dtype)
    if options.format == "pt2":
        how = "by AOTInductor"
        data = to_package(computing, settings, options.freeze)
    else:
        how = f"by {options.method}"
        data = formats.torchscript_bytes(to_torchscript(computing, options.method), settings)

    def verify(part: Path) -> None:
        if formats.read_settings(part) != settings:
            raise ExportError(f"{out}: the settings in the file differ; nothing was written")
        remarks.append(compare(part, module, options))

    files.write_whole(out, data, verify)
    return ", ".join([f"{out}: {len(data)} bytes, {how}, sha256 {files.sha256(data)}", *remarks])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser(
        "export",
        __doc__,
        # A flag that is not given leaves no attribute; its default is that of Options.
        argument_default=argparse.SUPPRESS,
        epilog="examples:\n"
        "  export horse2zebra_0.4.0.pth -o model.pt\n"
        "  export horse2zebra_0.4.0.pth -o model.pt2 --format pt2 --dtype bf16 --size 256x256\n"
        "  export traced.pt -o model.pt2 --format pt2 --size 256x256\n"
        "  export --random --seed 0 -o benchmark.pt",
    )
    parser.add_argument(
        "weights",
        nargs="?",
        type=Path,
        default=None,
        metavar="WEIGHTS.pth",
        help="a generator's state dict; for --format pt2 also a TorchScript file",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.pt", help="the file to write"
    )
    _add_options(parser)
    random = parser.add_argument_group("random weights instead of a file")
    random.add_argument(
        "--random", action="store_true", default=False, help="draw the weights from --seed"
    )
    random.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    random.add_argument(
        "--ngf",
        type=command.at_least_one,
        default=generator.PUBLISHED_NGF,
        metavar="N",
        help="filters of the first layer; default: %(default)s, as published",
    )
    random.add_argument(
        "--blocks",
        type=command.at_least_one,
        default=generator.PUBLISHED_BLOCKS,
        metavar="N",
        help="ResNet blocks; default: %(default)s, as published",
    )
    random.add_argument(
        "--gain",
        type=float,
        default=generator.PUBLISHED_GAIN,
        metavar="X",
        help="standard deviation of the weights; default: %(default)s, as published",
    )
    random.add_argument(
        "--resize",
        action="store_true",
        default=False,
        help="upsample by repeating pixels, and pad by reflection",
    )
    args = parser.parse_args(arguments)
    if args.random == (args.weights is not None):
        parser.error("give either WEIGHTS.pth or --random")
    package = getattr(args, "format", DEFAULTS.format) == "pt2"
    for flag, name in (TORCHSCRIPT_ONLY if package else PT2_ONLY).items():
        if name in args:
            parser.error(f"{flag} needs --format {'torchscript' if package else 'pt2'}")
    if "half" in args and "dtype" in args:
        parser.error("--dtype sets the width of the weights: leave out --half")
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
        help="what the model computes in; its input and output are float32. Refused if the images "
        f"keep less than {MIN_REDUCED_PSNR:g} dB of float32's; default: {DEFAULTS.dtype}",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="size that a server resizes images to, or keep; written into the file; "
        f"default: {DEFAULTS.size}",
    )
    script = parser.add_argument_group("for TorchScript only")
    script.add_argument(
        "--method",
        choices=("trace", "script"),
        help=f"how to make it; default: {DEFAULTS.method}",
    )
    script.add_argument(
        "--half",
        action="store_true",
        help="store the weights as float16, in half the size; the model computes in float32. "
        f"Refused if the images keep less than {MIN_HALF_PSNR:g} dB of float32's",
    )
    package = parser.add_argument_group("for pt2 only")
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
        help=f"device to compile for; cuda needs a GPU; default: {DEFAULTS.device}",
    )
    package.add_argument(
        "--freeze",
        action=argparse.BooleanOptionalAction,
        help="lay the weights out for the device, which is faster; default: --freeze",
    )
    package.add_argument(
        "--output",
        metavar="PATH",
        help="of a TorchScript file that returns several tensors, the one to return: out, 0, aux/1",
    )


def _size(text: str) -> str:
    if text != "keep":
        width, _, height = text.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) > 4 and int(height) > 4):
            raise argparse.ArgumentTypeError(
                f"{text} is not a size; want for example 228x228 (at least 5x5), or keep"
            )
    return text


def _batch(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise argparse.ArgumentTypeError(
            f"{text} is not a range of batch sizes; want for example 1:16"
        )
    return int(low), int(high)


def _given(args: argparse.Namespace, options: type) -> dict[str, object]:
    """Return the fields of options that the command line sets."""
    return {each.name: getattr(args, each.name) for each in fields(options) if each.name in args}


def _is_torchscript(path: Path) -> bool:
    return path.is_file() and formats.kind(path) == formats.TORCHSCRIPT


def convert(args: argparse.Namespace) -> str:
    """Convert a TorchScript file to a package, and return lines that describe it."""
    target = conversion.Target(**_given(args, conversion.Target))
    if getattr(args, "format", DEFAULTS.format) != "pt2":
        raise ExportError(
            f"{args.weights}: not a weights file but TorchScript, which torchherd serves as it is; "
            "--format pt2 compiles it"
        )
    _check_device(target.device)
    return conversion.convert(args.weights, args.out, target, MADE_BY)


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        if not args.random and _is_torchscript(args.weights):
            print(convert(args))
            return 0
        if "output" in args:
            raise ExportError("--output is for TorchScript files; a generator has one output")
        if args.random:
            layout = generator.Layout(args.ngf, args.blocks, args.resize)
            module = generator.from_state(generator.random_state(layout, args.seed, args.gain))
        else:
            module = load_generator(args.weights)
        print(export(module, args.out, Options(**_given(args, Options))))
    except (ToolError, OSError) as error:
        return command.failed("export", error)
    return 0
