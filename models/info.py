"""What a model's file is: `export.py info FILE`."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import files
import formats
import generator


class InfoError(Exception):
    """A file cannot be described. The text says what happened, to what, and what to do."""


def describe(path: Path) -> dict[str, str]:
    """What a file is, as lines of a name and a text.

    TorchScript is read in, which runs what its maker wrote for that: describe files that you trust.
    Raises InfoError when the file is not a model's, or is broken.
    """
    if not path.is_file():
        raise InfoError(f"{path}: no such file")
    kind = formats.kind(path)
    if not kind:
        raise InfoError(
            f"{path}: no model's file; wanted TorchScript (.pt), an AOTInductor package (.pt2) or "
            "weights (.pth)"
        )
    try:
        settings = formats.read_settings(path) if kind != formats.WEIGHTS else None
        lines = {"file": str(path), "format": _format(path, kind)} | _READERS[kind](path, settings)
    except Exception as error:
        # Broken archives raise what their readers raise: RuntimeError, KeyError, BadZipFile, ...
        reason = " ".join(str(error).split())[:200]
        raise InfoError(f"{path}: broken: {reason}; make the file again") from error
    data = path.read_bytes()
    return lines | {
        "computes in": (settings.precision if settings else None) or "not recorded",
        "size": f"{len(data)} bytes",
        "sha256": files.sha256(data),
        "made by": settings.made_by if settings else "not recorded",
    }


def _format(path: Path, kind: str) -> str:
    if formats.is_old(path):
        return f"{kind}, as PyTorch wrote them before 1.6"
    record = "archive_version" if kind in (formats.PACKAGE, formats.PROGRAM) else "version"
    version = (formats.read_record(path, record) or b"?").decode().strip()
    return f"{kind}, version {version} of its archive"


def _of_torchscript(path: Path, settings: formats.Settings | None) -> dict[str, str]:
    state = formats.load_torchscript(path).state_dict()
    return {
        "architecture": _architecture(state),
        "input": _input(state, settings),
        "weights": _weights(state),
    }


def _of_weights(path: Path, _: formats.Settings | None) -> dict[str, str]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise InfoError(f"holds a {type(state).__name__}, not a state dict")
    tensors = {key: each for key, each in state.items() if isinstance(each, Tensor)}
    return {
        "architecture": _architecture(tensors),
        "input": "not recorded: these are weights alone; export them first",
        "weights": _weights(tensors),
    }


def _of_package(path: Path, settings: formats.Settings | None) -> dict[str, str]:
    metadata = {}
    for name in formats.records(path):
        if name.endswith("_metadata.json"):
            metadata |= json.loads(formats.read_record(path, name) or b"{}")
    said = {key.removeprefix("AOTI_").lower(): text for key, text in metadata.items() if text}
    return {
        "architecture": settings.architecture if settings else "not recorded",
        "input": _input({}, settings),
        "compiled for": ", ".join(f"{key} {text}" for key, text in said.items()) or "not recorded",
    }


def _of_program(_: Path, settings: formats.Settings | None) -> dict[str, str]:
    return {
        "architecture": settings.architecture if settings else "not recorded",
        "input": _input({}, settings),
        "note": "not compiled: torchherd can't serve it; make a package by AOTInductor of it",
    }


_READERS = {
    formats.TORCHSCRIPT: _of_torchscript,
    formats.WEIGHTS: _of_weights,
    formats.PACKAGE: _of_package,
    formats.PROGRAM: _of_program,
}


def _architecture(state: Mapping[str, Tensor]) -> str:
    """A guess from the weights: a generator whose keys may stand below a prefix, or the first."""
    for key in state:
        if key.endswith("model.1.weight"):
            prefix = key.removesuffix("model.1.weight")
            inner = {name.removeprefix(prefix): each for name, each in state.items()}
            try:
                return generator.find_layout(inner).describe()
            except generator.LayoutError:
                break
    if not state:
        return "unknown, without weights"
    key, first = next(iter(state.items()))
    return f"unknown; {len(state)} tensors, the first {key} {list(first.shape)}"


def _input(state: Mapping[str, Tensor], settings: formats.Settings | None) -> str:
    if settings is not None:
        low, high = settings.range
        values = f"in {low:g}..{high:g}"
        if settings.input is not None and settings.batch is not None:
            least, most = settings.batch
            return f"float32 {['N', *settings.input]} {values}, N {least} to {most}".replace(
                "'", ""
            )
        return f"float32 [N, 3, H, W] {values}, pictures of size {settings.size}"
    first = next((each for each in state.values() if each.dim() == 4), None)
    if first is None:
        return "not recorded"
    return f"not recorded; by the first convolution perhaps [N, {first.shape[1]}, H, W]"


def _weights(state: Mapping[str, Tensor]) -> str:
    """How many numbers of which dtype."""
    counts: Counter[str] = Counter()
    for each in state.values():
        counts[str(each.dtype).removeprefix("torch.")] += each.numel()
    return ", ".join(f"{count} {dtype}" for dtype, count in counts.items()) or "none"


def main(arguments: list[str]) -> int:
    """Run `export.py info`. Gives the exit status: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="export.py info", description="Tell what a model's file is."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a .pt, .pt2 or .pth")
    args = parser.parse_args(arguments)
    try:
        lines = describe(args.file)
    except (InfoError, OSError) as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 1
    for name, text in lines.items():
        print(f"{name + ':':14}{text}")
    return 0
