"""Bilinear samples of feature maps at single points, many maps and points at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def sample_rows(maps: Tensor, image: Tensor, rowcol: Tensor) -> Tensor:
    """Features at points: maps [I, D, h, w], image int64 [R], rowcol [R, 2] -> [R, D].

    Row and column are fractions of the map: 0 is the centre of its first cell and 1 of its last, as
    grid_sample does with align_corners=True (the default of PyTorch 1.0, which the released weights were
    trained with); outside of [0, 1] zeros are padded. Fastest where `maps` are channels_last.
    """
    count, channels, height, width = maps.shape
    index, weight = _corners(image, rowcol, height, width)
    table = maps.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    rows: Tensor = _WeightedRows.apply(table, index, weight.to(maps.dtype))
    return rows


def _corners(image: Tensor, rowcol: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four cells around each point and their weights: int64 [R, 4], [R, 4]."""
    indices: list[list[Tensor]] = []
    weights: list[list[Tensor]] = []
    for position, size in ((rowcol[:, 0], height), (rowcol[:, 1], width)):
        position = position * (size - 1)
        # far outside every weight is zero, but an index must stay a number
        first = position.floor().clamp(-2, size)
        share = position - first
        cells, parts = [], []
        for cell, part in ((first, 1 - share), (first + 1, share)):
            cells.append(cell.clamp(0, size - 1).long())
            parts.append(part.where((cell >= 0) & (cell < size), 0))
        indices.append(cells)
        weights.append(parts)
    (rows, columns), (down, right) = indices, weights
    corners = [(i, j) for i in (0, 1) for j in (0, 1)]
    index = torch.stack([(image * height + rows[i]) * width + columns[j] for i, j in corners], dim=1)
    return index, torch.stack([down[i] * right[j] for i, j in corners], dim=1)


class _WeightedRows(torch.autograd.Function):
    """sum_k weight[r, k] * table[index[r, k]]: [M, D], [R, K], [R, K] -> [R, D]; gradient of the table only.

    The gradient, too, is a weighted sum of rows, for each row of the table over the points that touched it:
    written once, without atomic additions, in the same order every time.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.num_rows = len(table)
        if not len(index):
            return table.new_zeros(0, table.shape[1])
        return F.embedding_bag(index, table.contiguous(), per_sample_weights=weight, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        index, weight = ctx.saved_tensors
        gradient = grad_outputs[0].contiguous()
        if not len(index):
            return gradient.new_zeros(ctx.num_rows, gradient.shape[1]), None, None
        touched, order = index.flatten().sort(stable=True)
        first = torch.searchsorted(touched, torch.arange(ctx.num_rows, device=touched.device))
        source = order.div(index.shape[1], rounding_mode="floor")
        summed = F.embedding_bag(
            source, gradient, first, per_sample_weights=weight.flatten()[order], mode="sum"
        )
        return summed, None, None
