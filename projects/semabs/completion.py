"""SemAbs3D: from points with relevancies to occupancy, one volume for each label (semantic-agnostic)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from projects.semabs.decoder import ImplicitVolumetricDecoder
from projects.semabs.interpolation import at_least_float32
from projects.semabs.unet3d import ResidualUNet3D
from projects.semabs.voxel_grid import VoxelGrid
from shared.errors import InputError

INPUT_CHANNELS = {
    "patch_masks": 1,
    "saliency": 1,
    "rgb": 3,
    "tsdf": 0,
}  # of a point; tsdf is a channel of voxels

ENCODED_AT_ONCE = 1 << 22  # voxels, where no gradients are wanted


@dataclass(frozen=True)
class Encoded:
    """Volumes of a batch.

    Attributes:
        volumes: features [V, C, X, Y, Z], each different input once.
        rows: which of them a patch (label, description) of a scene has, [B, P] or, with several for each, [B, P, K].
    """

    volumes: Tensor
    rows: Tensor


class SemAbs3D(nn.Module):
    """Points with features -> features of voxels (mean of a voxel's points) -> U-Net -> logits of query points.

    Args:
        voxel_shape: voxels along x, y, z.
        bounds: lowest and highest corner of the scene, metres.
        network_inputs: what the points carry (saliency, patch_masks, rgb); with tsdf the volume has it as its
            first channel.
        unet_channels: of the volume that goes into the U-Net.
        unet: `ResidualUNet3D`'s f_maps, groups, levels, checkpoint_levels.
        pts_feat_hidden: width of the point network; None: points carry their features as they are.
        out_channels: of the decoder.
        decoder: `ImplicitVolumetricDecoder`'s concat_xyz, mirrored, divide_by_shape.
        pool: how points in one voxel are joined. The released code asks for max and gets mean.
        channels_last: keep the numbers of a voxel together in memory, which convolutions on CPUs want.
    """

    steps: Tensor

    def __init__(
        self,
        *,
        voxel_shape: Sequence[int],
        bounds: Sequence[Sequence[float]],
        network_inputs: Sequence[str] = ("saliency",),
        unet_channels: int = 16,
        unet: Mapping[str, Any] | None = None,
        pts_feat_hidden: int | None = 128,
        out_channels: int = 1,
        decoder: Mapping[str, Any] | None = None,
        pool: str = "mean",
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.pool, self.channels_last = pool, channels_last
        self.grid = VoxelGrid(bounds, voxel_shape)
        self.use_tsdf = "tsdf" in network_inputs
        self.point_channels = point_channels(network_inputs)
        self.register_buffer("steps", torch.zeros(1))
        volume_channels = unet_channels
        if pts_feat_hidden is None:
            volume_channels = self.point_channels + self.use_tsdf
            self.pts_feat_extractor: nn.Module | None = None
        else:
            self.pts_feat_extractor = nn.Sequential(
                nn.Linear(3 + self.point_channels, pts_feat_hidden),
                nn.LeakyReLU(),
                nn.Linear(pts_feat_hidden, pts_feat_hidden),
                nn.LeakyReLU(),
                nn.Linear(pts_feat_hidden, unet_channels - self.use_tsdf),
            )
        self.vol_feature_extractor = ResidualUNet3D(volume_channels, unet_channels, **(unet or {}))
        self.visual_sampler = ImplicitVolumetricDecoder(
            unet_channels, out_channels, bounds=bounds, voxel_shape=voxel_shape, **(decoder or {})
        )
        if channels_last:
            self.vol_feature_extractor.to(memory_format=torch.channels_last_3d)

    def forward(self, *, output_xyz_pts: Tensor, **tensors: Any) -> Tensor:
        """An item's tensors by name (`encode`, `decode`; others are ignored) -> logits [B, P, N]."""
        return self.decode(self.encode(**tensors), output_xyz_pts=output_xyz_pts, **tensors)

    def encode(
        self, *, input_xyz_pts: Tensor, input_feature_pts: Tensor, tsdf_vol: Tensor | None = None, **_: Any
    ) -> Encoded:
        """Run the U-Net once for each patch.

        Args:
            input_xyz_pts: points of the scenes, [B, N, 3], metres.
            input_feature_pts: what they carry, [B, P, N, F]; P = 1 where all patches share it (rgb).
            tsdf_vol: [B, X, Y, Z], where the network wants it.
        """
        batch, patches = input_feature_pts.shape[:2]
        scenes = torch.arange(batch, device=input_xyz_pts.device).repeat_interleave(patches)
        volumes = self.encode_rows(input_xyz_pts, input_feature_pts.flatten(0, 1), scenes, tsdf_vol)
        rows = torch.arange(batch * patches, device=input_xyz_pts.device).view(batch, patches)
        return Encoded(volumes, rows)

    def encode_rows(
        self, xyz: Tensor, features: Tensor, scenes: Tensor, tsdf_vol: Tensor | None = None
    ) -> Tensor:
        """Volumes [R, C, X, Y, Z] of point features [R, N, F] on the points of scene scenes[r] of xyz [B, N, 3]."""
        at_once = len(features) if torch.is_grad_enabled() else max(1, ENCODED_AT_ONCE // self.grid.voxels)
        volumes = [
            self.vol_feature_extractor(self.voxelize(xyz, part, of_scenes, tsdf_vol))
            for part, of_scenes in zip(features.split(at_once), scenes.split(at_once), strict=True)
        ]
        return volumes[0] if len(volumes) == 1 else torch.cat(volumes)

    def voxelize(
        self, xyz: Tensor, features: Tensor, scenes: Tensor, tsdf_vol: Tensor | None = None
    ) -> Tensor:
        """What goes into the U-Net, [R, C, X, Y, Z]; arguments as of `encode_rows`."""
        if features.shape[-1] != self.point_channels:
            raise InputError(
                f"model.network_inputs: expected {self.point_channels} numbers for each point, "
                f"found {features.shape[-1]}"
            )
        points = xyz[scenes]
        if self.pts_feat_extractor is not None:
            features = self.pts_feat_extractor(torch.cat([points.to(features.dtype), features], dim=-1))
        volume = self.grid.scatter(points, at_least_float32(features), reduce=self.pool)
        if self.use_tsdf:
            if tsdf_vol is None or tsdf_vol.dim() < 4:
                raise InputError("model.network_inputs: tsdf is wanted, but the item has no tsdf_vol")
            volume = torch.cat([tsdf_vol[scenes].unsqueeze(1).to(volume.dtype), volume], dim=1)
        layout = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        return volume.contiguous(memory_format=layout)

    def decode(self, encoded: Encoded, *, output_xyz_pts: Tensor, **_: Any) -> Tensor:
        """Logits [B, P, N] of query points [B, P, N, 3]."""
        points, rows = of_patches(output_xyz_pts, encoded.rows)
        logits = self.visual_sampler(encoded.volumes, points, rows).squeeze(-1)
        return logits.view(*output_xyz_pts.shape[:-1])


def of_patches(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Points [B, P, N, 3] as [B P, N, 3], and the volume of each patch [B P]; rows [B, P] or [B, 1] (shared)."""
    return points.flatten(0, 1), rows.expand(points.shape[:2]).flatten()


def point_channels(network_inputs: Sequence[str]) -> int:
    """How many numbers a point carries; InputError for unknown names or nothing but tsdf."""
    for name in network_inputs:
        if name not in INPUT_CHANNELS:
            names = ", ".join(INPUT_CHANNELS)
            raise InputError(f"model.network_inputs: expected some of {names}, found {name!r}")
    count = sum(INPUT_CHANNELS[name] for name in set(network_inputs))
    if not count:
        raise InputError("model.network_inputs: expected one that points carry, found only tsdf")
    return count
