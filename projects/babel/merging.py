"""From the masks of a picture's views to one mask, and from their class scores to the labels that may occur.

C concepts, K = 1 + C classes (0 = background), n views, H, W the picture.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.babel.views import Views

BACKGROUND_POWER = 4.0  # of the released evaluation
LABEL_CHOICES = ("best", "all", "ground_truth")


def best_labels(scores: Tensor) -> Tensor:
    """Only the concept with the highest score over all views, bool [C] (all that share it); scores: [n, C]."""
    best = torch.sigmoid(scores.float()).max(dim=0).values
    return best == best.max()


def mask_labels(mask: np.ndarray, concepts: int) -> Tensor:
    """Which concepts occur in a ground-truth mask, bool [C]; ignored pixels and background do not count."""
    counts = np.bincount(mask.reshape(-1), minlength=256)
    return torch.from_numpy(counts[1 : concepts + 1] > 0)


def choose_labels(choice: str, scores: Tensor, truth: np.ndarray | None = None) -> Tensor:
    """Concepts that a mask may hold, bool [C].

    choice: "best" = `best_labels` (released), "all", or "ground_truth" = those of the true mask. scores: [n, C].
    """
    if choice == "best":
        return best_labels(scores)
    if choice == "all":
        return torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    if choice == "ground_truth":
        if truth is None:
            raise ValueError("labels of the ground truth need its mask")
        return mask_labels(truth, scores.shape[1]).to(scores.device)
    raise ValueError(f"labels: {choice!r}, expected one of {LABEL_CHOICES}")


def average(masks: Tensor, views: Views) -> Tensor:
    """Mean of the views' masks at the picture's size, [K, H, W].

    masks: [n, K, h, w], softmax masks of `views.images`, of the same h, w.
    """
    return _average_crops(masks, views) if views.padding is not None else _average_whole(masks, views)


def _average_whole(masks: Tensor, views: Views) -> Tensor:
    total = masks.new_zeros((masks.shape[1], *views.size))
    for mask, flipped, box in zip(masks, views.flipped, views.boxes.tolist(), strict=True):
        top, left, height, width = box
        mask = mask[:, top : top + height, left : left + width]
        if flipped:
            mask = mask.flip(-1)
        if (height, width) != views.size:
            mask = F.interpolate(mask[None], size=views.size, mode="bilinear", align_corners=False)[0]
        total += mask
    return total / len(masks)


def _average_crops(masks: Tensor, views: Views) -> Tensor:
    assert views.padding is not None
    high, wide = (int(extent) for extent in (views.boxes[:, :2] + views.boxes[:, 2:]).max(axis=0))
    total, counts = masks.new_zeros((masks.shape[1], high, wide)), masks.new_zeros((high, wide))
    for mask, flipped, box in zip(masks, views.flipped, views.boxes.tolist(), strict=True):
        top, left, height, width = box
        place = (slice(top, top + height), slice(left, left + width))
        total[:, *place] += mask.flip(-1) if flipped else mask
        counts[place] += 1
    (top, left), (height, width) = views.padding, views.size
    place = (slice(top, top + height), slice(left, left + width))
    return total[:, *place] / counts[place]


def restrict(merged: Tensor, labels: Tensor, *, background_power: float = BACKGROUND_POWER) -> Tensor:
    """Keep the concepts of `labels` (bool [C]) and take the background to a power; [K, H, W], no more a sum of 1.

    The power above 1 takes uncertain background away (its masks are soft).
    """
    background = merged[:1] if background_power == 1 else merged[:1] ** background_power
    return torch.cat([background, merged[1:] * labels.to(merged)[:, None, None]])


def label_map(merged: Tensor, size: tuple[int, int] | None = None) -> np.ndarray:
    """The most likely class of each pixel, uint8 [H, W]; of equal ones the lowest.

    size: bring the masks [K, h, w] to this (H, W) first, one class at a time, so that a large photograph costs
    the memory of three channels.
    """
    if size is None or tuple(size) == tuple(merged.shape[1:]):
        return merged.max(dim=0).indices.to(torch.uint8).cpu().numpy()  # of equal ones the first
    best = merged.new_full(size, -torch.inf)
    labels = torch.zeros(size, dtype=torch.uint8, device=merged.device)
    for index, mask in enumerate(merged):
        mask = F.interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        higher = mask > best
        labels[higher] = index
        torch.where(higher, mask, best, out=best)
    return labels.cpu().numpy()
