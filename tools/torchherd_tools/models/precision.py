"""The precision in which a network computes: float32, or a 16-bit type with float32 in and out.

A 16-bit type halves the memory traffic and the file. Processors that multiply bfloat16 (avx512_bf16
or AMX in their flags) are about twice as fast with it; others may be slower than with float32.
float16 is for GPUs: its steps are finer, but a network's values can exceed its range.
"""

import copy

import torch
from torch import Tensor, fx, nn

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


_ATEN = torch.ops.aten
# Convolutions and matrix products, which take nearly all of a network's time.
_PRODUCTS = {
    _ATEN.conv1d.default,
    _ATEN.conv1d.padding,
    _ATEN.conv2d.default,
    _ATEN.conv2d.padding,
    _ATEN.conv3d.default,
    _ATEN.conv_transpose1d.default,
    _ATEN.conv_transpose2d.input,
    _ATEN.conv_transpose3d.input,
    _ATEN.convolution.default,
    _ATEN._convolution.default,
    _ATEN._convolution.deprecated,
    _ATEN.linear.default,
    _ATEN.matmul.default,
    _ATEN.mm.default,
    _ATEN.bmm.default,
    _ATEN.addmm.default,
    _ATEN.baddbmm.default,
    _ATEN.scaled_dot_product_attention.default,
}


def with_products_in(module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """Return an exported module, changed: convolutions and matrix products compute in dtype.

    Their results get the type that they had, so that all other operations compute as before. An
    export drops torch.autocast, so that the conversions are written into the graph; the compiler
    merges them with the operations around.
    """
    for part in module.modules():
        if not isinstance(part, fx.GraphModule):
            continue
        for node in list(part.graph.nodes):
            if node.target in _PRODUCTS:
                _compute_in(part.graph, node, dtype)
        part.recompile()
    return module


def _compute_in(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    def converted(argument: fx.Node) -> fx.Node:
        value = argument.meta["val"]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return argument
        return graph.call_function(_ATEN.to.dtype, (argument, dtype))

    with graph.inserting_before(node):
        node.args = fx.map_arg(node.args, converted)
        node.kwargs = fx.map_arg(node.kwargs, converted)
    with graph.inserting_after(node):
        back = graph.call_function(_ATEN.to.dtype, (node, node.meta["val"].dtype))
    back.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
