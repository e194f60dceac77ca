"""Random choices of an item: which points, and how the scene is moved. All draws come from the item's generator.

A generator is `numpy.random.Generator`, or `RandomState` where draws must be those of the released code.
"""

from typing import Any

import numpy as np

Rng = Any  # np.random.Generator | np.random.RandomState
METHODS = ("race", "choice")
_BLOCK = 1 << 14  # points


def draw_points(
    rng: Rng,
    population: int,
    count: int,
    *,
    weights: np.ndarray | None = None,
    replace: bool = False,
    method: str = "race",
) -> np.ndarray:
    """`count` of the numbers 0 .. population - 1, int64 [count]; weights [population]: what they are drawn by.

    Without replacement, unless `replace`, or there are too few (of positive weight). method: "race" draws an
    arrival time of rate weight for each and takes the first (the same distribution in one pass, in no
    particular order); "choice" is the released `rng.choice`, number for number where rng is a RandomState.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: use one of {', '.join(METHODS)}")
    if method == "choice":
        return _choice(rng, population, count, weights, replace)
    available = population if weights is None else int(np.count_nonzero(weights))
    if replace or available < count:
        shares = None if weights is None else weights / weights.sum(dtype=np.float64)
        return np.asarray(rng.choice(population, count, replace=True, p=shares))
    if weights is None:
        return np.asarray(rng.choice(population, count, replace=False, shuffle=False))
    if count == population:
        return np.arange(population)
    arrivals = rng.standard_exponential(population, dtype=np.float32)
    with np.errstate(divide="ignore"):
        arrivals /= weights.astype(np.float32, copy=False)
    return np.argpartition(arrivals, count)[:count]


def _choice(rng: Rng, population: int, count: int, weights: np.ndarray | None, replace: bool) -> np.ndarray:
    shares = np.full(population, 1 / population) if weights is None else weights / weights.sum()
    try:
        return np.asarray(rng.choice(population, count, replace=replace, p=shares))
    except ValueError:  # fewer than count
        return np.asarray(rng.choice(population, count, replace=True, p=shares))


def balancing_weights(positive: np.ndarray) -> np.ndarray:
    """Weights [N] by which positive and negative points are drawn equally often: 1 / size of the point's class.

    Uniform where a class is empty. Sum to 1.
    """
    count, total = int(np.count_nonzero(positive)), len(positive)
    if count in (0, total):
        return np.full(total, 1 / max(total, 1))
    return np.where(positive, 0.5 / count, 0.5 / (total - count))


def affine_matrix(translation: np.ndarray, angles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """T R diag(scale) [4, 4] float64: scaled, turned about the fixed axes x, then y, then z (radians), moved."""
    matrix = np.eye(4)
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix[:3, :3] = about_z @ about_y @ about_x @ np.diag(scale)
    matrix[:3, 3] = translation
    return matrix


def draw_released_affine(
    rng: Rng, bounds: np.ndarray, *, position: float, orientation: float, scale: float
) -> np.ndarray:
    """The released augmentation [4, 4]: t ~ N(0, 1) extent position, angles ~ U(+-orientation), s ~ U(1, 1 + scale)."""
    extent = np.asarray(bounds[1], np.float64) - np.asarray(bounds[0], np.float64)
    translation = rng.normal(size=3) * extent * position
    angles = rng.uniform(-orientation, orientation, size=3)
    return affine_matrix(translation, angles, rng.uniform(1.0, 1.0 + scale, size=3))


def draw_room_affine(rng: Rng, bounds: np.ndarray) -> np.ndarray:
    """The embedded rooms' augmentation [4, 4] about the middle of the floor (z = 0).

    Any turn around z, mirrored in x and in y half of the time each, shifted by up to 0.1 m along x and y and
    0.03 m along z, stretched by up to 10 %.
    """
    middle = (np.asarray(bounds[0], np.float64) + np.asarray(bounds[1], np.float64)) / 2 * [1, 1, 0]
    turn = np.array([0.0, 0.0, rng.uniform(-np.pi, np.pi)])
    mirror = np.where(rng.uniform(size=3) < [0.5, 0.5, 0.0], -1.0, 1.0)
    shift = rng.uniform(-1, 1, size=3) * [0.1, 0.1, 0.03]
    about = affine_matrix(middle + shift, turn, mirror * rng.uniform(0.9, 1.1, size=3))
    return about @ affine_matrix(-middle, np.zeros(3), np.ones(3))


def transformed(points: np.ndarray, affine: np.ndarray | None) -> np.ndarray:
    """Points [..., 3] float32 under a matrix [4, 4]; None leaves them as they are."""
    if affine is None:
        return points
    flat = np.asarray(points, np.float32).reshape(-1, 3)
    found = np.empty_like(flat)
    rows = affine[:3].astype(np.float32)
    # in pieces that stay in the cache; as a matrix product it would wait for all of BLAS's threads
    for start in range(0, len(flat), _BLOCK):
        x, y, z = flat[start : start + _BLOCK].T
        for axis, (a, b, c, shift) in enumerate(rows):
            found[start : start + _BLOCK, axis] = a * x + b * y + (c * z + shift)
    return found.reshape(points.shape)
