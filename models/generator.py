"""The ResNet generator of CycleGAN, and the wrapper that a server runs.

The network is that of Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks" (2017), section 7.2, in the layout of the weights that the book "Deep Learning
with PyTorch" publishes as horse2zebra_0.4.0.pth. The layout is a contract: the position of a layer
in `Generator.model` is part of its key in the weights file.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

PUBLISHED_NGF = 64
PUBLISHED_BLOCKS = 9
PUBLISHED_GAIN = 0.02

_BLOCK_KEY = re.compile(r"model\.(\d+)\.conv_block\.")


class LayoutError(ValueError):
    """A state dict does not fit the generator. The text names the first key that does not."""


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input: [N, width, H, W] in and out."""

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
    """The network as it was trained: float [N, 3, H, W] in, float [N, 3, H', W'] in -1..1 out.

    H' and W' are H and W rounded up to a multiple of 4, for the image is halved twice and doubled
    twice. H and W must be at least 5, or the reflection has nothing to reflect.

    ngf is the number of filters of the first layer, n_blocks the number of ResNet blocks; 64 and 9
    are the published ones.
    """

    def __init__(self, ngf: int = PUBLISHED_NGF, n_blocks: int = PUBLISHED_BLOCKS) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, ngf, 7),
            *_norm_relu(ngf),
            *_halve(ngf),
            *_halve(2 * ngf),
            *(ResNetBlock(4 * ngf) for _ in range(n_blocks)),
            *_double(4 * ngf),
            *_double(2 * ngf),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in, float in -1..1 out."""
        return self.model(x)


class ScaledGenerator(nn.Module):
    """A generator between pictures: float [N, 3, H, W] in 0..1 in, the same range out.

    The published weights expect 0..255 and give -1..1; the book scales so in its server.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in 0..1 in, float in 0..1 out."""
        return self.generator(x * 255) / 2 + 0.5


def _norm_relu(width: int) -> tuple[nn.Module, ...]:
    return nn.InstanceNorm2d(width), nn.ReLU(inplace=True)


def _halve(width: int) -> tuple[nn.Module, ...]:
    """Half the height and width, twice the channels."""
    return nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), *_norm_relu(2 * width)


def _double(width: int) -> tuple[nn.Module, ...]:
    """Twice the height and width, half the channels."""
    half = width // 2
    up = nn.ConvTranspose2d(width, half, 3, stride=2, padding=1, output_padding=1)
    return up, *_norm_relu(half)


def state_shapes(ngf: int, n_blocks: int) -> dict[str, tuple[int, ...]]:
    """The keys of a generator's state dict and their shapes, in the network's order.

    The network is built on the meta device, which has shapes and no memory, so that the table
    cannot differ from the network and costs nothing.
    """
    with torch.device("meta"):
        state = Generator(ngf, n_blocks).state_dict()
    return {key: tuple(weight.shape) for key, weight in state.items()}


def find_layout(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """The (ngf, n_blocks) of the generator that these weights are for.

    Raises LayoutError, naming the first key that is missing, has another shape or is not the
    generator's.
    """
    first = state.get("model.1.weight")
    if first is None:
        raise LayoutError("missing key model.1.weight")
    if first.dim() != 4:
        raise LayoutError(f"model.1.weight has {first.dim()} dimensions, wanted 4")
    ngf = first.shape[0]
    n_blocks = len({match[1] for key in state if (match := _BLOCK_KEY.match(key))})
    expected = state_shapes(ngf, n_blocks)
    for key, shape in expected.items():
        if key not in state:
            raise LayoutError(f"missing key {key}")
        found = tuple(state[key].shape)
        if found != shape:
            raise LayoutError(f"{key} has shape {list(found)}, wanted {list(shape)}")
    for key in state:
        if key not in expected:
            raise LayoutError(f"unexpected key {key}")
    return ngf, n_blocks


def from_state(state: Mapping[str, Tensor]) -> ScaledGenerator:
    """The generator with these weights, as float32, ready to serve: eval mode, no gradients.

    Raises LayoutError when the weights are not a generator's.
    """
    return _serving(Generator(*find_layout(state)), state)


def random_state(
    ngf: int, n_blocks: int, seed: int, gain: float = PUBLISHED_GAIN, smooth: bool = False
) -> dict[str, Tensor]:
    """Untrained weights, normally distributed with mean 0 and standard deviation gain; biases 0.

    So the paper starts its training, with a gain of 0.02. A picture comes out of it as noise round
    its edges. With smooth, only one number is drawn for each pair of an input and an output
    channel, and a binomial window spreads it over the kernel: each layer then blurs and mixes
    colours, and the picture stays recognisable.

    The same arguments give the same weights, whatever the number of threads and the state of
    torch's global random generator.
    """
    source = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in state_shapes(ngf, n_blocks).items():
        if key.endswith(".bias"):
            state[key] = torch.zeros(shape)
        elif smooth:
            channels = torch.empty(*shape[:2], 1, 1).normal_(0, gain, generator=source)
            state[key] = channels * _binomial_window(shape[-1])
        else:
            state[key] = torch.empty(shape).normal_(0, gain, generator=source)
    return state


def _binomial_window(size: int) -> Tensor:
    """A bell over a kernel, [size, size], mean 1. Size 3 in a layer that doubles is bilinear."""
    row = torch.tensor([float(math.comb(size - 1, i)) for i in range(size)])
    row /= row.mean()
    return row[:, None] * row


def _serving(generator: Generator, state: Mapping[str, Tensor]) -> ScaledGenerator:
    generator.load_state_dict(state)
    return ScaledGenerator(generator).eval().requires_grad_(False)
