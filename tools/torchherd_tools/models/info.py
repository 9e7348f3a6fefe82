"""Describe a model file: format, architecture, input, weights, size, digest, maker."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from torchherd_tools import command, files
from torchherd_tools.errors import ToolError
from torchherd_tools.models import checkpoint, formats, generator, layers


class InfoError(ToolError):
    """A file cannot be described."""


def describe(path: Path) -> dict[str, str]:
    """Describe a file by names and texts.

    Loading TorchScript runs code that its author wrote: describe files that you trust. Raises
    InfoError if the file is not a model file, or is corrupt.
    """
    if not path.is_file():
        raise InfoError(f"{path}: no such file")
    kind = formats.kind(path)
    if not kind:
        raise InfoError(
            f"{path}: not a model file; want TorchScript (.pt), an AOTInductor package (.pt2) or "
            "weights (.pth)"
        )
    try:
        settings = formats.read_settings(path) if kind != formats.WEIGHTS else None
        lines = {"file": str(path), "format": _format(path, kind)} | _READERS[kind](path, settings)
    except Exception as error:
        # Readers of corrupt archives raise RuntimeError, KeyError, BadZipFile and others.
        reason = " ".join(str(error).split())[:200]
        raise InfoError(f"{path}: corrupt: {reason}; export it again") from error
    data = path.read_bytes()
    return lines | {
        "computes in": (settings.precision if settings else None) or "not recorded",
        "size": f"{len(data)} bytes",
        "sha256": files.sha256(data),
        "made by": settings.made_by if settings else "not recorded",
    }


def _format(path: Path, kind: str) -> str:
    if formats.is_legacy(path):
        return f"{kind}, legacy format before PyTorch 1.6"
    record = "archive_version" if kind in (formats.PACKAGE, formats.PROGRAM) else "version"
    version = (formats.read_record(path, record) or b"?").decode().strip()
    return f"{kind}, archive version {version}"


def _of_torchscript(path: Path, settings: formats.Settings | None) -> dict[str, str]:
    state = formats.load_torchscript(path).state_dict()
    return {
        "architecture": _architecture(state),
        "input": _input(state, settings),
        "weights": _weights(state),
    }


def _of_weights(path: Path, _: formats.Settings | None) -> dict[str, str]:
    tensors = checkpoint.read(path).tensors
    return {
        "architecture": _architecture(tensors),
        "input": "not recorded: the file holds weights only; export them first",
        "weights": _weights(tensors),
    }


def _of_package(path: Path, settings: formats.Settings | None) -> dict[str, str]:
    metadata = {}
    for name in formats.records(path):
        if name.endswith("_metadata.json"):
            metadata |= json.loads(formats.read_record(path, name) or b"{}")
    target = {key.removeprefix("AOTI_").lower(): text for key, text in metadata.items() if text}
    return {
        "architecture": settings.architecture if settings else "not recorded",
        "input": _input({}, settings),
        "compiled for": ", ".join(f"{key} {text}" for key, text in target.items())
        or "not recorded",
    }


def _of_program(_: Path, settings: formats.Settings | None) -> dict[str, str]:
    return {
        "architecture": settings.architecture if settings else "not recorded",
        "input": _input({}, settings),
        "note": "not compiled: torchherd can't serve it; compile it to a package with AOTInductor",
    }


_READERS = {
    formats.TORCHSCRIPT: _of_torchscript,
    formats.WEIGHTS: _of_weights,
    formats.PACKAGE: _of_package,
    formats.PROGRAM: _of_program,
}


def _architecture(state: Mapping[str, Tensor]) -> str:
    """Guess the architecture from the weights of a file, which may have several networks."""
    found = []
    for name in checkpoint.networks(state):
        try:
            layout = generator.find_layout(checkpoint.state_at(state, name))
        except layers.LayoutError:
            continue
        found.append((name, layout.describe()))
    if len(found) == 1:
        return found[0][1]
    if found:
        return "; ".join(f"{name}: {text}" for name, text in found)
    if not state:
        return "unknown, no weights"
    key, first = next(iter(state.items()))
    return f"unknown; {len(state)} tensors, the first {key} {list(first.shape)}"


def _input(state: Mapping[str, Tensor], settings: formats.Settings | None) -> str:
    if settings is not None:
        values = "of a range that is not recorded"
        if settings.range is not None:
            values = "in {:g}..{:g}".format(*settings.range)
        if settings.input is not None and settings.batch is not None:
            least, most = settings.batch
            shape = ", ".join(map(str, ("N", *settings.input)))
            return f"float32 [{shape}] {values}, N {least} to {most}"
    first = next((each for each in state.values() if each.dim() == 4), None)
    if settings is not None:
        channels = 3 if first is None else first.shape[1]
        return f"float32 [N, {channels}, H, W] {values}, images of size {settings.size}"
    if first is None:
        return "not recorded"
    return f"not recorded; [N, {first.shape[1]}, H, W] by the first convolution"


def _weights(state: Mapping[str, Tensor]) -> str:
    """Return the number of values per dtype."""
    counts: Counter[str] = Counter()
    for each in state.values():
        counts[str(each.dtype).removeprefix("torch.")] += each.numel()
    return ", ".join(f"{count} {dtype}" for dtype, count in counts.items()) or "none"


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    parser = command.parser("info", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a .pt, .pt2 or .pth")
    args = parser.parse_args(arguments)
    try:
        lines = describe(args.file)
    except (ToolError, OSError) as error:
        return command.failed("info", error)
    for name, text in lines.items():
        print(f"{name + ':':14}{text}")
    return 0
