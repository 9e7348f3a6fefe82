"""Convert a TorchScript file to an AOTInductor package, without the Python code that made it.

The module's TorchScript becomes an exported program, by PyTorch's converter or by tracing what the
file runs, for every batch size if that works and for one image if it doesn't. The program and the
compiled package are compared with the file, image by image.
"""

import ast
import contextlib
import copy
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, fx, nn
from torch._export.converter import TS2EPConverter

from torchherd_tools import files
from torchherd_tools.errors import ToolError
from torchherd_tools.models import checks, formats, precision

# Relative to the range of the values. A compiled package sums in another order.
MAX_DIFFERENCE = 1e-4
MIN_REDUCED_PSNR = 35.0
# Of class numbers and other integers, the part that may differ: near a tie, a rounding difference
# chooses the other class.
MAX_CHANGED = {"fp32": 1e-3, "bf16": 0.02, "fp16": 0.02}

# How many images are compared alone.
_SINGLES = 4

DEFAULT_SIZE = "228x228"
# Keys that a package has no use for: it has one size, and one output.
_FIXED_KEYS = {"size", "max-side", "multiple-of", "warm-up", "output"}


class ConversionError(ToolError):
    """The TorchScript file cannot be converted."""


class _DifferenceError(Exception):
    """Two results differ by more than their bound."""


@dataclass(frozen=True)
class Target:
    """What to make of a TorchScript file.

    size is "WIDTHxHEIGHT", or None for that in the file or the server's default. batch is the
    minimum and maximum batch size. dtype is what convolutions and matrix products compute in, a
    name of precision.DTYPES; "fp32" leaves them as they are in the file. output is the path of a
    tensor of a module that returns several: "out", "0" or "aux/1". device and freeze are as in
    formats.compile_program.
    """

    size: str | None = None
    batch: tuple[int, int] = (1, 16)
    dtype: str = "fp32"
    output: str | None = None
    device: str = "cpu"
    freeze: bool = True


class _Images(nn.Module):
    """A module with float32 images in and one tensor out, float32 if it has fractions."""

    def __init__(self, module: nn.Module, takes: torch.dtype, output: str | None) -> None:
        super().__init__()
        self.module = module
        self.takes = takes
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [N, C, H, W] in."""
        y = choose(self.module(x.to(self.takes)), self.output)
        return y.float() if y.is_floating_point() else y


class _Converter(TS2EPConverter):
    """PyTorch's converter up to its module, which it would export with all dimensions dynamic."""

    def retrace_as_exported_program(self, gm: fx.GraphModule, _: dict[str, object]) -> object:
        self.module = gm
        # convert() adds what the program lacks of the file's weights: nothing, since there is none.
        return SimpleNamespace(state_dict=self.ts_model.state_dict())

    def simplify(self, shape: tuple[int | None, ...]) -> None:
        """Compute what follows from the shape of a batch, such as counts of loops and decisions.

        None in the shape is any number.
        """
        graph = self.ts_graph
        # The converter's are those of the example, whose number of images is no constant.
        torch._C._jit_pass_erase_shape_information(graph)
        next(graph.inputs()).setType(torch._C.TensorType.get().with_sizes(shape))
        torch._C._jit_pass_propagate_shapes_on_graph(graph)
        # Each round gives the next one new constants: a loop's body, then what that computes.
        for _ in range(2):
            _insert_ranks(graph)
            torch._C._jit_pass_peephole(graph)
            torch._C._jit_pass_constant_propagation(graph)
            torch._C._jit_pass_constant_loop_unrolling(graph)
            torch._C._jit_pass_peephole_list_idioms(graph, refine_list_len=True)


