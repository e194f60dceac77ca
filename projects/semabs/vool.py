"""Networks that find a hidden target by its relation to a reference (visually obscured object localisation)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from projects.semabs.completion import Encoded, SemAbs3D, of_patches
from projects.semabs.decoder import ImplicitVolumetricDecoder
from projects.semabs.pointing import build_pointing
from projects.semabs.semantic_aware import NameFeatures, TextEncoder, point_out
from shared.errors import InputError

RELATIONS = ("in", "behind", "in front of", "on the left of", "on the right of", "on")
PAD = "[pad]"
Names = Sequence[Sequence[str]]  # of B scenes with P descriptions each


class VOOLNetwork(nn.Module):
    """What the networks share: a completion network without positions, and one sampler over its volumes.

    Args:
        sampled_channels: what the spatial sampler reads of a point.
        out_channels: what it gives.
        completion_out: outputs of the completion network's own decoder.
        bounds, voxel_shape, decoder, **completion: of `SemAbs3D`.
    """

    steps: Tensor
    encode: Callable[..., Encoded]
    decode: Callable[..., Tensor]

    def __init__(
        self,
        *,
        volumes_per_description: int,
        out_channels: int,
        completion_out: int = 1,
        decoder: dict[str, Any] | None = None,
        **completion: Any,
    ) -> None:
        super().__init__()
        decoder = dict(decoder or {})
        self.register_buffer("steps", torch.zeros(1))
        self.completion_net = SemAbs3D(
            out_channels=completion_out, decoder={**decoder, "concat_xyz": False}, **completion
        )
        channels = self.completion_net.visual_sampler.channels
        self.spatial_sampler = ImplicitVolumetricDecoder(
            channels * volumes_per_description,
            out_channels,
            bounds=completion["bounds"],
            voxel_shape=completion["voxel_shape"],
            **decoder,
        )

    def forward(self, *, output_xyz_pts: Tensor, **tensors: Any) -> Tensor:
        """An item's tensors and names (`encode`, `decode`; others are ignored) -> logits [B, P, N]."""
        return self.decode(self.encode(**tensors), output_xyz_pts=output_xyz_pts, **tensors)

    def encode_maps(self, xyz: Tensor, maps: Tensor, tsdf_vol: Tensor | None) -> Encoded:
        """Run the U-Net once for each different map of a scene: names repeat among descriptions.

        xyz [B, N, 3]; maps [B, P, K, N, F] -> volumes, and rows [B, P, K].
        """
        scenes, places, rows = different_maps(maps)
        features = maps.flatten(1, 2)[scenes, places]
        return Encoded(self.completion_net.encode_rows(xyz, features, scenes, tsdf_vol), rows)


