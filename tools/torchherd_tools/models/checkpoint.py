"""Checkpoints: files of torch.save with a generator's weights somewhere in them.

The official CycleGAN and pix2pix code, its forks and training frameworks save a state dict, or a
dict that holds several, with or without the prefix of nn.DataParallel, beside an epoch and the
state of an optimizer. All of these are flattened into tensors by dotted keys, in which a generator
is found by its first convolution.
"""

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torchherd_tools.errors import ToolError
from torchherd_tools.models import generator, unet

# The range of the values that a network takes, which the trainer writes beside the weights.
INPUT_RANGE = "input_range"


class CheckpointError(ToolError):
    """A file is not a checkpoint, or has no generator or several."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by dotted keys, on the CPU.

    input_range is what the file states about the values for black and white, None if nothing.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    input_range: tuple[float, float] | None

    def networks(self) -> list[str]:
        """Return the names of the generators: the keys that lead to them, "" for the file."""
        return networks(self.tensors)

    def state(self, name: str | None = None) -> dict[str, Tensor]:
        """Return the state dict of the only generator, or of that with a name.

        The name is as in networks, or one of its parts: G_A for state_dict.G_A.module. Raises
        CheckpointError if there is none, or more than one.
        """
        found = self.networks()
        if not found:
            raise CheckpointError(f"{self.path}: {self._contents()}")
        fitting = [each for each in found if name in (None, each, *each.split("."))]
        if len(fitting) != 1:
            names = ", ".join(each or '""' for each in found)
            have = f"has the generators {names}" if len(found) > 1 else f"has the generator {names}"
            what = f"no network {name}, or not only one; " if name is not None else ""
            raise CheckpointError(f"{self.path}: {what}{have}; choose one by --network NAME")
        return state_at(self.tensors, fitting[0])

    def _contents(self) -> str:
        """Say what the file has in place of a generator."""
        if not self.tensors:
            return "has no tensors; want a state dict, or a dict of them"
        key, tensor = next(iter(self.tensors.items()))
        return (
            "not a CycleGAN or pix2pix generator, which begins with a 7x7 convolution "
            f"{generator.FIRST} or a 4x4 convolution {unet.FIRST}; has {len(self.tensors)} tensors,"
            f" such as {key} {list(tensor.shape)}; export other networks by torch.jit.trace"
        )


def networks(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the keys that lead to generators: "" for one whose keys have no prefix."""
    found = []
    for key, tensor in tensors.items():
        for first, side in ((unet.FIRST, 4), (generator.FIRST, 7)):
            root = key.removesuffix(first)
            if tensor.shape[2:] != (side, side) or root == key or (root and root[-1] != "."):
                continue
            # A discriminator below a key "model" begins like a U-Net, but has no second level.
            if first == unet.FIRST and f"{root}model.model.1.model.1.weight" not in tensors:
                continue
            found.append(root.removesuffix("."))
    return found


def state_at(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state dict of a generator of networks."""
    prefix = f"{name}." if name else ""
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(f"{prefix}model.")
    }


def read(path: Path) -> Checkpoint:
    """Read a file of torch.save. No code of the file runs (weights_only).

    Raises CheckpointError if the file cannot be read or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        # Training scripts save their options, which are a Namespace, beside the weights.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            # torch.load warns about a TorchScript file before it raises.
            warnings.filterwarnings("ignore", message=r"'torch\.load' received a zip file")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load documents no list of exceptions, and its own text is several paragraphs about
        # pickle.
        raise CheckpointError(f"{path}: {_reason(path, error)}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, want a state dict")
    match content.get(INPUT_RANGE):
        case [float(low), float(high)]:
            stated = (low, high)
        case _:
            stated = None
    return Checkpoint(path, dict(_flattened(content)), stated)


def _reason(path: Path, error: Exception) -> str:
    """Say why a file cannot be loaded, and what to do."""
    names: list[str] = []
    if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    if names:
        return (
            f"holds Python objects ({', '.join(names[:3])}), which only their own code can read; "
            'there, save the weights alone: torch.save(net.state_dict(), "weights.pth")'
        )
    return (
        f"not a weights file ({type(error).__name__}); "
        "use one made by torch.save(model.state_dict(), path)"
    )


def _flattened(content: Mapping[object, object], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
