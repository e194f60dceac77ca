"""Atrous spatial pyramid pooling. Only the taps that can meet a pixel are computed; weights stay whole."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.babel.draws import Dropout


class Branch(nn.Module):
    """Dilated convolution, batch norm, ReLU. The convolution is computed by the pyramid."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int) -> None:
        super().__init__()
        size = 1 if dilation == 1 else 3  # the first branch is pointwise
        self.atrous_conv = nn.Conv2d(
            inputs, outputs, size, padding=dilation if size == 3 else 0, dilation=dilation, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)

    @property
    def dilation(self) -> int:
        """Distance of the taps."""
        return self.atrous_conv.dilation[0]

    def centre(self) -> Tensor:
        """The middle tap [outputs, inputs, 1, 1]."""
        weight = self.atrous_conv.weight
        middle = weight.shape[-1] // 2
        return weight[:, :, middle : middle + 1, middle : middle + 1]


class ASPP(nn.Module):
    """Four dilated branches and the pooled image, merged: [B, inputs, h, w] -> [B, width, h, w].

    The released net works at stride 16 with the dilations of stride 8 (1, 12, 24, 36). On the 14 x 14 map of a
    224-pixel image most taps lie in the zero padding: dilations >= 14 are 1x1 convolutions with the middle
    tap, and those of 12 reach 2 rows and columns at each border. All middle taps are one matrix product.
    """

    def __init__(
        self,
        inputs: int,
        width: int = 256,
        *,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for index, dilation in enumerate(dilations, 1):
            self.add_module(f"aspp{index}", Branch(inputs, width, dilation=dilation))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(width * (len(dilations) + 1), width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.dropout = Dropout(dropout)

    def branches(self) -> list[Branch]:
        """The dilated branches in order."""
        return [child for child in self.children() if isinstance(child, Branch)]

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, width, h, w]."""
        branches = self.branches()
        maps = [F.relu(b.bn(m), inplace=True) for b, m in zip(branches, convolve(x, branches), strict=True)]
        local, pooled = self.conv1.weight.split([sum(m.shape[1] for m in maps), maps[0].shape[1]], dim=1)
        image = F.conv2d(self.global_avg_pool(x), pooled)  # the same at every pixel
        merged = self.bn1(F.conv2d(torch.cat(maps, dim=1), local) + image)
        result: Tensor = self.dropout(F.relu(merged, inplace=True))
        return result


def convolve(x: Tensor, branches: Sequence[Branch]) -> list[Tensor]:
    """Each branch's convolution of x [B, inputs, h, w]; exact, whatever the size of the map."""
    height, width = x.shape[-2:]
    sparse = [
        b for b in branches if b.atrous_conv.kernel_size == (1, 1) or 2 * b.dilation >= max(height, width)
    ]
    middle = F.conv2d(x, torch.cat([branch.centre() for branch in sparse])) if sparse else x
    parts = dict(zip(sparse, middle.chunk(len(sparse), dim=1), strict=True)) if sparse else {}
    return [
        _with_border_taps(parts[branch], x, branch) if branch in parts else branch.atrous_conv(x)
        for branch in branches
    ]


def _with_border_taps(middle: Tensor, x: Tensor, branch: Branch) -> Tensor:
    """The middle tap's result plus the outer taps where they meet pixels: strips along the borders."""
    height, width = x.shape[-2:]
    weight, distance = branch.atrous_conv.weight, branch.dilation
    if weight.shape[-1] == 1 or distance >= max(height, width):
        return middle
    total = middle.clone()
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            here, there = _overlap(height, row * distance), _overlap(width, column * distance)
            if (row, column) == (0, 0) or here is None or there is None:
                continue
            tap = weight[:, :, row + 1, column + 1, None, None]
            total[:, :, here[0], there[0]] += F.conv2d(x[:, :, here[1], there[1]], tap)
    return total


def _overlap(size: int, shift: int) -> tuple[slice, slice] | None:
    """Where outputs lie and where the inputs at `shift` from them do; None where all of these are padding."""
    if abs(shift) >= size:
        return None
    if shift < 0:
        return slice(-shift, size), slice(0, size + shift)
    return slice(0, size - shift), slice(shift, size)
