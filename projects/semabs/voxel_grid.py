"""Points and a regular voxel grid over a box: indices, scattering of point features, voxel positions.

B: batch   N: points   C: channels   X, Y, Z: voxels per axis
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

REDUCTIONS = ("mean", "max", "sum")


class VoxelGrid:
    """A grid of `shape` (X, Y, Z) voxels over the box `bounds` [2, 3]; voxel 0 and voxel X - 1 sit on its faces.

    All methods take NumPy arrays or tensors and give the same kind, `scatter` only tensors.
    """

    def __init__(self, bounds: Any, shape: Sequence[int]) -> None:
        self.bounds = np.asarray(bounds, np.float64).reshape(2, 3)
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))

    @property
    def voxels(self) -> int:
        """X * Y * Z."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def positions(self, points: Any) -> Any:
        """Points [..., 3] in voxels, clamped to the grid: (p - low) (G - 1) / (high - low), float32."""
        low, extent, last = self._constants(points)
        scaled = (points - low) * last / extent
        if isinstance(points, Tensor):
            return torch.minimum(scaled.clamp_(min=0), last)
        return np.clip(scaled, 0, last, out=scaled)

    def indices(self, points: Any) -> Any:
        """Voxel of each point [..., 3], int64: its position, truncated."""
        positions = self.positions(points)
        return positions.long() if isinstance(positions, Tensor) else positions.astype(np.int64)

    def flat(self, indices: Any) -> Any:
        """Row-major number [...] of voxels [..., 3]."""
        _, y, z = self.shape
        return (indices[..., 0] * y + indices[..., 1]) * z + indices[..., 2]

    def coordinates(self, indices: Any) -> Any:
        """Scene points [..., 3] float32 of voxels [..., 3] (indices or positions)."""
        whole = indices.float() if isinstance(indices, Tensor) else np.asarray(indices, np.float32)
        low, extent, last = self._constants(whole)
        return whole * extent / last + low

    def points(self) -> np.ndarray:
        """Scene points [X, Y, Z, 3] float32 of all voxels: an inclusive linspace over the box on each axis."""
        axes = [np.arange(count, dtype=np.float32) for count in self.shape]
        indices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        found: np.ndarray = self.coordinates(indices)
        return found

    def scatter(self, points: Tensor, features: Tensor, reduce: str = "mean") -> Tensor:
        """Pool features [B, N, C] of points [B, N, 3] in their voxels: [B, C, X, Y, Z]; empty voxels are 0.

        reduce: "mean", as the released networks pool though they ask for a maximum; "max" (its gradient goes to
        all that share the maximum, in equal parts); "sum". The result is a view with channels last in memory.
        """
        return self.scatter_flat(self.flat(self.indices(points)), features, reduce)

    def scatter_flat(self, index: Tensor, features: Tensor, reduce: str = "mean") -> Tensor:
        """`scatter` with the voxels' row-major numbers [B, N] (kept where several features are pooled)."""
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce {reduce!r}: use one of {', '.join(REDUCTIONS)}")
        batch, _, channels = features.shape
        offsets = torch.arange(batch, device=index.device)[:, None] * self.voxels
        rows = (index + offsets).reshape(-1)
        flat = features.reshape(-1, channels)
        pooled = features.new_zeros(batch * self.voxels, channels)
        if reduce == "max":
            places = rows[:, None].expand(-1, channels)
            pooled.scatter_reduce_(0, places, flat, "amax", include_self=False)
        else:
            if reduce == "mean":
                counts = torch.bincount(rows, minlength=len(pooled))
                flat = flat / counts[rows].to(flat.dtype)[:, None]
            pooled.index_add_(0, rows, flat)
        return pooled.view(batch, *self.shape, channels).permute(0, 4, 1, 2, 3)

    def _constants(self, like: Any) -> tuple[Any, Any, Any]:
        """(low, high - low, G - 1) as float32 of the same kind as `like`."""
        low = self.bounds[0].astype(np.float32)
        extent = (self.bounds[1] - self.bounds[0]).astype(np.float32)
        last = np.asarray(self.shape, np.float32) - 1
        if isinstance(like, Tensor):
            return tuple(torch.from_numpy(part).to(like.device) for part in (low, extent, last))  # type: ignore[return-value]
        return low, extent, last