def _insert_ranks(graph: torch._C.Graph) -> None:
    """Replace the code that computes a number of dimensions, where the graph has it already."""
    for kind in ("aten::dim", "aten::len"):
        for node in graph.findAllNodes(kind):
            of = node.input()
            if kind == "aten::len":  # of x.size(), which takes one input
                if of.node().kind() != "aten::size" or len(list(of.node().inputs())) > 1:
                    continue
                of = of.node().input()
            rank = of.type().dim() if of.type().kind() == "TensorType" else None
            if rank is not None:
                constant = graph.insertConstant(rank)
                constant.node().moveBefore(node)
                node.output().replaceAllUsesWith(constant)


def _converted(script: torch.jit.ScriptModule, example: Tensor, _: bool) -> nn.Module:
    """Return the file's code as a module of PyTorch's operators, with its control flow."""
    converter = _Converter(script, (example,))
    converter.convert()
    return converter.module


def _simplified(script: torch.jit.ScriptModule, example: Tensor, dynamic: bool) -> nn.Module:
    """Return the same, without the control flow that the shape of a batch decides.

    The converter takes no loop whose count the code computes.
    """
    with formats.quiet_jit():
        # The passes know the shapes of constants only.
        if hasattr(script, "training"):  # else it is frozen already
            script = torch.jit.freeze(script)
    converter = _Converter(script, (example,))
    converter.simplify((None if dynamic else len(example), *example.shape[1:]))
    converter.convert()
    return converter.module


class _Running(nn.Module):
    """A module that runs TorchScript, whose weights become constants of the exported program.

    Export refuses a ScriptModule, and cannot replace its weights, so that it is not a submodule.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.run = script.forward

    def forward(self, x: Tensor) -> object:
        """Float [N, C, H, W] in."""
        return self.run(x)


def _traced(script: torch.jit.ScriptModule, _: Tensor, __: bool) -> nn.Module:
    """Return what the file runs for an example: each decision is that for the example."""
    return _Running(script)


WAYS: dict[str, Callable[[torch.jit.ScriptModule, Tensor, bool], nn.Module]] = {
    "converting": _converted,
    "simplifying and converting": _simplified,
    "tracing": _traced,
}


def tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module's output, each with its path: "", "out", "aux/1"."""
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, tuple | list):
        inside = enumerate(value)
    else:
        return
    for key, each in inside:
        yield from tensors(each, f"{path}/{key}" if path else str(key))


def choose(value: object, output: str | None) -> Tensor:
    """Return the tensor at a path of a module's output, or its only one.

    Raises ConversionError, which lists the tensors, if there is no such tensor or no single one.
    """
    found = dict(tensors(value))
    if len(found) == 1:
        return next(iter(found.values()))
    if output in found:
        return found[output]
    names = "; ".join(
        f"{path}: {str(each.dtype).removeprefix('torch.')} {list(each.shape)}"
        for path, each in found.items()
    )
    if not found:
        raise ConversionError(f"it returns a {type(value).__name__} without a tensor")
    wanted = "returns several tensors" if output is None else f"has no output {output}"
    raise ConversionError(f"it {wanted}: {names}; choose one, such as --output {next(iter(found))}")


