"""Relevancies of tiles -> one map of the image (paper section 3.1): bilinear, averaged over tiles and scales.

Upsampling is linear, so that a scale is two matrix products, R M C^T: R holds the interpolation weights of all
rows of tiles, M the tiles' maps side by side.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.semabs.tiles import Scale

EPSILON = 1e-5  # added to the number of tiles over a pixel, as released


def split_scales(maps: Tensor, grid: Sequence[Scale]) -> list[Tensor]:
    """Maps of all tiles [L, T, g, g] in the order of `tile_grid` -> per scale [L, columns, rows, g, g]."""
    counts = [len(scale.rows) * len(scale.columns) for scale in grid]
    parts = maps.split(counts, dim=1)
    return [
        part.unflatten(1, (len(scale.columns), len(scale.rows))) if count else part
        for part, scale, count in zip(parts, grid, counts, strict=True)
    ]


def aggregate(
    maps: Tensor,
    grid: Sequence[Scale],
    height: int,
    width: int,
    *,
    images: int = 1,
    sampled: int | None = None,
) -> Tensor:
    """The mean over scales of the mean over tiles.

    Args:
        maps: sums over `images` versions of the picture, [L, T, g, g] in the order of `tile_grid`.
        grid: what `scales` gave.
        height, width: of the picture.
        images: how many versions were summed up.
        sampled: only these many rows and columns of the map, those that a nearest-exact resize would pick.

    Returns:
        float32 [L, height, width], or [L, sampled, sampled]. Pixels under no tile are 0.
    """
    rows, columns = (_picked(length, sampled) for length in (height, width))
    total = maps.new_zeros(len(maps), len(rows), len(columns), dtype=torch.float32)
    for part, scale in zip(split_scales(maps.float(), grid), grid, strict=True):
        if not scale.rows:
            continue
        down, across = (
            _placed(scale.size, starts, picked, maps.shape[-1]).to(maps.device)
            for starts, picked in ((scale.rows, rows), (scale.columns, columns))
        )
        side_by_side = part.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)  # [L, rows g, columns g]
        counts = _covered(scale.size, scale.rows, rows)[:, None] * _covered(
            scale.size, scale.columns, columns
        )
        total += (down @ side_by_side @ across.T) / (images * counts + EPSILON).to(maps.device)
    return total / len(grid)


def aggregate_half(maps: Tensor, grid: Sequence[Scale], height: int, width: int) -> Tensor:
    """`aggregate` with the released rounding: tiles are added one by one to float16 sums.

    maps: not summed up, [I, L, T, g, g] of I versions of the picture. It differs from `aggregate` by about
    one thousandth, and is slow; for comparisons with stored maps only.
    """
    total = maps.new_zeros(maps.shape[1], height, width, dtype=torch.float32)
    parts = [split_scales(version.float(), grid) for version in maps]
    for index, scale in enumerate(grid):
        sums = total.new_zeros(total.shape, dtype=torch.float16)
        for version in parts:
            for i, col in enumerate(scale.columns):
                for j, row in enumerate(scale.rows):
                    whole = F.interpolate(
                        version[index][:, i, j][None], (scale.size, scale.size), mode="bilinear"
                    )[0]
                    sums[:, row : row + scale.size, col : col + scale.size] += whole
        counts = tile_counts(scale, height, width, images=len(maps)).to(maps.device)
        total += sums / counts
    return total / len(grid)


def tile_counts(scale: Scale, height: int, width: int, *, images: int = 1) -> Tensor:
    """Number of tiles over each pixel, plus 1e-5: [height, width]."""
    rows, columns = (np.arange(length) for length in (height, width))
    down, across = _covered(scale.size, scale.rows, rows), _covered(scale.size, scale.columns, columns)
    return images * (down[:, None] * across) + EPSILON


def nearest_exact(length: int, sampled: int) -> np.ndarray:
    """Indices that `F.interpolate(mode="nearest-exact")` reads when `length` values become `sampled`."""
    index = torch.arange(length, dtype=torch.float64)[None, None]
    return F.interpolate(index, sampled, mode="nearest-exact")[0, 0].long().numpy()


def _picked(length: int, sampled: int | None) -> np.ndarray:
    return np.arange(length) if sampled is None else nearest_exact(length, sampled)


def _placed(size: int, starts: Sequence[int], picked: np.ndarray, grid: int) -> Tensor:
    """Bilinear weights (corners not aligned) of the picked pixels in tiles at `starts`: [pixels, tiles * grid]."""
    unit = torch.eye(grid)[None, :, :, None].expand(1, grid, grid, 1)
    weights = F.interpolate(unit, (size, 1), mode="bilinear")[0, :, :, 0]  # [grid, size]
    placed = torch.zeros(len(starts), grid, len(picked))
    for tile, start in zip(placed, starts, strict=True):
        inside = torch.from_numpy((picked >= start) & (picked < start + size))
        tile[:, inside] = weights[:, torch.from_numpy(picked)[inside] - start]
    return placed.flatten(0, 1).T.contiguous()


def _covered(size: int, starts: Sequence[int], picked: np.ndarray) -> Tensor:
    """How many tiles at `starts` hold each picked pixel."""
    first = np.asarray(starts, dtype=np.int64)[:, None]
    return torch.from_numpy(((picked >= first) & (picked < first + size)).sum(0)).float()
