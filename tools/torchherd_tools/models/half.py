"""Float16 weights: a generator whose convolutions store float16 and compute in float32.

The file is half as large, and every device runs it with the speed and the range of float32. A layer
converts its weights to float32 each time it runs, which costs one pass over them.
"""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from torchherd_tools.models.generator import ResizeConv2d, ScaledGenerator


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.float(), _to_float(self.bias))


class _ResizeConv2d(ResizeConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.repeat(x), self.weight.float(), _to_float(self.bias))


class _ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), _to_float(self.bias)
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)


_HALVES = {
    nn.Conv2d: _Conv2d,
    ResizeConv2d: _ResizeConv2d,
    nn.ConvTranspose2d: _ConvTranspose2d,
}


def with_half_weights(module: ScaledGenerator) -> ScaledGenerator:
    """Return a copy of the module with float16 weights. Its input and output stay float32."""
    converted = copy.deepcopy(module)
    for layer in converted.modules():
        if type(layer) in _HALVES:
            layer.half()
            layer.__class__ = _HALVES[type(layer)]
    return converted


def _to_float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