def different_maps(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of maps [B, P, K, N, F]: scene and place (p K + k) of each that differs from those before it in its scene,
    and which of these each map is, [B, P, K].
    """
    batch, patches, kinds = maps.shape[:3]
    scenes: list[int] = []
    places: list[int] = []
    rows: list[int] = []
    for scene, found in enumerate(maps.flatten(1, 2)):
        start = len(scenes)
        for place, one in enumerate(found):
            same = (row for row in range(start, len(scenes)) if torch.equal(one, found[places[row]]))
            row = next(same, None)
            if row is None:
                row = len(scenes)
                scenes.append(scene)
                places.append(place)
            rows.append(row)
    device = maps.device
    return (
        torch.tensor(scenes, device=device),
        torch.tensor(places, device=device),
        torch.tensor(rows, device=device).view(batch, patches, kinds),
    )


class RelationEmbeddings(nn.ParameterDict):
    """A learnt vector for each relation, drawn from N(0, 1)."""

    def __init__(self, dim: int) -> None:
        super().__init__({name: nn.Parameter(torch.randn(dim)) for name in sorted((*RELATIONS, PAD))})

    def rows(self, names: Names) -> Tensor:
        """[B P, D]; InputError for a relation that is not known."""
        flat = [str(name) for scene in names for name in scene]
        for name in flat:
            if name not in self:
                known = ", ".join(RELATIONS)
                raise InputError(f"spatial_relation_name: expected one of {known}, found {name!r}")
        return torch.stack([self[name] for name in flat])


class SemAbsVOOL(VOOLNetwork):
    """Volumes of target and reference together are sampled; a relation points to the target's place.

    logit = cos(sampled, relation embedding) / 0.07.
    """

    def __init__(self, *, pointing_dim: int = 64, pointing_method: str = "cosine_sim", **shared: Any) -> None:
        super().__init__(volumes_per_description=2, out_channels=pointing_dim, **shared)
        self.relation_embeddings = RelationEmbeddings(pointing_dim)
        self.pointing = build_pointing(pointing_method, pointing_dim)

    def encode(
        self,
        *,
        input_xyz_pts: Tensor,
        input_target_saliency_pts: Tensor,
        input_reference_saliency_pts: Tensor,
        tsdf_vol: Tensor | None = None,
        **_: Any,
    ) -> Encoded:
        """Volumes of the objects named; points [B, N, 3], their relevancies [B, P, N, 1]."""
        maps = torch.stack([input_target_saliency_pts, input_reference_saliency_pts], dim=2)
        return self.encode_maps(input_xyz_pts, maps, tsdf_vol)

    def decode(
        self, encoded: Encoded, *, output_xyz_pts: Tensor, spatial_relation_name: Names, **_: Any
    ) -> Tensor:
        """Logits [B, P, N] of query points [B, P, N, 3] for the relations' names."""
        points = output_xyz_pts.flatten(0, 1)
        sampler = self.spatial_sampler
        position = sampler.positions(points)
        parts = [
            sampler.sample(encoded.volumes, position, rows.flatten()) for rows in encoded.rows.unbind(-1)
        ]
        if sampler.concat_xyz:
            parts.append(position.to(parts[0].dtype))
        keys = self.relation_embeddings.rows(spatial_relation_name)
        logits = point_out(sampler.mlp, self.pointing, torch.cat(parts, dim=-1), keys)
        return logits.view(*output_xyz_pts.shape[:-1])


class SemanticAwareVOOL(VOOLNetwork):
    """The volume of the coloured points; names and relation together point into it.

    Args:
        text_dim: length of the text features of a name.
        text_encoder: names -> [n, text_dim], raw features (un-prompted, un-normalised); asked once for a name.
    """

    def __init__(
        self,
        *,
        pointing_dim: int = 64,
        pointing_method: str = "cosine_sim",
        text_dim: int = 512,
        text_encoder: TextEncoder | None = None,
        **shared: Any,
    ) -> None:
        # the released network has a spatial sampler too, which nothing uses
        super().__init__(
            volumes_per_description=2, out_channels=pointing_dim, completion_out=pointing_dim, **shared
        )
        self.relation_embeddings = RelationEmbeddings(pointing_dim)
        self.mlp = nn.Linear(2 * text_dim + pointing_dim, pointing_dim)
        self.pointing = build_pointing(pointing_method, pointing_dim)
        self.names = NameFeatures(text_encoder)

    def encode(
        self, *, input_xyz_pts: Tensor, input_rgb_pts: Tensor, tsdf_vol: Tensor | None = None, **_: Any
    ) -> Encoded:
        """The scene's volume; points [B, N, 3], their colours [B, P or 1, N, 3], the same for all descriptions."""
        return self.encode_maps(input_xyz_pts, input_rgb_pts[:, :1, None], tsdf_vol)

    def decode(
        self,
        encoded: Encoded,
        *,
        output_xyz_pts: Tensor,
        spatial_relation_name: Names,
        target_obj_name: Names = (),
        reference_obj_name: Names = (),
        target_text_features: Tensor | None = None,
        reference_text_features: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Logits [B, P, N] of query points [B, P, N, 3] for the descriptions' names.

        Text features [B, P, D] that are given are taken; else the text encoder is asked for the names.
        """
        relation = self.relation_embeddings.rows(spatial_relation_name)
        texts = [
            self.names([str(name) for scene in names for name in scene], relation)
            if features is None
            else features.flatten(0, 1).to(relation)
            for names, features in (
                (target_obj_name, target_text_features),
                (reference_obj_name, reference_text_features),
            )
        ]
        keys = self.mlp(torch.cat([*texts, relation], dim=-1))
        points, rows = of_patches(output_xyz_pts, encoded.rows[..., 0])
        sampler = self.completion_net.visual_sampler
        logits = point_out(sampler.mlp, self.pointing, sampler.inputs(encoded.volumes, points, rows), keys)
        return logits.view(*output_xyz_pts.shape[:-1])


class ClipSpatialVOOL(VOOLNetwork):
    """The relevancy of the whole sentence, completed as if it were a label."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(volumes_per_description=1, out_channels=1, **shared)

    def encode(
        self,
        *,
        input_xyz_pts: Tensor,
        input_description_saliency_pts: Tensor,
        tsdf_vol: Tensor | None = None,
        **_: Any,
    ) -> Encoded:
        """A volume for each sentence; points [B, N, 3], relevancies [B, P, N, 1]."""
        return self.encode_maps(input_xyz_pts, input_description_saliency_pts[:, :, None], tsdf_vol)

    def decode(self, encoded: Encoded, *, output_xyz_pts: Tensor, **_: Any) -> Tensor:
        """Logits [B, P, N] of query points [B, P, N, 3]."""
        points, rows = of_patches(output_xyz_pts, encoded.rows[..., 0])
        return self.spatial_sampler(encoded.volumes, points, rows).view(*output_xyz_pts.shape[:-1])
