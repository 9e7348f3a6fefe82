"""Export a CycleGAN or pix2pix generator, or a TorchScript file, as a file that torchherd serves.

The weights come from a checkpoint of the official code or of a fork, in any of its layouts, or,
with --random, from a seed. The exported module takes float [N, C, H, W] in 0..1, and returns the
same range. Dropout is off. Before the file replaces an older one, it is loaded and compared with
PyTorch's eager result.

With --format pt2, WEIGHTS can be any TorchScript file of one input: it is converted, and the
package compared with it.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from torchherd_tools import command, files
from torchherd_tools.errors import ToolError
from torchherd_tools.models import (
    checkpoint,
    checks,
    conversion,
    formats,
    generator,
    half,
    layers,
    precision,
    unet,
)

BATCHES = (1, 2, 5)
SIZES = ((64, 64), (96, 72))
# What the server takes, and how it takes networks of other channels than RGB to RGB.
CHANNELS = {
    (3, 1): "",
    (3, 3): "",
    (3, 4): "",
    (1, 1): "channels: gray\n",
    (1, 3): "channels: gray\n",
    (1, 4): "channels: gray\n",
    # The colourizer of pix2pix: L of Lab / 50 - 1 in, a and b / 110 out.
    (1, 2): "channels: lightness\noutput-kind: chroma\noutput-std: [220]\noutput-mean: [-110]\n",
}
# How the official code opens images: as RGB, resized by Pillow's bicubic filter.
OFFICIAL = "resize-filter: bicubic\ngrayscale: rgb\n"
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
    "WIDTHxHEIGHT" or "keep"; None is default_size.

    For TorchScript only: method is "trace" or "script"; with half, the weights are stored as
    float16 and the model computes in float32. For a package only, which takes one size: batch is
    the minimum and maximum batch size, device is "cpu" or "cuda", and with freeze the weights
    get the memory layout of that device.
    """

    format: str = "torchscript"
    dtype: str = "fp32"
    size: str | None = None
    method: str = "trace"
    half: bool = False
    batch: tuple[int, int] = (1, 16)
    device: str = "cpu"
    freeze: bool = True


DEFAULTS = Options()
# Parameters of load_generator, by their flags' destinations.
WEIGHTS_ONLY = ("network", "input_range", "running_statistics")
# Options of one format only, by their flags.
TORCHSCRIPT_ONLY = {"--method": "method", "--half": "half"}
PT2_ONLY = {
    "--dynamic-batch": "batch",
    "--device": "device",
    "--[no-]freeze": "freeze",
    "--output": "output",
}


def load_generator(
    path: Path,
    network: str | None = None,
    input_range: tuple[float, float] | None = None,
    running_statistics: bool = False,
) -> generator.ScaledGenerator:
    """Return the generator with the weights of a checkpoint.

    network names it if there are several. input_range defaults to what the file states, or else to
    the official code's. running_statistics are those of generator.from_state. Raises ExportError or
    checkpoint.CheckpointError if the weights do not fit.
    """
    file = checkpoint.read(path)
    state = file.state(network)
    chosen = input_range or file.input_range or generator.OFFICIAL_RANGE
    try:
        return generator.from_state(state, chosen, running_statistics)
    except layers.LayoutError as error:
        raise ExportError(f"{path}: not a CycleGAN or pix2pix generator: {error}") from error


def to_torchscript(
    module: torch.nn.Module, method: str, example: torch.Tensor
) -> torch.jit.ScriptModule:
    """Convert a module to TorchScript by method "trace", with an example, or "script"."""
    with formats.quiet_jit():
        if method == "script":
            return torch.jit.script(module)
        # compare() checks more than check_trace would, and other batch sizes.
        return torch.jit.trace(module, example, check_trace=False)


def to_package(
    module: torch.nn.Module, settings: formats.Settings, freeze: bool, extra: Mapping[str, str]
) -> bytes:
    """Compile a module to a .pt2. Raises ExportError if this machine cannot compile it."""
    _check_device(settings.device)
    try:
        return formats.package_bytes(module, settings, freeze, extra_files=extra)
    except Exception as error:
        # The compiler's exceptions have no common class. Their first line is the reason, the rest
        # is a stack trace.
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"AOTInductor could not compile the model ({type(error).__name__}: {reason}); "
            "it needs a C++ compiler, and Triton for CUDA; --format torchscript needs neither"
        ) from error


