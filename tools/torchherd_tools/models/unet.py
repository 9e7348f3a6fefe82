"""The U-Net generator of pix2pix.

The network is that of Isola et al., "Image-to-Image Translation with Conditional Adversarial
Networks" (2017), sections 3.2 and 6.1, with the keys of the official PyTorch code: each level of
the network is a Sequential that contains the next one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchherd_tools.models import layers
from torchherd_tools.models.layers import LayoutError

# The key of the first convolution of every U-Net.
FIRST = "model.model.0.weight"
# The first and the innermost level have the least layers, and there are no fewer levels.
MIN_DOWNS = 2


class Layout(NamedTuple):
    """The shape of a U-Net.

    ngf is the number of filters of the first layer, downs how many times the network halves the
    height and width: 7 for the official unet_128, 8 for unet_256. norm is a kind of layers.norm,
    and bias reports whether convolutions have one. inputs and outputs are the numbers of channels.
    The dropout of some levels has no weights, and is off in a served model.
    """

    ngf: int
    downs: int
    norm: str
    bias: bool
    inputs: int = 3
    outputs: int = 3

    @property
    def multiple(self) -> int:
        """The number of whose multiples both sides of an image must be."""
        return 2**self.downs

    def width(self, level: int) -> int:
        """Return the number of filters of a level, counted from 0."""
        return self.ngf * min(2**level, 8)

    def describe(self) -> str:
        """Return the layout in words."""
        return (
            f"pix2pix U-Net, ngf {self.ngf}, {self.downs} levels"
            + layers.describe_norm(self.norm)
            + layers.describe_channels(self.inputs, self.outputs)
        )


class UNet(nn.Module):
    """The network as it is trained: float [N, inputs, H, W] in, float [N, outputs, H, W] out.

    The output is in -1..1. H and W must be multiples of Layout.multiple.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.model = _Outermost(layout)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, inputs, H, W] in, float [N, outputs, H, W] in -1..1 out."""
        return self.model(x)


class _Outermost(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        width = layout.width(0)
        self.model = nn.Sequential(
            nn.Conv2d(layout.inputs, width, 4, stride=2, padding=1, bias=layout.bias),
            _Level(layout, 1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * width, layout.outputs, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Level(nn.Module):
    """A level with its skip connection: [N, C, H, W] to [N, 2C, H, W], of which half is the input.

    The official code's first activation works in place, so that its skip connections have the
    activated input. The next layer is a ReLU, after which both are equal.
    """

    def __init__(self, layout: Layout, level: int) -> None:
        super().__init__()
        outer, inner = layout.width(level - 1), layout.width(level)
        conv = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": layout.bias}
        down = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, **conv)]
        below = []
        if level < layout.downs - 1:
            below = [layers.norm(layout.norm, inner), _Level(layout, level + 1)]
        up = nn.ConvTranspose2d(2 * inner if below else inner, outer, **conv)
        norm = layers.norm(layout.norm, outer)
        self.model = nn.Sequential(*down, *below, nn.ReLU(inplace=True), up, norm)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], dim=1)


def state_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the keys of a U-Net's state dict and their shapes, in the network's order."""
    return layers.shapes_of(UNet, layout)


def find_layout(state: Mapping[str, Tensor]) -> Layout:
    """Return the layout of the U-Net that these weights belong to.

    Raises LayoutError with the first key that is missing, unexpected or of the wrong shape.
    """
    last = "model.model.3.weight"
    for key in (FIRST, last):
        if key not in state:
            raise LayoutError(f"missing key {key}")
        if state[key].dim() != 4:
            raise LayoutError(f"{key} has {state[key].dim()} dimensions, want 4")
    downs, level = 1, "model.model.1.model."
    while f"{level}1.weight" in state:
        downs, innermost, level = downs + 1, level, f"{level}3.model."
    if downs < MIN_DOWNS:
        raise LayoutError(f"missing key {level}1.weight")
    bias = FIRST.replace("weight", "bias") in state
    layout = Layout(
        ngf=state[FIRST].shape[0],
        downs=downs,
        norm=layers.find_norm(state, f"{innermost}4", bias),
        bias=bias,
        inputs=state[FIRST].shape[1],
        outputs=state[last].shape[1],
    )
    layers.check(state, state_shapes(layout))
    return layout
