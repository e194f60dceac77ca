"""Two convolutions of the generator in fewer multiplications, equal but for rounding.

nearest x2, then 3 x 3    One transposed 4 x 4 convolution of stride 2. Each pixel of the enlarged image sees only
                          2 x 2 different pixels of the small one, so 9 products per pixel become 4.
3 x 3 over a tiled vector The vector is the same at every pixel, so the result has nine values: four corners, four
                          edges and the inside. They are computed on a 3 x 3 image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# the 4 taps of the kernel of stride 2 as sums of the 3 taps of the kernel on the enlarged image, along one side
_TAPS = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
_LEAST_PIXELS = 16  # of the small image: with fewer, summing the kernels up takes longer than it saves


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size and has no bias."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)


def upsampled_conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """Nearest-neighbour enlargement by two and a 3 x 3 convolution: [B, C, H, W] -> [B, O, 2H, 2W].

    weight: [O, C, 3, 3], of the convolution on the enlarged image.
    """
    if x.shape[2] * x.shape[3] <= _LEAST_PIXELS:
        return functional.conv2d(functional.interpolate(x, scale_factor=2.0), weight, padding=1)
    sums = torch.kron(_TAPS, _TAPS).T.to(weight)  # [9, 16]
    kernel = (weight.flatten(2) @ sums).unflatten(2, (4, 4)).transpose(0, 1)
    return functional.conv_transpose2d(x, kernel, stride=2, padding=1)


def tiled_conv3x3(vector: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """A padded 3 x 3 convolution of a vector laid on every pixel: [B, C], [O, C, 3, 3] -> [B, O, H, W]."""
    if min(height, width) < 3:
        tiled = vector[:, :, None, None].expand(-1, -1, height, width)
        return functional.conv2d(tiled, weight, padding=1)
    small = functional.conv2d(vector[:, :, None, None].expand(-1, -1, 3, 3), weight, padding=1)
    return _stretched(_stretched(small, 2, height), 3, width)


def _stretched(x: Tensor, dim: int, length: int) -> Tensor:
    """Three entries along `dim` -> `length`: the outer ones stay outside, the middle one is repeated."""
    first, middle, last = x.split(1, dim)
    sizes = [-1] * x.ndim
    sizes[dim] = length - 2
    return torch.cat([first, middle.expand(sizes), last], dim)