def layout_of(module: generator.ScaledGenerator) -> generator.Layout | unet.Layout:
    """Return the layout of a module's generator."""
    return generator.find_layout(module.generator.state_dict())


def default_size(module: generator.ScaledGenerator) -> str:
    """Return the size of images for a module: that of the book's or of the official tests.

    A U-Net's is the smallest that it takes, for which it was made.
    """
    layout = layout_of(module)
    if isinstance(layout, unet.Layout):
        return f"{layout.multiple}x{layout.multiple}"
    return "228x228" if module.input_range == generator.BOOK_RANGE else "256x256"


def _check_device(device: str | None) -> None:
    """Raise ExportError if this machine cannot compile for the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ExportError(
            "a .pt2 for CUDA is compiled on a GPU, and PyTorch finds none here; "
            "export on the machine that will serve it, or leave out --device"
        )


def settings_for(module: generator.ScaledGenerator, options: Options) -> formats.Settings:
    """Return the settings to write into the file.

    Raises ExportError for a size or for numbers of channels that cannot be served.
    """
    layout, size = layout_of(module), options.size or default_size(module)
    if (layout.inputs, layout.outputs) not in CHANNELS:
        raise ExportError(
            f"the generator takes {layout.inputs} channels and returns {layout.outputs}; torchherd "
            "sends images of 1 or 3, and takes 1, 3 or 4, or 2 for 1: export a module around it "
            "that does so, by torch.jit.trace"
        )
    if size != "keep" and any(side % layout.multiple for side in _sides(size)):
        raise ExportError(
            f"--size {size}: this U-Net takes sides that are multiples of {layout.multiple}; give "
            f"for example --size {default_size(module)}"
        )
    common = formats.Settings(size, (0.0, 1.0), layout.describe(), MADE_BY, options.dtype)
    if options.format == "torchscript":
        return common
    if size == "keep":
        raise ExportError("a .pt2 takes images of one size; give --size WIDTHxHEIGHT")
    shape = (layout.inputs, *_sides(size))
    return replace(common, input=shape, batch=options.batch, device=options.device)


def model_yaml(module: generator.ScaledGenerator, size: str) -> str:
    """Return the text of the model.yaml to write into the file; "" if the defaults serve it."""
    layout = layout_of(module)
    text = OFFICIAL if module.input_range == generator.OFFICIAL_RANGE else ""
    text += CHANNELS[layout.inputs, layout.outputs]
    if size == "keep" and layout.multiple > 1:
        text += f"multiple-of: {layout.multiple}\n"
    return text


def _example_sides(layout: generator.Layout | unet.Layout) -> tuple[tuple[int, int], ...]:
    """Return heights and widths to try a generator with."""
    if isinstance(layout, unet.Layout):
        return (layout.multiple, layout.multiple), (layout.multiple, 2 * layout.multiple)
    return SIZES


def _sides(size: str) -> tuple[int, int]:
    """Return height and width of a size "WIDTHxHEIGHT"."""
    width, height = map(int, size.split("x"))
    return height, width


def narrow(module: generator.ScaledGenerator) -> tuple[generator.ScaledGenerator, float]:
    """Return the module with float16 weights, and the least PSNR of its images in dB.

    Raises ExportError if that is below MIN_HALF_PSNR.
    """
    narrowed, layout = half.with_half_weights(module), layout_of(module)
    images = checks.noise(((1, *size) for size in _example_sides(layout)), layout.inputs)
    psnr = checks.least_psnr(narrowed, module, images)
    _require(psnr, MIN_HALF_PSNR, "with float16 weights", "--half")
    return narrowed, psnr


def compare(path: Path, module: generator.ScaledGenerator, options: Options, size: str) -> str:
    """Compare a file with the eager module, on the CPU in float32, and return the result in words.

    size is that of the settings. Raises ExportError if they differ too much.
    """
    package, layout = options.format == "pt2", layout_of(module)
    sides = _sides(default_size(module) if size == "keep" else size)
    if package:
        low, high = options.batch
        shapes = [(n, *sides) for n in sorted({low, min(low + 1, high), high})]
        exported, limit = formats.load_package(path, options.device), MAX_PACKAGE_DIFFERENCE
    else:
        shapes = [(n, *sides) for n in BATCHES for sides in _example_sides(layout)]
        exported, limit = formats.load_torchscript(path), MAX_DIFFERENCE
    images = checks.noise(shapes, layout.inputs)
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
    photograph = checks.photograph(*sides, layout.inputs).expand(shapes[0][0], -1, -1, -1)
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
    settings, layout = settings_for(module, options), layout_of(module)
    text = model_yaml(module, settings.size)
    extra = {formats.MODEL_YAML: text} if text else {}
    if options.half:
        module, psnr = narrow(module)
        remarks.append(f"float16 weights keep {psnr:.1f} dB")
    computing = precision.computing_in(module, options.dtype)
    if options.format == "pt2":
        how = "by AOTInductor"
        data = to_package(computing, settings, options.freeze, extra)
    else:
        how = f"by {options.method}"
        example = torch.rand(1, layout.inputs, *_example_sides(layout)[0])
        script = to_torchscript(computing, options.method, example)
        data = formats.torchscript_bytes(script, settings, extra)

    def verify(part: Path) -> None:
        if formats.read_settings(part) != settings:
            raise ExportError(f"{out}: the settings in the file differ; nothing was written")
        remarks.append(compare(part, module, options, settings.size))

    files.write_whole(out, data, verify)
    if text:
        remarks.append(f"with the settings {', '.join(text.splitlines())}")
    return ", ".join([f"{out}: {len(data)} bytes, {how}, sha256 {files.sha256(data)}", *remarks])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser(
        "export",
        __doc__,
        # A flag that is not given leaves no attribute; its default is that of Options.
        argument_default=argparse.SUPPRESS,
        epilog="examples:\n"
        "  export latest_net_G_A.pth -o model.pt\n"
        "  export latest_net_G_A.pth -o model.pt2 --format pt2 --dtype bf16\n"
        "  export horse2zebra_0.4.0.pth -o model.pt --input-range 0:255\n"
        "  export traced.pt -o model.pt2 --format pt2 --size 256x256\n"
        "  export --random --seed 0 -o benchmark.pt",
    )
    parser.add_argument(
        "weights",
        nargs="?",
        type=Path,
        default=None,
        metavar="WEIGHTS.pth",
        help="a checkpoint with a generator's weights; for --format pt2 also a TorchScript file",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT.pt", help="the file to write"
    )
    _add_weights_options(parser)
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
    for name in WEIGHTS_ONLY if args.random else ():
        if name in args:
            parser.error("--network, --input-range and --eval need WEIGHTS.pth")
    package = getattr(args, "format", DEFAULTS.format) == "pt2"
    for flag, name in (TORCHSCRIPT_ONLY if package else PT2_ONLY).items():
        if name in args:
            parser.error(f"{flag} needs --format {'torchscript' if package else 'pt2'}")
    if "half" in args and "dtype" in args:
        parser.error("--dtype sets the width of the weights: leave out --half")
    return args


def _add_weights_options(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each parameter of load_generator."""
    weights = parser.add_argument_group("for WEIGHTS.pth only")
    weights.add_argument(
        "--network",
        metavar="NAME",
        help="which generator of a checkpoint with several, such as G_A",
    )
    weights.add_argument(
        "--input-range",
        type=_range,
        metavar="LOW:HIGH",
        help="values that it was trained with for black and white; default: -1:1, as in the "
        "official code. The book's are 0:255. Write --input-range=-1:1 for negative numbers",
    )
    weights.add_argument(
        "--eval",
        action="store_true",
        dest="running_statistics",
        help="batch norm by its statistics of the training, as the official test.py --eval; "
        "default: by those of each image, as test.py",
    )


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
        "default: 256x256; 228x228 with --input-range 0:255 and --random; a U-Net's own",
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


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        found = float(low), float(high)
    except ValueError:
        found = 0.0, 0.0
    if not found[0] < found[1] < math.inf or found[0] == -math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a range; want for example 0:255")
    return found


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
            given = {name: getattr(args, name) for name in WEIGHTS_ONLY if name in args}
            module = load_generator(args.weights, **given)
        print(export(module, args.out, Options(**_given(args, Options))))
    except (ToolError, OSError) as error:
        return command.failed("export", error)
    return 0