class Source:
    """A TorchScript file, and what it computes for a few distinct images.

    takes is the dtype of its input, channels their number. results has the output for each image,
    run alone. Raises ConversionError if the file cannot be loaded, does not take one image, or
    returns no tensor of finite numbers or another one each time.
    """

    def __init__(self, path: Path, target: Target) -> None:
        self.path = path
        try:
            self.script = formats.load_torchscript(path)
            self.record = formats.read_settings(path)
            for parameter in self.script.parameters():
                parameter.requires_grad_(False)  # a copy needs leaves
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"{path}: {_reason(error)}; save it again") from error
        text = formats.read_record(path, f"extra/{formats.MODEL_YAML}")
        self.yaml = _keys((text or b"").decode())
        self.sides = self._sides(target.size)
        self.output = target.output or _value(self.yaml.get("output"))
        self._check_inputs()
        self.takes, self.channels = self._find_input()
        self.images = self._images(max(target.batch[1], _SINGLES))
        self.results = self._results()

    def _sides(self, wanted: str | None) -> tuple[int, int]:
        """Return height and width."""
        size = wanted or _value(self.yaml.get("size"))
        size = size or (self.record.size if self.record else DEFAULT_SIZE)
        found = re.fullmatch(r"(\d+)x(\d+)", size)
        if not found:
            raise ConversionError("a .pt2 takes images of one size; give --size WIDTHxHEIGHT")
        return int(found[2]), int(found[1])

    def _check_inputs(self) -> None:
        arguments = self.script.forward.schema.arguments[1:]
        needed = [each.name for each in arguments if not each.has_default_value()]
        if len(needed) != 1 or str(arguments[0].type) != "Tensor":
            names = ", ".join(f"{each.name}: {each.type}" for each in arguments) or "nothing"
            raise ConversionError(
                f"{self.path}: takes {names}, and a package takes one tensor of images; "
                "serve the TorchScript file itself"
            )

    def _find_input(self) -> tuple[torch.dtype, int]:
        """Return the dtype and number of channels with which the file runs."""
        refusal = None
        for takes in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            for channels in (3, 1):
                image = torch.rand(1, channels, *self.sides, dtype=takes)
                try:
                    with torch.inference_mode():
                        value = self.script(image)
                except Exception as error:
                    # TorchScript raises exceptions of any class.
                    refusal = refusal or error
                    continue
                try:
                    choose(value, self.output)
                except ConversionError as error:
                    raise ConversionError(f"{self.path}: {error}") from error
                return takes, channels
        height, width = self.sides
        assert refusal is not None
        raise ConversionError(
            f"{self.path}: does not run on one image of {width}x{height}: {_reason(refusal)}; "
            "give the size that it takes by --size WIDTHxHEIGHT"
        ) from refusal

    def _images(self, count: int) -> Tensor:
        """Return distinct images in the range of the input: float32 [count, C, H, W].

        They are a photograph, and noise of different brightness, on which a file can decide.
        """
        source = torch.Generator().manual_seed(0)
        noise = torch.rand(count, self.channels, *self.sides, generator=source)
        noise[1::3] *= 0.25
        noise[2::3] = 0.75 + 0.25 * noise[2::3]
        photograph = checks.photograph(*self.sides)
        noise[0] = photograph if self.channels == 3 else photograph.mean(1, keepdim=True)
        low, high = self.record.range if self.record and self.record.range else (0.0, 1.0)
        if "input-range" in self.yaml:
            low, high = ast.literal_eval(self.yaml["input-range"].partition(":")[2].strip())
        return low + noise * (high - low)

    def run(self, images: Tensor) -> Tensor:
        """Return what the file computes."""
        with torch.inference_mode():
            return _Images(self.script, self.takes, self.output)(images)

    def _results(self) -> Tensor:
        first = self.run(self.images[:1])
        if not torch.equal(first.nan_to_num(), self.run(self.images[:1]).nan_to_num()):
            raise ConversionError(
                f"{self.path}: computes other values each time; "
                "call eval() before tracing or scripting"
            )
        rest = [self.run(image[None]) for image in self.images[1:]]
        results = torch.cat([first, *rest])
        if len(results) != len(self.images):
            raise ConversionError(
                f"{self.path}: returns {list(first.shape)} for one image, want one item"
            )
        if not results.isfinite().all():
            raise ConversionError(f"{self.path}: computes NaN or infinite values for images")
        return results

    @property
    def scale(self) -> float:
        """The width of the range of values: that which the file states, or that of the results."""
        if self.record and self.record.range:
            return self.record.range[1] - self.record.range[0]
        results = self.results.float()
        return (results.max() - results.min()).item() or 1.0

    @property
    def computes_in(self) -> str | None:
        """The name of the dtype that the file computes in, if a package has one."""
        return {dtype: name for name, dtype in precision.DTYPES.items()}.get(self.takes)

    def compare(self, model: checks.Model, counts: list[int], dtype: str) -> str:
        """Run a model on batches of distinct images, and return how far it is from the file.

        dtype is what the model computes in. A batch of one runs with several images. Raises
        _DifferenceError beyond the bound.
        """
        worst = 0.0
        least = math.inf
        batches = [slice(0, count) for count in counts]
        if 1 in counts:
            batches += [slice(index, index + 1) for index in range(1, _SINGLES)]
        for batch in batches:
            with torch.inference_mode():
                found = model(self.images[batch])
            want = self.results[batch]
            count = len(want)
            if found.shape != want.shape:
                raise _DifferenceError(
                    f"returns {list(found.shape)} for {count} images, want {list(want.shape)}"
                )
            if not want.is_floating_point():
                worst = max(worst, (found != want).float().mean().item())
                continue
            errors = (found - want).float() / self.scale
            # max() of Python ignores NaN, that of PyTorch doesn't.
            worst = torch.stack([torch.tensor(worst), errors.abs().max()]).max().item()
            for error in errors.flatten(1).square().mean(1).tolist():
                least = min(least, -10 * math.log10(max(error, 1e-12)))
        if not self.results.is_floating_point():
            within, bound = worst <= MAX_CHANGED[dtype], f"{MAX_CHANGED[dtype]:.1%}"
            text = f"differs in {worst:.2%} of the values"
        elif dtype == "fp32":
            within, bound = worst <= MAX_DIFFERENCE, f"{MAX_DIFFERENCE:g} of their range"
            text = f"differs by at most {worst * self.scale:.2g}"
        else:
            within = least >= MIN_REDUCED_PSNR and not math.isnan(worst)
            bound = f"{MIN_REDUCED_PSNR:g} dB"
            text = f"keeps {least:.1f} dB in {dtype}"
        if not within:
            raise _DifferenceError(f"{text}, where the bound is {bound}")
        return text

    def batching_fault(self, largest: int) -> str:
        """Return why the file itself can't run a batch; "" if it can."""
        for count in sorted({min(2, largest), largest}):
            try:
                self.compare(self.run, [count], self.computes_in or "fp32")
            except _DifferenceError as error:
                return (
                    f"the file mixes the images of a batch of {count}: compared with each image "
                    f"alone, the result {error}"
                )
            except Exception as error:
                return f"the file does not run on a batch of {count}: {_reason(error)}"
        return ""

    def model_yaml(self, largest: int) -> str:
        """Return the model.yaml for a package with this largest batch.

        It has the file's own settings, but for those that the package fixes.
        """
        lines = [text for key, text in self.yaml.items() if key not in _FIXED_KEYS]
        own = _value(self.yaml.get("max-batch-size"))
        if largest == 1 or (own and int(own) > largest):
            lines = [each for each in lines if not each.startswith("max-batch-size:")]
            lines.append(f"max-batch-size: {largest}\n")
        return "".join(lines)


