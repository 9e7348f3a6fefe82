"""The ResNet generator of CycleGAN, and the wrapper that a server runs around any generator.

The network is that of Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks" (2017), section 7.2. Its layout is that of the weights that the book "Deep
Learning with PyTorch" publishes as horse2zebra_0.4.0.pth, and of the official code: the index of a
layer in `Generator.model` is part of its key in the weights file, so layers must not move.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchherd_tools.models import layers, unet
from torchherd_tools.models.layers import LayoutError

PUBLISHED_NGF = 64
PUBLISHED_BLOCKS = 9
PUBLISHED_GAIN = 0.02

# The values for black and white that networks are trained with: by the book and by this package's
# trainer, and by the official code.
BOOK_RANGE = (0.0, 255.0)
OFFICIAL_RANGE = (-1.0, 1.0)

# The key of the first convolution of every ResNet generator.
FIRST = "model.1.weight"
# The index of the first ResNet block in Generator.model.
_FIRST_BLOCK = 10
_BLOCK_KEY = re.compile(r"model\.(\d+)\.conv_block\.")


class Layout(NamedTuple):
    """The shape of a generator; the defaults are the published ones.

    ngf is the number of filters of the first layer, n_blocks the number of ResNet blocks. The
    published network upsamples by transposed convolutions, which tend to leave a checkerboard in
    the image, and pads with zeros where it downsamples, which shows at the borders. With resize,
    the network repeats pixels before a convolution, as Odena, Dumoulin and Olah propose
    ("Deconvolution and Checkerboard Artifacts", 2016), and pads by reflection everywhere.

    norm is a kind of layers.norm, and bias reports whether the convolutions before a norm have one.
    With dropout, each block has a layer more, which is off in a served model but moves the next
    ones. inputs and outputs are the numbers of channels.
    """

    ngf: int = PUBLISHED_NGF
    n_blocks: int = PUBLISHED_BLOCKS
    resize: bool = False
    norm: str = layers.INSTANCE
    bias: bool = True
    dropout: bool = False
    inputs: int = 3
    outputs: int = 3

    @property
    def multiple(self) -> int:
        """The number of whose multiples both sides of an image must be."""
        return 1

    def describe(self) -> str:
        """Return the layout in words."""
        doubling = "resizing" if self.resize else "transposed convolutions"
        return (
            f"CycleGAN generator, ngf {self.ngf}, {self.n_blocks} blocks, {doubling}"
            + layers.describe_norm(self.norm)
            + layers.describe_channels(self.inputs, self.outputs)
        )


PUBLISHED = Layout()


class ResizeConv2d(nn.Conv2d):
    """Upsample by repeating pixels, then convolve: [N, in, H, W] to [N, out, 2H, 2W]."""

    def __init__(self, channels: int, out: int, bias: bool = True) -> None:
        super().__init__(channels, out, 3, padding=1, padding_mode="reflect", bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, in, H, W] in, float [N, out, 2H, 2W] out."""
        return self._conv_forward(self.repeat(x), self.weight, self.bias)

    def repeat(self, x: Tensor) -> Tensor:
        """Repeat each pixel twice in both directions: [N, C, H, W] to [N, C, 2H, 2W]."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection: [N, width, H, W] in and out."""

    def __init__(self, width: int, layout: Layout = PUBLISHED) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=layout.bias),
            *_norm_relu(width, layout),
            *((nn.Identity(),) if layout.dropout else ()),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=layout.bias),
            layers.norm(layout.norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, width, H, W] in, the same shape out."""
        return x + self.conv_block(x)


class Generator(nn.Module):
    """The network as it is trained: float [N, 3, H, W] in, float [N, 3, H', W'] in -1..1 out.

    3 stands for Layout's inputs and outputs.

    H' and W' are H and W rounded up to a multiple of 4, since the network downsamples twice and
    upsamples twice. H and W must be at least 5, which reflection padding needs.
    """

    def __init__(self, layout: Layout = PUBLISHED) -> None:
        super().__init__()
        ngf = layout.ngf
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(layout.inputs, ngf, 7, bias=layout.bias),
            *_norm_relu(ngf, layout),
            *_halve(ngf, layout),
            *_halve(2 * ngf, layout),
            *(ResNetBlock(4 * ngf, layout) for _ in range(layout.n_blocks)),
            *_double(4 * ngf, layout),
            *_double(2 * ngf, layout),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, layout.outputs, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in, float in -1..1 out."""
        return self.model(x)


