"""The control that learns nothing: relevancies put into the voxels of their points, and thickened.

It shows what the 3D network adds to the 2D maps: back-projection knows the seen surface only.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.semabs.completion import Encoded
from projects.semabs.voxel_grid import VoxelGrid

EMPTY = -100.0  # far below every cutoff


class BackProjection(nn.Module):
    """Mean relevancy of the points in a voxel, spread over `dilation` voxels to every side (the highest wins).

    Has no weights and takes what the networks take, so that the same evaluation scores it. For the task vool it
    shows the target's relevancies and knows nothing of relations.
    """

    def __init__(
        self, *, task: str, voxel_shape: Sequence[int], bounds: Sequence[Sequence[float]], dilation: int = 1
    ) -> None:
        super().__init__()
        self.features = "input_feature_pts" if task == "ovssc" else "input_target_saliency_pts"
        self.grid = VoxelGrid(bounds, voxel_shape)
        self.dilation = dilation
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, *, output_xyz_pts: Tensor, **tensors: Any) -> Tensor:
        """An item's tensors by name -> relevancies [B, P, N] in the place of logits."""
        return self.decode(self.encode(**tensors), output_xyz_pts=output_xyz_pts)

    def encode(self, *, input_xyz_pts: Tensor, **tensors: Any) -> Encoded:
        """Points [B, N, 3] with relevancies [B, P, N, 1] -> volumes [B P, 1, X, Y, Z]."""
        relevancies = tensors[self.features]
        batch, patches = relevancies.shape[:2]
        points = input_xyz_pts.repeat_interleave(patches, 0)
        features = relevancies[..., :1].flatten(0, 1).float()
        volumes = self.grid.scatter(points, features)
        volumes = torch.where(self.grid.scatter(points, torch.ones_like(features)) > 0, volumes, EMPTY)
        if self.dilation:
            volumes = F.max_pool3d(volumes, 2 * self.dilation + 1, stride=1, padding=self.dilation)
        return Encoded(volumes, torch.arange(batch * patches, device=points.device).view(batch, patches))

    def decode(self, encoded: Encoded, *, output_xyz_pts: Tensor, **_: Any) -> Tensor:
        """The volumes at query points [B, P, N, 3] (or [B, 1, N, 3])."""
        batch, patches = encoded.rows.shape
        voxels = self.grid.flat(self.grid.indices(output_xyz_pts)).expand(-1, patches, -1)
        return encoded.volumes.reshape(batch, patches, -1).gather(2, voxels)
