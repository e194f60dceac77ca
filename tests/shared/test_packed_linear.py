"""Packed products against the plain ones: values, gradients, and where they step aside."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared import packed_linear
from shared.packed_linear import affine, product_with

LARGE = (700, 400)  # [O, I]: a weight that is worth packing


def tensors(rows: int, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    sizes = [(rows, shape[1]), shape, (shape[0],)]
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


@pytest.mark.parametrize("shape", [LARGE, (30, 20)])
@pytest.mark.parametrize("rows", [0, 1, 255, 256, 301])
def test_values_and_gradients_are_those_of_linear(rows: int, shape: tuple[int, int]) -> None:
    leaves = tensors(rows, shape)
    upstream = torch.randn(rows, shape[0], generator=torch.Generator().manual_seed(1))
    expected = F.linear(*leaves)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), leaves)
    found = affine(*leaves)
    gradients = torch.autograd.grad((found * upstream).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not packed_linear._AVAILABLE, reason="torch without oneDNN")
def test_large_float32_products_are_packed() -> None:
    x, weight, bias = tensors(301, LARGE)
    assert "PackedLinear" in type(affine(x, weight, bias).grad_fn).__name__
    small = tensors(301, (30, 20))
    assert "PackedLinear" not in type(affine(*small).grad_fn).__name__


def test_a_gradient_is_computed_only_where_it_is_wanted() -> None:
    x, weight, bias = tensors(300, LARGE)
    affine(x.detach(), weight, bias.detach()).sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    assert bias.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 40, 128])
def test_one_packed_weight_serves_many_numbers_of_rows(rows: int, dtype: torch.dtype) -> None:
    x, weight, _ = (one.detach() for one in tensors(rows, LARGE, dtype))
    product = product_with(weight, 128)
    tolerance = 1e-1 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(
        product(x).double(), x.double() @ weight.double().t(), rtol=0.02, atol=tolerance * 5
    )
    transposed = product_with(weight.t(), 128)  # not contiguous
    y = torch.randn(rows, LARGE[0]).to(dtype)
    torch.testing.assert_close(
        transposed(y).double(), y.double() @ weight.double(), rtol=0.02, atol=tolerance * 5
    )


def test_autocast_is_left_to_torch() -> None:
    x, weight, bias = tensors(300, LARGE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert affine(x, weight, bias).dtype == torch.bfloat16
