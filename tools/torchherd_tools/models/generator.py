"""The ResNet generator of CycleGAN, and the wrapper that a server runs.

The network is that of Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks" (2017), section 7.2. Its layout is that of the weights that the book "Deep
Learning with PyTorch" publishes as horse2zebra_0.4.0.pth: the index of a layer in `Generator.model`
is part of its key in the weights file, so layers must not move.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PUBLISHED_NGF = 64
PUBLISHED_BLOCKS = 9
PUBLISHED_GAIN = 0.02

# The index of the first ResNet block in Generator.model.
_FIRST_BLOCK = 10
_BLOCK_KEY = re.compile(r"model\.(\d+)\.conv_block\.")


class LayoutError(ValueError):
    """A state dict does not fit the generator. The text names the first key that is wrong."""


class Layout(NamedTuple):
    """The shape of a generator; the defaults are the published ones.

    ngf is the number of filters of the first layer, n_blocks the number of ResNet blocks. The
    published network upsamples by transposed convolutions, which tend to leave a checkerboard in
    the image, and pads with zeros where it downsamples, which shows at the borders. With resize,
    the network repeats pixels before a convolution, as Odena, Dumoulin and Olah propose
    ("Deconvolution and Checkerboard Artifacts", 2016), and pads by reflection everywhere.
    """

    ngf: int = PUBLISHED_NGF
    n_blocks: int = PUBLISHED_BLOCKS
    resize: bool = False

    def describe(self) -> str:
        """Return the layout in words."""
        doubling = "resizing" if self.resize else "transposed convolutions"
        return f"CycleGAN generator, ngf {self.ngf}, {self.n_blocks} blocks, {doubling}"


PUBLISHED = Layout()


class ResizeConv2d(nn.Conv2d):
    """Upsample by repeating pixels, then convolve: [N, in, H, W] to [N, out, 2H, 2W]."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, in, H, W] in, float [N, out, 2H, 2W] out."""
        return self._conv_forward(self.repeat(x), self.weight, self.bias)

    def repeat(self, x: Tensor) -> Tensor:
        """Repeat each pixel twice in both directions: [N, C, H, W] to [N, C, 2H, 2W]."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection: [N, width, H, W] in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, width, H, W] in, the same shape out."""
        return x + self.conv_block(x)


class Generator(nn.Module):
    """The network as it is trained: float [N, 3, H, W] in, float [N, 3, H', W'] in -1..1 out.

    H' and W' are H and W rounded up to a multiple of 4, since the network downsamples twice and
    upsamples twice. H and W must be at least 5, which reflection padding needs.
    """

    def __init__(self, layout: Layout = PUBLISHED) -> None:
        super().__init__()
        ngf, n_blocks, resize = layout
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, ngf, 7),
            *_norm_relu(ngf),
            *_halve(ngf, resize),
            *_halve(2 * ngf, resize),
            *(ResNetBlock(4 * ngf) for _ in range(n_blocks)),
            *_double(4 * ngf, resize),
            *_double(2 * ngf, resize),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in, float in -1..1 out."""
        return self.model(x)


class ScaledGenerator(nn.Module):
    """A generator with images in and out: float [N, 3, H, W] in 0..1, the same range out.

    The published weights expect 0..255 and return -1..1; the book's server scales in this way.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in 0..1 in, float in 0..1 out."""
        return self.generator(x * 255) / 2 + 0.5


def _norm_relu(width: int) -> tuple[nn.Module, ...]:
    return nn.InstanceNorm2d(width), nn.ReLU(inplace=True)


def _halve(width: int, resize: bool) -> tuple[nn.Module, ...]:
    """Return layers that halve the height and width and double the channels."""
    padding_mode = "reflect" if resize else "zeros"
    down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, padding_mode=padding_mode)
    return down, *_norm_relu(2 * width)


def _double(width: int, resize: bool) -> tuple[nn.Module, ...]:
    """Return layers that double the height and width and halve the channels."""
    half = width // 2
    if resize:
        up = ResizeConv2d(width, half)
    else:
        up = nn.ConvTranspose2d(width, half, 3, stride=2, padding=1, output_padding=1)
    return up, *_norm_relu(half)


def state_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the keys of a generator's state dict and their shapes, in the network's order.

    The network is built on the meta device, which allocates no memory.
    """
    with torch.device("meta"):
        state = Generator(layout).state_dict()
    return {key: tuple(weight.shape) for key, weight in state.items()}


def find_layout(state: Mapping[str, Tensor]) -> Layout:
    """Return the layout of the generator that these weights belong to.

    Raises LayoutError with the first key that is missing, unexpected or of the wrong shape.
    """
    first = state.get("model.1.weight")
    if first is None:
        raise LayoutError("missing key model.1.weight")
    if first.dim() != 4:
        raise LayoutError(f"model.1.weight has {first.dim()} dimensions, want 4")
    ngf = first.shape[0]
    n_blocks = len({match[1] for key in state if (match := _BLOCK_KEY.match(key))})
    # A transposed convolution's weight begins with the input channels, which are twice as many.
    upsampling = state.get(f"model.{_FIRST_BLOCK + n_blocks}.weight")
    resize = upsampling is not None and upsampling.shape[0] == 2 * ngf
    layout = Layout(ngf, n_blocks, resize)
    expected = state_shapes(layout)
    for key, shape in expected.items():
        if key not in state:
            raise LayoutError(f"missing key {key}")
        found = tuple(state[key].shape)
        if found != shape:
            raise LayoutError(f"{key} has shape {list(found)}, want {list(shape)}")
    for key in state:
        if key not in expected:
            raise LayoutError(f"unexpected key {key}")
    return layout


def from_state(state: Mapping[str, Tensor]) -> ScaledGenerator:
    """Return the float32 generator with these weights, in eval mode and without gradients.

    Raises LayoutError if the weights are not a generator's.
    """
    return _serving(Generator(find_layout(state)), state)


def random_state(layout: Layout, seed: int, gain: float = PUBLISHED_GAIN) -> dict[str, Tensor]:
    """Return untrained weights: normal, mean 0, standard deviation gain; biases 0.

    The paper starts training from such weights, with a gain of 0.02. The same arguments give the
    same weights, for any number of threads and any state of torch's global random generator.
    """
    source = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in state_shapes(layout).items():
        if key.endswith(".bias"):
            state[key] = torch.zeros(shape)
        else:
            state[key] = torch.empty(shape).normal_(0, gain, generator=source)
    return state


def _serving(generator: Generator, state: Mapping[str, Tensor]) -> ScaledGenerator:
    generator.load_state_dict(state)
    return ScaledGenerator(generator).eval().requires_grad_(False)
