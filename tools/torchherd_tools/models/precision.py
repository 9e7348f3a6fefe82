"""The precision in which a generator computes: float32, or a 16-bit type with float32 in and out.

A 16-bit type halves the memory traffic and the file. Processors that multiply bfloat16 (avx512_bf16
or AMX in their flags) are about twice as fast with it; others may be slower than with float32.
float16 is for GPUs: its steps are finer, but a network's values can exceed its range.
"""

import copy

import torch
from torch import Tensor, nn

from torchherd_tools.models.generator import ScaledGenerator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class ReducedGenerator(ScaledGenerator):
    """A generator that computes in a 16-bit dtype. Float32 [N, 3, H, W] in 0..1 in and out."""

    def __init__(self, module: ScaledGenerator, dtype: torch.dtype) -> None:
        super().__init__(copy.deepcopy(module.generator).to(dtype), module.input_range)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [N, 3, H, W] in 0..1 in, float32 in 0..1 out."""
        # Scaled before the conversion: the levels 0..255 are exact in both 16-bit types, and
        # -1..1 is rounded once.
        return self.generator(self.scaled(x).to(self.dtype)).float() / 2 + 0.5


def computing_in(module: ScaledGenerator, name: str) -> nn.Module:
    """Return the module for "fp32", else a copy that computes in the dtype of that name."""
    if name == "fp32":
        return module
    return ReducedGenerator(module, DTYPES[name]).eval()
