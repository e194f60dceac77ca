"""From a volume of features and a point to a vector: trilinear interpolation, then a small network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from projects.semabs.interpolation import interpolate
from projects.semabs.voxel_grid import VoxelGrid


class ImplicitVolumetricDecoder(nn.Module):
    """Features of a volume at query points, and a two-layer network on them.

    Args:
        channels: of the volume, C; also the width of the hidden layer.
        out_channels: of the result.
        bounds: lowest and highest corner of the volume, metres.
        voxel_shape: voxels along x, y, z.
        concat_xyz: the network also sees where in the volume the point is, in [-1, 1].
        mirrored: read the volume at (z, y, x) for a point (x, y, z), as the released code does: a network trained
            so has learnt the mirrored volume, and released weights give noise without it.
        divide_by_shape: the position in voxels is divided by the number of voxels G, as released, not by G - 1,
            the place of the last voxel: the volume is read up to one voxel off.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        bounds: Sequence[Sequence[float]],
        voxel_shape: Sequence[int],
        concat_xyz: bool = True,
        mirrored: bool = True,
        divide_by_shape: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.concat_xyz, self.mirrored, self.divide_by_shape = concat_xyz, mirrored, divide_by_shape
        self.grid = VoxelGrid(bounds, voxel_shape)
        self.mlp = nn.Sequential(
            nn.Linear(channels + 3 * concat_xyz, channels), nn.LeakyReLU(), nn.Linear(channels, out_channels)
        )

    def forward(self, volumes: Tensor, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Volumes [V, C, X, Y, Z], points [R or 1, N, 3] in scene coordinates -> [R, N, out].

        rows: the volume of each row of points, [R]; default: the first, the second, ...
        """
        found: Tensor = self.mlp(self.inputs(volumes, points, rows))
        return found

    def hidden(self, inputs: Tensor) -> Tensor:
        """What the last layer gets, [..., C], from `inputs`."""
        found: Tensor = self.mlp[1](self.mlp[0](inputs))
        return found

    def inputs(self, volumes: Tensor, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the network gets: the interpolated features, with `concat_xyz` also the position [R, N, C (+ 3)]."""
        position = self.positions(points)
        features = self.sample(volumes, position, rows)
        if not self.concat_xyz:
            return features
        return torch.cat([features, position.to(features.dtype).expand(len(features), -1, -1)], dim=-1)

    def positions(self, points: Tensor) -> Tensor:
        """Where in the volume points [..., 3] are, in [-1, 1]; outside it, the nearest place in it."""
        index = self.grid.positions(points.float())
        count = torch.tensor(self.grid.shape, dtype=index.dtype, device=index.device)
        found: Tensor = index / (count if self.divide_by_shape else count - 1) * 2 - 1
        return found

    def sample(self, volumes: Tensor, position: Tensor, rows: Tensor | None = None) -> Tensor:
        """Trilinear interpolation of volumes [V, C, X, Y, Z] at positions [R or 1, N, 3] -> [R, N, C]."""
        if rows is None:
            rows = torch.arange(len(volumes), device=volumes.device)
        return interpolate(volumes, rows, position.flip(-1) if self.mirrored else position)