class ScaledGenerator(nn.Module):
    """A generator with images in and out: float [N, 3, H, W] in 0..1, the same range out.

    3 stands for the generator's numbers of channels. input_range is what the generator takes for 0
    and 1, and it returns -1..1.
    """

    def __init__(
        self,
        generator: Generator | unet.UNet,
        input_range: tuple[float, float] = BOOK_RANGE,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.input_range = input_range
        self.low = input_range[0]
        self.scale = input_range[1] - input_range[0]

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in 0..1 in, float in 0..1 out."""
        return self.generator(self.scaled(x)) / 2 + 0.5

    def scaled(self, x: Tensor) -> Tensor:
        """Convert values from 0..1 to the generator's range."""
        x = x * self.scale
        return x + self.low if self.low != 0.0 else x


def _norm_relu(width: int, layout: Layout) -> tuple[nn.Module, ...]:
    return layers.norm(layout.norm, width), nn.ReLU(inplace=True)


def _halve(width: int, layout: Layout) -> tuple[nn.Module, ...]:
    """Return layers that halve the height and width and double the channels."""
    padding_mode = "reflect" if layout.resize else "zeros"
    down = nn.Conv2d(
        width, 2 * width, 3, stride=2, padding=1, padding_mode=padding_mode, bias=layout.bias
    )
    return down, *_norm_relu(2 * width, layout)


def _double(width: int, layout: Layout) -> tuple[nn.Module, ...]:
    """Return layers that double the height and width and halve the channels."""
    half, bias = width // 2, layout.bias
    if layout.resize:
        up = ResizeConv2d(width, half, bias)
    else:
        up = nn.ConvTranspose2d(width, half, 3, stride=2, padding=1, output_padding=1, bias=bias)
    return up, *_norm_relu(half, layout)


def state_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the keys of a ResNet generator's state dict and their shapes, in its order."""
    return layers.shapes_of(Generator, layout)


def find_layout(state: Mapping[str, Tensor]) -> Layout | unet.Layout:
    """Return the layout of the generator that these weights belong to.

    Raises LayoutError with the first key that is missing, unexpected or of the wrong shape.
    """
    if unet.FIRST in state:
        return unet.find_layout(state)
    first = state.get(FIRST)
    if first is None:
        raise LayoutError(f"missing key {FIRST}")
    if first.dim() != 4:
        raise LayoutError(f"{FIRST} has {first.dim()} dimensions, want 4")
    ngf, inputs = first.shape[:2]
    bias = FIRST.replace("weight", "bias") in state
    n_blocks = len({match[1] for key in state if (match := _BLOCK_KEY.match(key))})
    # A transposed convolution's weight begins with the input channels, which are twice as many.
    upsampling = state.get(f"model.{_FIRST_BLOCK + n_blocks}.weight")
    # Without dropout this is the weight of a norm, which has one dimension.
    after_dropout = state.get(f"model.{_FIRST_BLOCK}.conv_block.6.weight")
    last = state.get(f"model.{_FIRST_BLOCK + n_blocks + 7}.weight")
    layout = Layout(
        ngf=ngf,
        n_blocks=n_blocks,
        resize=upsampling is not None and upsampling.shape[0] == 2 * ngf,
        norm=layers.find_norm(state, "model.2", bias),
        bias=bias,
        dropout=after_dropout is not None and after_dropout.dim() == 4,
        inputs=inputs,
        outputs=last.shape[0] if last is not None and last.dim() == 4 else 3,
    )
    layers.check(state, state_shapes(layout))
    return layout


def from_state(
    state: Mapping[str, Tensor],
    input_range: tuple[float, float] = BOOK_RANGE,
    running_statistics: bool = False,
) -> ScaledGenerator:
    """Return the float32 generator with these weights, in eval mode and without gradients.

    Batch norm uses the statistics of each image, as in the official tests, which run it in train
    mode on one image at a time; with running_statistics, those of the training. Instance norm
    always uses those of each image.

    Raises LayoutError if the weights are not a generator's, or have no running_statistics.
    """
    layout = find_layout(state)
    if layout.norm == layers.BATCH and not running_statistics:
        layout = layout._replace(norm=layers.AFFINE)
    if running_statistics and layout.norm != layers.BATCH:
        raise LayoutError("has no batch norm with running statistics")
    made = unet.UNet if isinstance(layout, unet.Layout) else Generator
    # The file may have statistics that the network hasn't.
    kept = layers.shapes_of(made, layout)
    network = made(layout)
    network.load_state_dict({key: state[key] for key in kept})
    return ScaledGenerator(network, input_range).eval().requires_grad_(False)


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
