"""The released way of the network parts, restated plainly: layer after layer, volumes in the usual order.

Memory comes as torch gets it by itself: the huge pages that `shared/__init__.py` asks for are ours
(`plain_pages`).
"""

import contextlib
import ctypes
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.semabs.completion import SemAbs3D
from projects.semabs.unet3d import Decoder, Encoder, NormConv, ResidualBlock, ResidualUNet3D

_PR_SET_THP_DISABLE = 41  # of Linux's prctl


@contextlib.contextmanager
def plain_pages() -> Iterator[None]:
    """Inside, memory comes in pages of the usual size (where the system is Linux)."""
    _forbid_huge_pages(True)
    try:
        yield
    finally:
        _forbid_huge_pages(False)


def _forbid_huge_pages(forbidden: bool) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, int(forbidden), 0, 0, 0)


def unet(net: ResidualUNet3D, x: Tensor) -> Tensor:
    """Volumes [B, C, X, Y, Z] through the network's own weights."""
    skipped: list[Tensor] = []
    for encoder in net.encoders:
        assert isinstance(encoder, Encoder)
        x = block(encoder.basic_module, x if encoder.pooling is None else F.max_pool3d(x, 2))
        skipped.insert(0, x)
    for decoder, skip in zip(net.decoders, skipped[1:], strict=True):
        assert isinstance(decoder, Decoder)
        up = decoder.upsampling.upsample
        x = up(x, output_size=list(skip.shape[2:]))
        x = block(decoder.basic_module, skip + x)
    return F.conv3d(x, net.final_conv.weight, net.final_conv.bias)


def block(module: ResidualBlock, x: Tensor) -> Tensor:
    """conv1, conv2, conv3, each group norm - convolution; ReLU after the first two and after the sum."""
    residual = F.relu(single(module.conv1, x))
    x = F.relu(single(module.conv2, residual))
    return F.relu(single(module.conv3, x) + residual)


def single(module: NormConv, x: Tensor) -> Tensor:
    """Group norm, then convolution."""
    norm = module.groupnorm
    x = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.conv3d(x, module.conv.weight, padding=1)


def completion(net: SemAbs3D, xyz: Tensor, features: Tensor, queries: Tensor) -> Tensor:
    """Logits [B, P, N] of SemAbs3D: points repeated for each patch, everything at once."""
    batch, patches = features.shape[:2]
    points = xyz.unsqueeze(1).repeat(1, patches, 1, 1).flatten(0, 1)
    assert net.pts_feat_extractor is not None
    described = net.pts_feat_extractor(torch.cat([points, features.flatten(0, 1)], dim=-1))
    volume = unet(net.vol_feature_extractor, net.grid.scatter(points, described).contiguous())
    return decoded(net, volume, queries.flatten(0, 1)).view(batch, patches, -1)


def decoded(net: SemAbs3D, volume: Tensor, points: Tensor) -> Tensor:
    """Volumes [R, C, X, Y, Z] at query points [R, N, 3] by `grid_sample` -> logits [R, N]."""
    position = net.visual_sampler.positions(points)
    found = F.grid_sample(
        volume, position[:, :, None, None], mode="bilinear", padding_mode="border", align_corners=True
    )
    features = found[..., 0, 0].transpose(1, 2)
    logits: Tensor = net.visual_sampler.mlp(torch.cat([features, position], dim=-1)).squeeze(-1)
    return logits
