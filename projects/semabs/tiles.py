"""Square crops of an image at several sizes, and what CLIP sees of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shared.errors import InputError

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, of pixels in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
CONFIGS = ("ours", "chefer_et_al")


@dataclass(frozen=True)
class Scale:
    """Tiles of `size` pixels at every combination of `rows` and `columns` (first pixels)."""

    size: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Tile:
    """A square of `size` pixels whose first pixel is (row, col)."""

    size: int
    row: int
    col: int


def scales(
    config: str, height: int, width: int, img_dim: int, *, starts_within_short_side: bool = True
) -> list[Scale]:
    """The grids of tiles, coarse to fine; `img_dim` is the coarsest size.

    config: `ours` has tiles of img_dim, 2/3, 1/2 and 1/4 of it, a quarter of a tile apart; `chefer_et_al` the
    first alone. Of an image narrower than img_dim (portraits, with the height as img_dim) that scale has no
    tile; with `ours` it counts as zeros, as released.
    starts_within_short_side: as released, no tile starts beyond the length of the short side along the long
    one, so that the finest scale leaves the far end of an oblong image uncovered; False: tiles everywhere.
    InputError: nothing is left, or an unknown config.
    """
    last = min(height, width) if starts_within_short_side else max(height, width)
    if config not in CONFIGS:
        raise InputError(f"saliency config: expected one of {', '.join(CONFIGS)}, found {config!r}")
    sizes = [img_dim, int(img_dim * 2 / 3), img_dim // 2, img_dim // 4]
    found = []
    for size in sizes if config == "ours" else sizes[:1]:
        stride = size // 4
        if stride < 1:
            raise InputError(f"image of {height} x {width} pixels: too small for tiles of {size} pixels")
        rows = tuple(range(0, min(height - size + 1, last), stride))
        columns = tuple(range(0, min(width - size + 1, last), stride))
        found.append(Scale(size, rows if columns else (), columns if rows else ()))
    if not any(scale.rows for scale in found):
        raise InputError(
            f"image of {height} x {width} pixels: no tile of {img_dim} pixels fits; {config} needs "
            f"img_dim <= {min(height, width)}"
        )
    return found


def tile_grid(config: str, height: int, width: int, img_dim: int) -> list[Tile]:
    """All tiles of `scales` in the released order."""
    return tiles_of(scales(config, height, width, img_dim))


def tiles_of(grid: Sequence[Scale]) -> list[Tile]:
    """By scale, then column, then row."""
    return [Tile(scale.size, row, col) for scale in grid for col in scale.columns for row in scale.rows]


def cut(image: np.ndarray, tiles: Sequence[Tile], side: int) -> np.ndarray:
    """Tiles of a uint8 image [H, W, 3], resized to CLIP's side as `preprocess` does -> uint8 [T, side, side, 3]."""
    out = np.empty((len(tiles), side, side, 3), np.uint8)
    for place, tile in zip(out, tiles, strict=True):
        crop = image[tile.row : tile.row + tile.size, tile.col : tile.col + tile.size]
        place[...] = crop if tile.size == side else _resized(crop, (side, side))
    return out


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [T, S, S, 3] -> CLIP's input, float32 [T, 3, S, S]."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def preprocess(image: np.ndarray, side: int) -> Tensor:
    """CLIP's preprocessing of a uint8 image [H, W, 3]: shorter side to `side`, centre crop -> [3, side, side]."""
    height, width = image.shape[:2]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    resized = image if size == (height, width) else _resized(image, size)
    top, left = (round((length - side) / 2) for length in size)
    crop = resized[top : top + side, left : left + side]
    return normalise(torch.from_numpy(crop.copy())[None])[0]


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's antialiased bicubic filter; size: (height, width)."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
