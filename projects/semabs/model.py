"""The networks by task and approach."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from projects.semabs.back_projection import BackProjection
from projects.semabs.completion import SemAbs3D
from projects.semabs.semantic_aware import SemanticAwareOVSSC, TextEncoder
from projects.semabs.vool import ClipSpatialVOOL, SemAbsVOOL, SemanticAwareVOOL
from shared.errors import InputError

TASKS = ("ovssc", "vool")
APPROACHES = ("semantic_abstraction", "semantic_aware", "clip_spatial", "back_projection")
BOUNDS = ((-1.0, -1.0, -0.1), (1.0, 1.0, 1.9))


def build_network(
    *,
    task: str = "ovssc",
    approach: str = "semantic_abstraction",
    voxel_shape: Sequence[int] = (128, 128, 128),
    bounds: Sequence[Sequence[float]] = BOUNDS,
    unet: Mapping[str, Any] | None = None,
    network_inputs: Sequence[str] = ("saliency",),
    pointing_method: str = "cosine_sim",
    pointing_dim: int = 64,
    text_dim: int = 512,
    use_pts_feat_extractor: bool = True,
    pts_feat_hidden: int = 128,
    decoder_concat_xyz: bool = True,
    mirrored_decoder: bool = True,
    divide_by_shape: bool = True,
    pool: str = "mean",
    channels_last: bool = True,
    checkpointing: int = 0,
    dilation: int = 1,
    text_encoder: TextEncoder | None = None,
) -> nn.Module:
    """A network in training mode, with PyTorch's initial weights; its names are those of released checkpoints.

    `network(**item)` takes the tensors and names of a batch of items and gives logits [B, P, N];
    `network.encode(**item)` runs the U-Net and `network.decode(encoded, **item)` answers query points.

    Args:
        task: ovssc (completion) or vool (localisation).
        approach: semantic_abstraction; semantic_aware (colours instead of relevancies: its network_inputs are
            always rgb); clip_spatial (vool only); back_projection (no weights, the surface that is seen).
        voxel_shape: voxels along x, y, z; multiples of 2 ** (levels - 1).
        bounds: lowest and highest corner of the scene, metres.
        unet: f_maps (16), channels (16: of the volumes in and out), groups (8), levels (6).
        network_inputs: what points carry: saliency, patch_masks, rgb; tsdf: a channel of the volume.
        pointing_method: cosine_sim, dot_product, additive.
        pointing_dim: of relation embeddings and of what they point to.
        text_dim: length of the text features (512: CLIP ViT-B/32).
        use_pts_feat_extractor, pts_feat_hidden: a network on each point before it enters the volume, its width.
        decoder_concat_xyz, mirrored_decoder, divide_by_shape: see `decoder.ImplicitVolumetricDecoder`; the last
            two are what released weights need, a network trained anew does without them.
        pool: mean (as the released code does, though it asks for max), max or sum.
        channels_last: memory layout of the volumes; the same results up to rounding.
        checkpointing: so many of the U-Net's finest levels are computed again in the backward pass.
        dilation: of back_projection, in voxels.
        text_encoder: names -> raw text features [n, text_dim]; semantic_aware vool asks it for names that come
            without features.

    Raises:
        InputError: a setting out of its range.
    """
    if task not in TASKS or approach not in APPROACHES:
        name, known, found = (
            ("task", TASKS, task) if task not in TASKS else ("approach", APPROACHES, approach)
        )
        raise InputError(f"model.{name}: expected one of {', '.join(known)}, found {found!r}")
    if approach == "back_projection":
        return BackProjection(task=task, voxel_shape=voxel_shape, bounds=bounds, dilation=dilation)
    sizes = unet_sizes(voxel_shape, **(unet or {}))
    channels = sizes.pop("channels")
    shared: dict[str, Any] = {
        "voxel_shape": tuple(voxel_shape),
        "bounds": bounds,
        "network_inputs": ("rgb",) if approach == "semantic_aware" else tuple(network_inputs),
        "unet_channels": channels,
        "unet": {**sizes, "checkpoint_levels": checkpointing},
        "pts_feat_hidden": pts_feat_hidden if use_pts_feat_extractor else None,
        "decoder": {
            "concat_xyz": decoder_concat_xyz,
            "mirrored": mirrored_decoder,
            "divide_by_shape": divide_by_shape,
        },
        "pool": pool,
        "channels_last": channels_last,
    }
    texts = {"text_dim": text_dim, "text_encoder": text_encoder}
    return _network(task, approach, shared, pointing_method, pointing_dim, texts)


def _network(
    task: str,
    approach: str,
    shared: dict[str, Any],
    pointing_method: str,
    pointing_dim: int,
    texts: dict[str, Any],
) -> nn.Module:
    """The class of a task and an approach, with the settings that it has."""
    if task == "ovssc":
        if approach == "semantic_abstraction":
            return SemAbs3D(**shared)
        if approach == "semantic_aware":
            return SemanticAwareOVSSC(text_dim=texts["text_dim"], pointing_method=pointing_method, **shared)
        raise InputError("model.approach: clip_spatial is for the task vool, found ovssc")
    if approach == "clip_spatial":
        return ClipSpatialVOOL(**shared)
    pointing: dict[str, Any] = {"pointing_method": pointing_method, "pointing_dim": pointing_dim}
    if approach == "semantic_aware":
        return SemanticAwareVOOL(**texts, **pointing, **shared)
    return SemAbsVOOL(**pointing, **shared)


def unet_sizes(
    voxel_shape: Sequence[int], *, f_maps: int = 16, channels: int = 16, groups: int = 8, levels: int = 6
) -> dict[str, int]:
    """Sizes of the U-Net; InputError where they do not go together with the grid."""
    if (
        len(voxel_shape) != 3
        or levels < 1
        or any(side < 1 or side % 2 ** (levels - 1) for side in voxel_shape)
    ):
        raise InputError(
            f"model.voxel_shape: expected three multiples of {2 ** max(levels - 1, 0)} for a U-Net of {levels} "
            f"levels, found {list(voxel_shape)}"
        )
    for name, width in (("f_maps", f_maps), ("channels", channels)):
        if width < 1 or (width >= groups > 0 and width % groups) or groups < 1:
            raise InputError(
                f"model.unet.{name}: expected a multiple of groups = {groups} or less than it, found {width}"
            )
    return {"f_maps": f_maps, "channels": channels, "groups": groups, "levels": levels}
