"""Linear maps on a CPU with the weight in oneDNN's own layout.

For float32 torch hands a matrix product to its BLAS, which lays out the weight anew in every call. oneDNN's
kernels take a weight that was laid out once: measured on two cores, products of a few dozen to a few thousand
rows then take 60 to 80 % of the time. The sums are the same up to their order.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_ROWS = 256  # of a product that has to lay out its weight first
_MIN_WEIGHT = 1 << 18  # numbers; small products are over before oneDNN has prepared for their shape
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

Product = Callable[[Tensor], Tensor]


def product_with(weight: Tensor, rows: int) -> Product:
    """The map x [R, I] -> x @ weight.T [R, O], without a gradient, for many x of about `rows` rows.

    weight: [O, I]; x has its dtype.
    """
    if not (_AVAILABLE and _fits(weight)):
        return lambda x: torch.mm(x, weight.t())
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [R, I] @ weight.T + bias [R, O]; in float32 on a CPU by a packed product."""
    usual = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or len(x) < _MIN_ROWS
    if usual or not (_AVAILABLE and _fits(weight) and x.dtype == weight.dtype):
        return F.linear(x, weight, bias)
    result: Tensor = _PackedLinear.apply(x, weight, bias)
    return result


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _MIN_WEIGHT


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product_with(weight, len(x))(x).add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            gradient @ weight if of_x else None,
            gradient.t() @ x if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
