"""What the generators share: their normalization, and the check of a state dict against a network.

A state dict names layers by their index in the network, so that a layer's place is part of its key.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# A layer's name ends in one of these where batch norm, and PyTorch's instance norm before 0.4,
# recorded the statistics of the training.
STATISTICS = (".running_mean", ".running_var")
_COUNTER = ".num_batches_tracked"

INSTANCE, AFFINE, BATCH, NONE = "instance", "affine", "batch", "none"


class LayoutError(ValueError):
    """A state dict does not fit a generator. The text names the first key that is wrong."""


def norm(kind: str, width: int) -> nn.Module:
    """Return a layer that normalizes [N, width, H, W].

    INSTANCE is by each image's own statistics, AFFINE the same with weights, and BATCH by the
    statistics of the training. NONE keeps the place of the layer.
    """
    match kind:
        case "instance":
            return nn.InstanceNorm2d(width)
        case "affine":
            return nn.InstanceNorm2d(width, affine=True)
        case "batch":
            return nn.BatchNorm2d(width)
    return nn.Identity()


def find_norm(state: Mapping[str, Tensor], layer: str, bias: bool) -> str:
    """Return the kind of a normalization layer; bias reports whether convolutions have one.

    Batch norm has weights and statistics. The other kinds have no weights: the official code gives
    convolutions a bias with instance norm, and none without a norm.
    """
    tracked = f"{layer}{STATISTICS[0]}" in state
    if f"{layer}.weight" in state:
        return BATCH if tracked else AFFINE
    return INSTANCE if bias or tracked else NONE


def describe_norm(kind: str) -> str:
    """Return the kind in words, after a comma; nothing for instance norm, the usual one."""
    words = {AFFINE: "instance norm with weights", BATCH: "batch norm", NONE: "no norm"}
    return f", {words[kind]}" if kind in words else ""


def describe_channels(inputs: int, outputs: int) -> str:
    """Return the numbers of channels in words, after a comma; nothing for RGB to RGB."""
    return "" if inputs == outputs == 3 else f", {inputs} to {outputs} channels"


def shapes_of(network: type[nn.Module], layout: object) -> dict[str, tuple[int, ...]]:
    """Return the keys of the state dict of network(layout) and their shapes, in its order.

    The network is built on the meta device, which allocates no memory.
    """
    with torch.device("meta"):
        state = network(layout).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(_COUNTER)}


def check(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check a state dict against the keys and shapes of a network.

    It may have statistics that the network hasn't. Raises LayoutError with the first key that is
    missing, unexpected, of the wrong shape, or not floating-point.
    """
    for key, shape in expected.items():
        if key not in state:
            raise LayoutError(f"missing key {key}")
        found = tuple(state[key].shape)
        if found != shape:
            raise LayoutError(f"{key} has shape {list(found)}, want {list(shape)}")
        if not state[key].is_floating_point():
            raise LayoutError(f"{key} is not a floating-point tensor")
    for key in state:
        if key not in expected and not key.endswith((*STATISTICS, _COUNTER)):
            raise LayoutError(f"unexpected key {key}")
