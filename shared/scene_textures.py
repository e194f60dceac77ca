"""Surface colours of procedural scenes as functions of the place in the world: noise, courses of stone, tiles."""

from collections.abc import Callable
from functools import cache

import numpy as np

Material = Callable[[np.ndarray, np.ndarray], np.ndarray]  # points, normals [N, 3] -> albedo [N, 3] in [0, 1]
_SIDE = 128  # cells of the noise tile, which repeats: 8 of the largest blobs


@cache
def _tile() -> np.ndarray:
    """Three octaves of value noise [128, 128, 128] float32 that repeat, mean 0, standard deviation 1."""
    rng = np.random.default_rng(77)
    total = np.zeros((_SIDE,) * 3, np.float32)
    for octave in (16, 8, 4):  # cells of the lattice span so many cells of the tile
        lattice = rng.standard_normal((_SIDE // octave,) * 3).astype(np.float32)
        for axis in range(3):
            lattice = _stretched(lattice, octave, axis)
        total += lattice * (octave / 16) ** 0.7
    total -= total.mean()
    return total / total.std()


def _stretched(values: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """Linear interpolation by `factor` along an axis, as on a circle."""
    weight = (np.arange(factor, dtype=np.float32) / factor).reshape(
        [-1 if k == axis + 1 else 1 for k in range(4)]
    )
    here, after = (np.expand_dims(one, axis + 1) for one in (values, np.roll(values, -1, axis)))
    shape = list(values.shape)
    shape[axis] *= factor
    return (here * (1 - weight) + after * weight).reshape(shape)


def noise(points: np.ndarray, cell: float, *, seed: int = 0) -> np.ndarray:
    """Noise [N] at points [N, 3]; mean 0, deviation about 1; `cell` is the size of the largest blobs.

    It repeats every 8 cells; `seed` moves it.
    """
    shift = (np.array([37, 59, 83]) * seed) % _SIDE
    index = (np.floor(points * np.float32(16 / cell)).astype(np.int32) + shift) & (_SIDE - 1)
    return _tile()[index[:, 0], index[:, 1], index[:, 2]]


def hashed(*cells: np.ndarray) -> np.ndarray:
    """A random number in [0, 1) for each cell of an integer grid, given by its coordinates [N]."""
    mixed = np.zeros(len(cells[0]), np.uint32)
    for cell, prime in zip(cells, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D), strict=False):
        mixed = (mixed ^ (cell.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)) * np.uint32(prime)
        mixed ^= mixed >> np.uint32(15)
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def plain(colour: np.ndarray, *, cell: float = 2.0, contrast: float = 0.08, seed: int = 0) -> Material:
    """A material: one colour with blotches of noise."""
    base = np.asarray(colour, np.float32)

    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return np.clip(base * (1 + contrast * noise(points, cell, seed=seed))[:, None], 0, 1)

    return albedo


def courses(
    colour: np.ndarray,
    *,
    height: float,
    length: float,
    joint: float = 0.06,
    variation: float = 0.1,
    stain: float = 0.12,
    cell: float = 4.0,
    seed: int = 0,
) -> Material:
    """A material: blocks of `length` x `height` in staggered courses, each of its own shade, darker joints, stains."""
    base = np.asarray(colour, np.float32)

    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        level = points[:, 2] / height
        row = np.floor(level)
        across = np.where(np.abs(normals[:, 0]) > 0.7, points[:, 1], points[:, 0]) / length + 0.5 * (row % 2)
        block = np.floor(across)
        shade = 1 + variation * (2 * hashed(row, block) - 1) + stain * noise(points, cell, seed=seed)
        at_joint = (level - row < joint) | (across - block < joint * height / length)
        return np.clip(base * (shade * np.where(at_joint, 0.75, 1))[:, None], 0, 1)

    return albedo
