"""Half-width weights: a generator whose convolutions keep float16 and compute in float32.

A file takes half the room so, and any device runs it, at the speed and with the range of float32: a
layer widens its weights when it runs, which costs one pass over them.
"""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from generator import ResizeConv2d, ScaledGenerator


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.float(), _widened(self.bias))


class _ResizeConv2d(ResizeConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.repeat(x), self.weight.float(), _widened(self.bias))


class _ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), _widened(self.bias)
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)


_HALVES = {
    nn.Conv2d: _Conv2d,
    ResizeConv2d: _ResizeConv2d,
    nn.ConvTranspose2d: _ConvTranspose2d,
}


def with_half_weights(module: ScaledGenerator) -> ScaledGenerator:
    """A copy of the module whose weights are float16. Float [N, 3, H, W] in and out, as before."""
    made = copy.deepcopy(module)
    for layer in made.modules():
        if type(layer) in _HALVES:
            layer.half()
            layer.__class__ = _HALVES[type(layer)]
    return made


def _widened(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
