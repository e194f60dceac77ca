"""Fixed sub-sampling of a flattened array: which of its elements the golden files of babel hold."""

import zlib
from typing import Any

import numpy as np


def pick(name: str, size: int, count: int) -> np.ndarray:
    """Indices into a flattened array of `size` elements: all if size <= count, else `count` distinct draws, sorted."""
    if size <= count:
        return np.arange(size)
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return np.sort(rng.choice(size, size=count, replace=False))


def picked(name: str, array: Any, count: int) -> np.ndarray:
    """Those elements of a tensor or array."""
    flat = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array).ravel()
    return flat[pick(name, flat.size, count)]
