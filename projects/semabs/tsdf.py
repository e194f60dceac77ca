"""Truncated signed distance volumes of depth images (Curless and Levoy 1996; Zeng et al. 2017).

A voxel takes the depth of the one pixel it projects to. Values: 1 = free space, 0 = a surface, -1 = behind it or never
observed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from projects.semabs.voxel_grid import VoxelGrid

_UNOBSERVED = -1.0
_TRUNCATION = 5.0  # voxels
_NEAR = np.float32(-1e30)  # the depth of a pixel that observes nothing


class View(NamedTuple):
    """A depth image [h, w] in metres (0 = no measurement), intrinsics [3, 3], pose [4, 4] camera to scene."""

    depth: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray


def tsdf_volume(
    depth: np.ndarray,
    intrinsics: np.ndarray,
    pose: np.ndarray,
    bounds: np.ndarray,
    *,
    voxels: int | None = None,
    voxel_size: float | None = None,
) -> np.ndarray:
    """The TSDF of one view [X, Y, Z] float32 in the box `bounds` [2, 3]; `voxels` along x, or their size."""
    return fuse([View(depth, intrinsics, pose)], bounds, voxels=voxels, voxel_size=voxel_size)


def fuse(
    views: Sequence[View],
    bounds: np.ndarray,
    *,
    voxels: int | None = None,
    voxel_size: float | None = None,
) -> np.ndarray:
    """The TSDF of several views: each voxel holds the mean of those that observe it.

    Voxel (i, j, k) is at low + size * (i, j, k). A view observes it if it lies before the camera, in the image,
    on a pixel with depth, and not farther than 5 voxels behind the surface there.
    """
    size, shape = grid_of(bounds, voxels, voxel_size)
    low = np.asarray(bounds, np.float32)[0]
    axes = [low[axis] + size * np.arange(shape[axis], dtype=np.float32) for axis in range(3)]
    volume = np.full(shape, _UNOBSERVED, np.float32)
    weight = np.zeros(shape, np.float32) if len(views) > 1 else None
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for view in views:
            slabs = _Slabs(view, axes, _TRUNCATION * float(size))
            parts = np.array_split(np.arange(shape[0]), max(1, torch.get_num_threads()))
            list(pool.map(lambda part, slabs=slabs: slabs.integrate(part, volume, weight), parts))
    return volume


def grid_of(
    bounds: np.ndarray, voxels: int | None = None, voxel_size: float | None = None
) -> tuple[np.float32, tuple[int, int, int]]:
    """(voxel size, voxels along x, y and z) of a box: ceil(extent / size), safe against rounding (2 / (2 / 240))."""
    if (voxels is None) == (voxel_size is None):
        raise ValueError("give either voxels or voxel_size")
    box = np.asarray(bounds, np.float64)
    extent = box[1] - box[0]
    size = float(extent[0]) / voxels if voxels is not None else float(voxel_size or 0)
    counts = np.ceil(np.round(extent / size, 6)).astype(int)
    return np.float32(size), (int(counts[0]), int(counts[1]), int(counts[2]))


def tsdf_points(
    bounds: np.ndarray, *, voxels: int | None = None, voxel_size: float | None = None
) -> np.ndarray:
    """Scene points [X * Y * Z, 3] float32 of the voxels of `tsdf_volume`, z quickest."""
    size, shape = grid_of(bounds, voxels, voxel_size)
    low = np.asarray(bounds, np.float32)[0]
    axes = [low[axis] + size * np.arange(shape[axis], dtype=np.float32) for axis in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def value_at(points: np.ndarray, volume: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """TSDF [...] of the voxel of each point [..., 3], as `VoxelGrid` finds it; > 0: the camera sees the point."""
    index = VoxelGrid(bounds, volume.shape).indices(points)
    found: np.ndarray = volume[index[..., 0], index[..., 1], index[..., 2]]
    return found


class _Slabs:
    """Integration of one view into a volume, a slab of constant x at a time.

    Projection is affine in the voxel, so a slab's coordinates are sums of a vector over y and one over z. A pixel
    without depth, and a border around the image for what projects outside, are infinitely near: what lies on them
    is infinitely far behind a surface, and so is clipped to the value of what nobody observed.
    """

    def __init__(self, view: View, axes: Sequence[np.ndarray], truncation: float) -> None:
        self.height, self.width = view.depth.shape
        self.truncation = np.float32(truncation)
        padded = np.full((self.height + 2, self.width + 2), _NEAR, np.float32)
        padded[1:-1, 1:-1] = np.where(view.depth > 0, view.depth, _NEAR)
        self.depth = padded.reshape(-1)
        to_camera = np.linalg.inv(np.asarray(view.pose, np.float64))
        camera = np.diag([view.intrinsics[0, 0], view.intrinsics[1, 1], 1.0]).astype(np.float64)
        camera[:2, 2] = view.intrinsics[0, 2] + 1, view.intrinsics[1, 2] + 1  # + 1: the border
        projection = camera @ to_camera[:3]
        x, y, z = (
            np.multiply.outer(projection[:, axis], np.asarray(axes[axis], np.float64)) for axis in range(3)
        )
        self.x, self.y, self.z = x + projection[:, 3:], y, z  # [3, X], [3, Y], [3, Z]; rows: u z, v z, z

    def integrate(self, slabs: np.ndarray, volume: np.ndarray, weight: np.ndarray | None) -> None:
        """Update the slabs `volume[i]` of these i; weight: views that observed a voxel, None for a single view."""
        shape = volume.shape[1:]
        u, v, z, scale = (np.empty(shape) for _ in range(4))
        pixel = np.empty(shape, np.int64)
        for i in slabs:
            for out, row in ((u, 0), (v, 1), (z, 2)):
                np.add((self.x[row, i] + self.y[row])[:, None], self.z[row], out=out)
            nearest = z.min()
            np.divide(1.0, z if nearest > 0 else np.maximum(z, 1e-12), out=scale)
            for out, side in ((u, self.width), (v, self.height)):
                np.multiply(out, scale, out=out)
                np.rint(out, out=out)  # half to even
                np.maximum(out, 0, out=out)
                np.minimum(out, side + 1, out=out)
            np.multiply(v, self.width + 2, out=v)
            np.add(v, u, out=v)
            np.copyto(pixel, v, casting="unsafe")
            distance = np.take(self.depth, pixel)
            np.subtract(distance, z, out=distance, casting="same_kind")
            if nearest <= 0:
                distance[z <= 0] = _NEAR
            if weight is None:
                np.divide(distance, self.truncation, out=distance)
                np.clip(distance, -1, 1, out=volume[i])
            else:
                _average(volume[i], weight[i], distance, self.truncation)


def _average(volume: np.ndarray, weight: np.ndarray, distance: np.ndarray, truncation: np.float32) -> None:
    """The running mean of a slab, where this view observes it."""
    observed = distance >= -truncation
    value = np.clip(distance / truncation, -1, 1)
    total = weight + 1
    np.copyto(volume, (weight * volume + value) / total, where=observed)
    np.copyto(weight, total, where=observed)
