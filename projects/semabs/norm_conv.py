"""Group norm, 3 x 3 x 3 convolution, sum with a residual and ReLU as one step with a backward pass of its own.

On CPUs the volumes of the finest levels do not fit into any cache, so that each layer on its own costs a pass
over memory, forwards and backwards, and keeps a volume for the backward pass. Here the normalised volume is made
again in the backward pass instead of being kept, and everything else is done in place. Volumes have their
channels last in memory. Elsewhere (`plain`) the layers are called one after another.

B: batch   C: channels in   D: channels out   V: voxels
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS_LAST = torch.channels_last_3d
ROW = 1024  # numbers of a row, in which elementwise operations go over a volume
PIECE = 2048  # voxels that are summed in the volume's own precision; pieces are summed in float64
FEWEST_IN_BF16 = 64  # voxels of a volume, below which half precision would save nothing
MOST_FOR_GRAM = 32  # channels up to which sums of products are read off a product of matrices


def norm_conv(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    weight: Tensor,
    *,
    groups: int,
    eps: float = 1e-5,
    residual: Tensor | None = None,
) -> Tensor:
    """relu(conv(group_norm(x)) + residual).

    Args:
        x: [B, C, X, Y, Z].
        gain, shift: of the norm, [C].
        weight: of the convolution, [D, C, 3, 3, 3], padding 1.
        groups: of channels that are normalised together.
        eps: added to the variance.
        residual: [B, D, X, Y, Z].
    """
    if x.device.type == "cpu" and x.permute(0, 2, 3, 4, 1).is_contiguous():
        if torch.is_autocast_enabled("cpu"):
            # PyTorch 2.14's gradient of a bfloat16 convolution's weights is garbage for volumes of 2 x 2 x 2 voxels
            kind = torch.float32 if x[0, 0].numel() < FEWEST_IN_BF16 else torch.get_autocast_dtype("cpu")
            x, weight = x.to(kind), weight.to(kind)
            residual = None if residual is None else residual.to(kind)
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _NormConv.apply(x, gain, shift, weight, residual, groups, eps)
        return found
    return plain(x, gain, shift, weight, groups=groups, eps=eps, residual=residual)


def plain(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    weight: Tensor,
    *,
    groups: int,
    eps: float = 1e-5,
    residual: Tensor | None = None,
) -> Tensor:
    """The same, layer by layer."""
    y = F.conv3d(F.group_norm(x, groups, gain, shift, eps), weight, padding=1)
    return (y if residual is None else y.add_(residual)).relu_()


class _NormConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        groups: int,
        eps: float,
    ) -> Tensor:
        mean, rstd = group_statistics(x, groups, eps)
        scale = gain * rstd
        y = F.conv3d(affine(x, scale, shift - mean * scale), weight, padding=1)
        if residual is not None:
            y.add_(residual)
        y = y.relu_().contiguous(memory_format=CHANNELS_LAST)
        ctx.save_for_backward(x, gain, shift, weight, mean, rstd, y)
        ctx.groups, ctx.has_residual = groups, residual is not None
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, weight, mean, rstd, y = ctx.saved_tensors
        scale = gain * rstd
        grad = torch.ops.aten.threshold_backward(grad.contiguous(memory_format=CHANNELS_LAST), y, 0)
        normalised = affine(x, scale, shift - mean * scale)
        of_normalised, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, normalised, weight, None, [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, [True, True, False]
        )
        del normalised
        of_normalised = of_normalised.contiguous(memory_format=CHANNELS_LAST)
        sums, products = channel_sums(of_normalised, x)
        of_gain = (rstd * (products - mean * sums)).sum(0).to(gain.dtype)
        of_shift = sums.sum(0).to(shift.dtype)
        # dx = gain rstd dh - rstd A / n - (x - mean) rstd^3 (Q - mean A) / n, with A, Q the sums over the n numbers
        # of a group of gain dh and of gain dh x
        mean_of_sums = group_means(gain * sums, ctx.groups) / x[0, 0].numel()
        mean_of_products = group_means(gain * products, ctx.groups) / x[0, 0].numel()
        slope = (mean_of_sums * mean - mean_of_products) * rstd**3
        of_x = add_affine_(of_normalised, scale, x, slope, -slope * mean - mean_of_sums * rstd)
        return of_x, of_gain, of_shift, of_weight, grad if ctx.has_residual else None, None, None


def group_statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of the group that each channel is in, [B, C] float64."""
    sums, squares = channel_sums(x, x)
    mean = group_means(sums, groups) / x[0, 0].numel()
    variance = group_means(squares, groups) / x[0, 0].numel() - mean**2
    return mean, (variance.clamp(min=0) + eps).rsqrt()


def channel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the voxels of a and of a times b, [B, C] float64."""
    batch, channels = a.shape[:2]
    voxels = a[0, 0].numel()
    piece = PIECE if voxels % PIECE == 0 else voxels
    left, right = (_voxel_rows(x).view(-1, piece, channels) for x in (a, b))
    if left.dtype in (torch.bfloat16, torch.float16):
        left, right = left.float(), right.float()
    if channels <= MOST_FOR_GRAM:
        products = torch.bmm(left.transpose(1, 2), right).diagonal(dim1=1, dim2=2)
    else:
        products = (left * right).sum(1)
    return tuple(  # type: ignore[return-value]
        x.double().view(batch, -1, channels).sum(1) for x in (left.sum(1), products)
    )


def group_means(x: Tensor, groups: int) -> Tensor:
    """Of [B, C], the mean over the channels of a group at each of them."""
    batch, channels = x.shape
    found = x.view(batch, groups, channels // groups).mean(-1, keepdim=True)
    return found.expand(-1, -1, channels // groups).reshape(batch, channels)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x [B, C, X, Y, Z] times scale plus shift [B, C]."""
    rows, (scale, shift) = _rows(x, scale, shift)
    found = torch.addcmul(shift, rows, scale)
    return _volume(found, x)


def add_affine_(x: Tensor, scale: Tensor, other: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """Into x: x times scale plus other times slope plus shift; the latter three [B, C]."""
    rows, (scale, slope, shift) = _rows(x, scale, slope, shift)
    rows.mul_(scale).addcmul_(_rows(other)[0], slope).add_(shift)
    return x


def _rows(x: Tensor, *of_channels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A volume as [B, n, k C], and what belongs to its channels [B, C] as often, [B, 1, k C].

    A row of k voxels instead of one: operations run along the last axis, which should be long.
    """
    batch, channels = x.shape[:2]
    voxels = x[0, 0].numel()
    k = 1
    while voxels % (2 * k) == 0 and 2 * k * channels <= ROW:
        k *= 2
    rows = _voxel_rows(x).view(batch, voxels // k, k * channels)
    return rows, [values.to(x.dtype).repeat(1, k).unsqueeze(1) for values in of_channels]


def _voxel_rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 4, 1).view(x.shape[0], -1, x.shape[1])


def _volume(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, *sides = like.shape
    return rows.view(batch, *sides, channels).permute(0, 4, 1, 2, 3)