def _keys(text: str) -> dict[str, str]:
    """Return the lines of a model.yaml by their key; comments before the first key are left out."""
    keys: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if found := re.match(r"([\w-]+):", line):
            key = found[1]
        if key and not line.startswith("#"):
            keys[key] = keys.get(key, "") + line + "\n"
    return keys


def _value(line: str | None) -> str | None:
    """Return the plain value of a key's line, without a comment."""
    if line is None:
        return None
    return line.partition(":")[2].partition(" #")[0].strip().strip("\"'")


def _reason(error: Exception) -> str:
    """Return an exception in one line.

    TorchScript's has the reason below a traceback, in a line of its own; others have it at their
    start.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    below = [line for line in lines if re.match(r"(builtins\.)?\w*Error: ", line)]
    if "TorchScript" in lines[0]:
        below = below or lines[-1:]
    found = below[-1] if below else lines[0]
    if found.startswith("Constraints violated"):
        found = "the code takes the number of images as a constant"
    if "TS2EPConverter" in found and error.__cause__:
        found += f": {error.__cause__}"
    return found.removeprefix("builtins.").removeprefix("RuntimeError: ")[:300].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence export and the compiler, which print warnings, logs and whole graphs at a failure."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _program(
    source: Source, way: str, settings: formats.Settings, dtype: str
) -> torch.export.ExportedProgram:
    """Return the file as an exported program that computes in a dtype."""
    example = formats.example(settings).to(source.takes)
    script = copy.deepcopy(source.script).to(settings.device)
    low, high = settings.batch or (1, 1)
    module = _Images(WAYS[way](script, example, low < high), source.takes, source.output)
    program = formats.export_program(module, settings)
    if dtype == "fp32":
        return program
    reduced = precision.with_products_in(program.module(), precision.DTYPES[dtype])
    return formats.export_program(reduced, settings)


def convert(path: Path, out: Path, target: Target, made_by: str) -> str:
    """Convert a TorchScript file, write the package to out, and return lines that describe it.

    Each try that fails prints a line. Raises ConversionError, and leaves out unchanged, if no try
    gives a package that computes what the file does.
    """
    source = Source(path, target)
    low, high = target.batch
    fault = source.batching_fault(high)
    if fault:
        print(f"{path}: {fault}", flush=True)
    tries = [(way, (low, high)) for way in WAYS if not fault]
    if low == 1 < high or (fault and low == 1):
        tries += [(way, (1, 1)) for way in WAYS]
    for way, batch in tries:
        how = f"{way} it for {f'batches of {low} to {high}' if batch != (1, 1) else 'one image'}"
        try:
            return _write(source, out, target, way, batch, made_by)
        except OSError:
            raise
        except _DifferenceError as error:
            print(f"{path}: {how}: compared with the file, the result {error}", flush=True)
        except Exception as error:
            # Export and the compiler raise exceptions of any class.
            print(f"{path}: {how}: {type(error).__name__}: {_reason(error)}", flush=True)
    if fault and low > 1:
        raise ConversionError(f"{path}: {fault}; leave out --dynamic-batch, for a batch of one")
    raise ConversionError(
        f"{path}: cannot be converted, for the reasons above; nothing was written; serve the "
        "TorchScript file itself" + (", or leave out --dtype" if target.dtype != "fp32" else "")
    )


def _write(
    source: Source,
    out: Path,
    target: Target,
    way: str,
    batch: tuple[int, int],
    made_by: str,
) -> str:
    """Convert in one way, compare, and write. Raises an exception of any class."""
    low, high = batch
    height, width = source.sides
    settings = formats.Settings(
        size=f"{width}x{height}",
        range=source.record.range if source.record else None,
        architecture=f"converted from the TorchScript file {source.path.name}",
        made_by=made_by,
        precision=source.computes_in if target.dtype == "fp32" else target.dtype,
        input=(source.channels, height, width),
        batch=batch,
        device=target.device,
    )
    computes_in = settings.precision or "fp32"
    inside = source.model_yaml(high)
    extra = {formats.MODEL_YAML: inside} if inside else {}
    with _quiet():
        program = _program(source, way, settings, target.dtype)
        # Before the compiler takes its minutes.
        source.compare(program.module(), sorted({low, min(low + 1, high)}), computes_in)
        data = formats.compile_program(program, settings, target.freeze, extra_files=extra)
    remarks = []

    def verify(part: Path) -> None:
        package = formats.load_package(part, target.device)
        counts = sorted({low, min(low + 1, high), high})
        remarks.append(source.compare(package, counts, computes_in))

    files.write_whole(out, data, verify)
    shape = ", ".join(map(str, settings.input or ()))
    images = f"N {low} to {high}" if high > 1 else "N 1: batches of one image only"
    lines = [
        f"{out}: {len(data)} bytes, by {way} the TorchScript and AOTInductor, "
        f"sha256 {files.sha256(data)}",
        f"compared with the file, it {remarks[0]}",
        f"it takes float32 [N, {shape}], {images}",
    ]
    if inside:
        lines.append(f"the {formats.MODEL_YAML} inside it:\n{inside}".rstrip())
    return "\n".join(lines)
