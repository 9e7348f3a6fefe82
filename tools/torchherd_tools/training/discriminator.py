"""The 70x70 PatchGAN discriminator of CycleGAN, which only training needs.

It is that of Zhu et al. (2017), section 7.2: C64-C128-C256-C512 and a last convolution to one
channel. Each value of its output rates one patch of the image, of 70x70 pixels.
"""

import torch
from torch import Tensor, nn

PUBLISHED_NDF = 64
LEAK = 0.2
KERNEL = 4
# 32x32 is the smallest size whose deepest layer has more than one value per channel, which instance
# norm needs.
SMALLEST_IMAGE = 32


class PatchDiscriminator(nn.Module):
    """Float [N, 3, H, W] in -1..1 in, float [N, 1, h, w] out: about 1 is real, 0 is generated.

    h and w are about H / 8 and W / 8, less 2. H and W must be at least SMALLEST_IMAGE. ndf is the
    number of filters of the first layer; the published network has 64.
    """

    def __init__(self, ndf: int = PUBLISHED_NDF) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, ndf, KERNEL, stride=2, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
            *_layer(ndf, 2 * ndf, stride=2),
            *_layer(2 * ndf, 4 * ndf, stride=2),
            *_layer(4 * ndf, 8 * ndf, stride=1),
            nn.Conv2d(8 * ndf, 1, KERNEL, stride=1, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] in -1..1 in, float [N, 1, h, w] out."""
        return self.model(x)


def _layer(width: int, wider: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width, wider, KERNEL, stride=stride, padding=1),
        nn.InstanceNorm2d(wider),
        nn.LeakyReLU(LEAK, inplace=True),
    )


def receptive_field(network: nn.Module) -> int:
    """Return the side in pixels of the square that one output value depends on by convolutions.

    Instance norm, through which every pixel counts in the mean of a channel, is left out, as in the
    paper's 70.
    """
    side, step = 1, 1
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            side += (layer.kernel_size[0] - 1) * step
            step *= layer.stride[0]
    return side


def draw_weights(network: nn.Module, seed: int, gain: float) -> None:
    """Initialize a network's weights: normal, mean 0, standard deviation gain; biases 0."""
    source = torch.Generator().manual_seed(seed)
    for key, weight in network.state_dict().items():
        if key.endswith(".bias"):
            weight.zero_()
        else:
            weight.normal_(0, gain, generator=source)
