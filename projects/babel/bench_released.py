"""The released way of the losses, restated plainly for the benches: whole maps copied, pair by pair, all channels.

It also gets its memory as torch does by itself: the huge pages that `shared/__init__.py` asks for are ours
(`plain_pages`).
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.matches import Draws, Matches
from projects.babel.pamr import NEIGHBOURS

_PR_SET_THP_DISABLE = 41  # of Linux's prctl


@contextmanager
def plain_pages() -> Iterator[None]:
    """Inside, new arrays come in pages of the usual size, whatever torch asks for (Linux; else no effect)."""
    _forbid_huge_pages(True)
    try:
        yield
    finally:
        _forbid_huge_pages(False)


def _forbid_huge_pages(forbidden: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, int(forbidden), 0, 0, 0)


def correspondence(features: Tensor, matches: Matches, draws: Draws, tau: float = 0.07) -> Tensor:
    """Sum of the easy contrastive loss over the pairs, features [2P, D, h, w].

    Each pair copies the whole maps of its negatives, and reads all features for two numbers of the log.
    """
    first, second = features.chunk(2)
    total = features.new_zeros(())
    begin = 0
    for pair, count in enumerate(matches.counts.tolist()):
        if count < 2:
            continue
        points = slice(begin, begin + count)
        begin += count
        coordinates, negatives = matches.rowcol[points], draws.uniform[points]
        maps = torch.cat([first[pair][None], second[pair][None], second[draws.images[pair]]])
        places = torch.cat([coordinates[None, :, :2], coordinates[None, :, 2:], negatives.transpose(0, 1)])
        grid = places.flip(2)[:, :, None] * 2 - 1
        rows = F.grid_sample(maps, grid, align_corners=True)[..., 0].transpose(1, 2)  # [2 + N, K, D]
        rows = rows / (rows.norm(dim=2, keepdim=True) + 1e-6)
        products = (rows[:1] * rows[1:]).sum(dim=2).t() / tau
        total = total + F.cross_entropy(products, torch.zeros(count, dtype=torch.int64))
        F.mse_loss(first.detach(), second.detach()).item()
        features.detach().norm().item()
    return total


def cleaned(masks: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """All masks at the image's size, concepts that are not labelled set to 0."""
    upsampled = F.interpolate(masks, size, mode="bilinear", align_corners=True)
    return torch.cat([upsampled[:, :1], upsampled[:, 1:] * labels[:, :, None, None]], dim=1)


def pseudo_ground_truth(masks: Tensor) -> Tensor:
    """[B, 1 + C, H, W] of 0 and 1."""
    most = masks.flatten(2).max(dim=2).values
    most[:, :1] *= 0.7
    most[:, 1:] *= 0.6
    found = (masks > most.clamp(min=0.2)[:, :, None, None]).type_as(masks)
    several = (found.sum(dim=1, keepdim=True) > 1).type_as(masks)
    return (1 - several) * found


def mask_loss(logits: Tensor, pseudo: Tensor, labels: Tensor) -> Tensor:
    """Balanced cross entropy of each image, [B]."""
    logits = F.interpolate(logits, pseudo.shape[2:], mode="bilinear", align_corners=True)
    counts = pseudo.flatten(2).sum(dim=2)
    total = counts.sum(dim=1, keepdim=True)
    weights = (pseudo * ((total - counts) / (1 + total))[:, :, None, None]).sum(dim=1)
    target = pseudo.argmax(dim=1)
    target[pseudo.sum(dim=1) == 0] = 255
    losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none") * weights
    is_open = (counts > 0).sum(dim=1) == labels.sum(dim=1) + 1
    return losses.flatten(1).mean(dim=1) * is_open


def pamr(
    images: Tensor, masks: Tensor, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24), iterations: int = 10
) -> Tensor:
    """Ten means over 48 neighbours of all masks, made anew each time: [B, 11, 48, h, w]."""
    images = F.interpolate(images, masks.shape[2:], mode="bilinear", align_corners=True)
    centre = images[:, :, None]
    around = _neighbours(images, dilations)
    samples = torch.cat([around, centre.expand(-1, -1, len(dilations), -1, -1)], dim=2)
    deviation = samples.std(dim=2, keepdim=True)
    weights = (-(around - centre).abs() / (1e-8 + 0.1 * deviation)).mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        masks = (_neighbours(masks, dilations) * weights).sum(dim=2)
    return masks


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Tensor:
    """[B, K, h, w] -> [B, K, 8 per dilation, h, w]: convolutions with one-hot kernels, borders repeated."""
    batch, channels, height, width = maps.shape
    kernels = torch.zeros(8, 1, 3, 3, dtype=maps.dtype)
    for index, (row, column) in enumerate(NEIGHBOURS):
        kernels[index, 0, row + 1, column + 1] = 1
    planes = maps.reshape(batch * channels, 1, height, width)
    found = [
        F.conv2d(F.pad(planes, (d, d, d, d), mode="replicate"), kernels, dilation=d).view(
            batch, channels, 8, height, width
        )
        for d in dilations
    ]
    return torch.cat(found, dim=2)
