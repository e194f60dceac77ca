"""Views of one picture for inference: scales, mirrored copies, padding, crops.

H, W: picture, n: views. A view is normalised as in training; padding is 0 after normalisation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from projects.babel.augmentation import IMAGENET_DEVIATIONS, IMAGENET_MEANS
from shared.errors import InputError


@dataclass(frozen=True)
class Views:
    """The views of one picture.

    Attributes:
        images: what the network sees, float32 [n, 3, h, w].
        flipped: which of them are mirrored [n].
        boxes: int64 [n, 4] = top, left, height, width. Of whole views: where the picture lies in the view;
            of crops: where the crop lies in the padded picture.
        size: (H, W) of the picture.
        padding: of crops: (top, left) of the picture in the padded picture; None for whole views.
    """

    images: Tensor
    flipped: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]
    padding: tuple[int, int] | None = None


def whole_views(
    picture: np.ndarray,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    pad: tuple[int, int] | None = None,
) -> Views:
    """The whole picture at each scale, as it is and mirrored: n = scales x (2 with `flip`), the mirrored odd.

    Args:
        picture: uint8 RGB [H, W, 3].
        pad: (height, width) of a view, in which the scaled picture is centred; None: as small as the largest
            scale allows, so that a single scale has no padding (what the released single-scale protocol feeds
            the network, which cuts its padding away again).

    Raises:
        InputError: a scaled picture is larger than `pad`.
    """
    height, width = picture.shape[:2]
    sizes = [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales]
    pad = pad or (max(h for h, _ in sizes), max(w for _, w in sizes))
    images, boxes = [], []
    for size in sizes:
        scaled = normalised(resized(picture, size))
        box = (*_centred(size, pad), *size)
        for pixels in _mirrored(scaled, flip):
            images.append(_padded(pixels, box, pad))
            boxes.append(box)
    return Views(_stacked(images), _flags(len(images), flip, first=False), np.array(boxes), (height, width))


def crop_views(
    picture: np.ndarray,
    *,
    crop: tuple[int, int],
    grid: tuple[int, int] = (2, 2),
    flip: bool = True,
    pad: tuple[int, int] | None = None,
) -> Views:
    """Overlapping crops of the padded picture on a regular grid, each mirrored (even, with `flip`) and as it is.

    Args:
        picture: uint8 RGB [H, W, 3].
        crop: (height, width) of a crop.
        grid: crops per column and row; the outer ones touch the borders.
        pad: (height, width) of the padded picture; None: the picture's own, at least a crop's.

    Raises:
        InputError: the picture is larger than `pad`, or a crop is, or the grid leaves gaps.
    """
    height, width = picture.shape[:2]
    pad = pad or (max(height, crop[0]), max(width, crop[1]))
    top, left = _centred((height, width), pad)
    canvas = _padded(normalised(picture), (top, left, height, width), pad)
    rows, columns = (_starts(*axis) for axis in zip(pad, crop, grid, strict=True))
    images, boxes = [], []
    for row in rows:
        for column in columns:
            piece = canvas[row : row + crop[0], column : column + crop[1]]
            for pixels in reversed(list(_mirrored(piece, flip))):
                images.append(pixels)
                boxes.append((row, column, *crop))
    flags = _flags(len(images), flip, first=True)
    return Views(_stacked(images), flags, np.array(boxes), (height, width), (top, left))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 RGB at (height, width), bicubic with antialiasing; the same array where nothing changes."""
    if picture.shape[:2] == tuple(size):
        return picture
    image = Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def reduced(picture: np.ndarray, side: int | None) -> np.ndarray:
    """The picture with a shorter side of at most `side` pixels."""
    height, width = picture.shape[:2]
    if side is None or min(height, width) <= side:
        return picture
    scale = side / min(height, width)
    return resized(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def normalised(picture: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> float32 [H, W, 3] as in training; in double precision, as released."""
    table = (np.arange(256)[:, None] / 255.0 - IMAGENET_MEANS) / IMAGENET_DEVIATIONS  # [256, 3]
    return table.astype(np.float32)[picture, np.arange(3)]


def _mirrored(pixels: np.ndarray, flip: bool) -> Iterator[np.ndarray]:
    yield pixels
    if flip:
        yield pixels[:, ::-1]


def _flags(count: int, flip: bool, *, first: bool) -> np.ndarray:
    return (np.arange(count) % 2 == (0 if first else 1)) & flip


def _centred(size: tuple[int, int], pad: tuple[int, int]) -> tuple[int, int]:
    if size[0] > pad[0] or size[1] > pad[1]:
        raise InputError(
            f"pad: a picture of {size[0]} x {size[1]} pixels does not fit into {pad[0]} x {pad[1]}"
        )
    return (pad[0] - size[0]) // 2, (pad[1] - size[1]) // 2


def _padded(pixels: np.ndarray, box: tuple[int, int, int, int], pad: tuple[int, int]) -> np.ndarray:
    top, left, height, width = box
    if (height, width) == tuple(pad):
        return pixels
    canvas = np.zeros((*pad, 3), np.float32)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _starts(length: int, crop: int, count: int) -> list[int]:
    """First pixels of `count` crops that are spread evenly from border to border."""
    if crop > length:
        raise InputError(f"crop: {crop} pixels, larger than the padded picture ({length})")
    starts = [(length - crop) * i // max(1, count - 1) for i in range(count)]
    if count * crop < length or any(b - a > crop for a, b in pairwise(starts)):
        raise InputError(f"grid: {count} crops of {crop} pixels do not cover {length}")
    return starts


def _stacked(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
