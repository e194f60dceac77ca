"""What the CLIP stand-in learns from: small pictures with the names of the things on them.

Half of a batch is composed (sprites of named objects over crops of empty rooms), half is cut out of rendered
rooms. Each picture comes with the names that it shows, and with the name of each of its patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from projects.semabs import mini_objects, mini_rooms
from projects.semabs.mini_names import NAMES

IGNORED = -100  # a patch that shows too little of anything
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)  # of CLIP's pictures
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_SIZES = (0.12, 1.15)  # of a sprite, in sides of the picture; log-uniform
_CROPS = (0.23, 1.0)  # of a room, in sides
_COVER = 0.25  # of a patch, at least, to bear a name
_SEEN = 12  # pixels, at least, for a name to be in the caption
_BLURRED = 0.25
_LATERAL = 0.12  # sides between two centres, to be left or right of each other


@dataclass(frozen=True)
class Batch:
    """B pictures: images [B, 3, S, S] normalised; shown bool [B, names]; patches int64 [B, g*g].

    A patch holds the index of its name, `len(NAMES)` for background, or IGNORED. `pairs` are
    (picture, left name, right name) of objects beside each other.
    """

    images: Tensor
    shown: Tensor
    patches: Tensor
    pairs: list[tuple[int, int, int]]


class Pictures:
    """Sprites and rooms in memory; draws batches."""

    def __init__(self, *, seed: int, sprites: int, rooms: int, room_side: int, side: int, patch: int) -> None:
        rng = np.random.default_rng([seed, 20])
        self.side, self.patch = side, patch
        self._sprites = [[_pyramid(mini_objects.sprite(name, rng)) for _ in range(sprites)] for name in NAMES]
        self._rooms = [mini_rooms.picture(rng, side=room_side) for _ in range(rooms)]
        empty = max(2, rooms // 6)
        self._empty = [mini_rooms.picture(rng, side=room_side, objects=0)[0] for _ in range(empty)]

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` pictures, the first half composed."""
        drawn = [self._composed(rng) if i < count // 2 else self._cut(rng) for i in range(count)]
        images = np.stack([_changed(rng, rgb) for rgb, _ in drawn])
        ids = np.stack([names for _, names in drawn])
        shown = np.stack([np.bincount(one[one >= 0], minlength=len(NAMES)) >= _SEEN for one in ids])
        pairs = [(i, *pair) for i, one in enumerate(ids) if (pair := _beside(rng, one, shown[i]))]
        return Batch(
            images=torch.from_numpy(normalised(images)),
            shown=torch.from_numpy(shown),
            patches=torch.from_numpy(patch_names(ids, self.patch)),
            pairs=pairs,
        )

    def _composed(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Up to three sprites on a crop of an empty room: rgb float32 [S, S, 3] of 0..1, ids [S, S]."""
        ground = self._empty[rng.integers(len(self._empty))]
        rgb = _resized(_square(rng, ground), self.side).astype(np.float32) / 255
        ids = np.full((self.side, self.side), -1, np.int64)
        for _ in range(rng.integers(0, 4)):
            _rectangle(rng, rgb)
        for _ in range(rng.integers(0, 4)):
            name = int(rng.integers(len(self._sprites)))
            sprites = self._sprites[name]
            size = self.side * float(np.exp(rng.uniform(*np.log(_SIZES))))
            _paste(rng, rgb, ids, sprites[rng.integers(len(sprites))], name, max(4, round(size)))
        return rgb, ids

    def _cut(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A square of a rendered room, perhaps mirrored."""
        rgb, ids = self._rooms[rng.integers(len(self._rooms))]
        square = _square(rng, np.concatenate([rgb.astype(np.int16), ids[..., None].astype(np.int16)], 2))
        small = _resized(square[..., :3].astype(np.uint8), self.side).astype(np.float32) / 255
        where = (np.arange(self.side) * len(square) + len(square) // 2) // self.side
        return small, square[..., 3].astype(np.int64)[np.ix_(where, where)]


def normalised(images: np.ndarray) -> np.ndarray:
    """Pictures [B, S, S, 3] of 0..1 as CLIP takes them, [B, 3, S, S]."""
    return np.ascontiguousarray(((images - MEAN) / DEVIATION).transpose(0, 3, 1, 2), np.float32)


def patch_names(ids: np.ndarray, patch: int) -> np.ndarray:
    """The name of each patch [B, g*g] of ids [B, S, S]: the one that covers most, if it covers a quarter."""
    count, side = len(ids), ids.shape[1]
    grid = side // patch
    cells = ids.reshape(count, grid, patch, grid, patch).transpose(0, 1, 3, 2, 4).reshape(count * grid**2, -1)
    rows = np.repeat(np.arange(len(cells)), cells.shape[1])
    flat = rows * (len(NAMES) + 1) + cells.reshape(-1) + 1
    covered = np.bincount(flat, minlength=len(cells) * (len(NAMES) + 1)).reshape(len(cells), -1)
    share = covered[:, 1:] / cells.shape[1]
    found = np.where(share.max(1) >= _COVER, share.argmax(1), IGNORED)
    return np.where(covered[:, 0] == cells.shape[1], len(NAMES), found).reshape(count, -1)


def _pyramid(sprite: np.ndarray) -> list[np.ndarray]:
    """A sprite [S, S, 4] of 0..255 at sides S, S/2, ... 8, colours multiplied by alpha, float32 of 0..1."""
    level: np.ndarray = sprite.astype(np.float32) / 255
    level[..., :3] *= level[..., 3:]
    levels = [level]
    while level.shape[0] > 8:
        level = cv2.resize(level, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        levels.append(level)
    return levels


def _paste(
    rng: np.random.Generator,
    rgb: np.ndarray,
    ids: np.ndarray,
    levels: Sequence[np.ndarray],
    name: int,
    size: int,
) -> None:
    """Draw a sprite `size` pixels wide, its middle anywhere in the picture."""
    side = len(rgb)
    level = next((level for level in reversed(levels) if len(level) >= size), levels[0])
    sprite = cv2.resize(level, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        sprite = sprite[:, ::-1]
    top, left = (rng.integers(0, side, 2) - size // 2).tolist()
    inside = slice(max(0, top), min(side, top + size)), slice(max(0, left), min(side, left + size))
    part = sprite[
        inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left
    ]
    rgb[inside] = rgb[inside] * (1 - part[..., 3:]) + part[..., :3]
    ids[inside][part[..., 3] > 0.5] = name


def _rectangle(rng: np.random.Generator, rgb: np.ndarray) -> None:
    side = len(rgb)
    top, left = rng.integers(0, side, 2).tolist()
    height, width = rng.integers(3, side // 2, 2).tolist()
    rgb[top : top + height, left : left + width] = rng.random(3, np.float32)


def _square(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A square part of a square picture, perhaps mirrored."""
    side = len(picture)
    size = max(8, round(side * rng.uniform(*_CROPS)))
    top, left = rng.integers(0, side - size + 1, 2).tolist()
    part = picture[top : top + size, left : left + size]
    return part[:, ::-1] if rng.random() < 0.5 else part


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    way = cv2.INTER_AREA if len(picture) > side else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(picture), (side, side), interpolation=way)


def _changed(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Another light: brightness, contrast, tint, noise, now and then blur."""
    if rng.random() < _BLURRED:
        rgb = cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.4, 1.2)))
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
    middle = rgb.mean()
    changed = (rgb - middle) * rng.uniform(0.7, 1.3) + middle
    noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(0, 0.03))
    return np.clip(changed * gain.astype(np.float32) + noise, 0, 1).astype(np.float32)


def _beside(rng: np.random.Generator, ids: np.ndarray, shown: np.ndarray) -> tuple[int, int] | None:
    """Two names of a picture, the left one first, if their middles lie apart."""
    names = np.flatnonzero(shown)
    if len(names) < 2:
        return None
    first, second = rng.permutation(names)[:2].tolist()
    gap = (np.nonzero(ids == second)[1].mean() - np.nonzero(ids == first)[1].mean()) / len(ids)
    if abs(gap) < _LATERAL:
        return None
    return (first, second) if gap > 0 else (second, first)
