"""Pseudo ground truth: pixels that the refined masks are sure of (upstream of the mask loss).

Masks of classes that an image is not labelled with count as zero and get no pixel, so only the channels of the
background and of the labels are refined, upsampled and compared.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
NO_CLASS = -1  # padding of the lists of classes


def label_classes(labels: Tensor) -> Tensor:
    """Class ids that may occur in each image: labels [B, C] of 0 and 1 -> int64 [B, 1 + L].

    Background (0) first, then the labelled classes (position + 1) in ascending order, then -1; L is the largest
    number of labels of an image in the batch.
    """
    positive = labels > 0
    most = int(positive.sum(dim=1).max()) if len(labels) else 0
    order = (~positive).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    classes = (order + 1).masked_fill(~positive.gather(1, order), NO_CLASS)
    return F.pad(classes, (1, 0), value=0)


def take_classes(masks: Tensor, classes: Tensor) -> Tensor:
    """Channels of the given classes: [B, 1 + C, h, w], [B, 1 + L] -> [B, 1 + L, h, w]; zeros where padded."""
    rows = torch.arange(len(masks), device=masks.device)[:, None]
    taken = masks[rows, classes.clamp(min=0)]
    return taken * (classes != NO_CLASS)[:, :, None, None]


def pseudo_ground_truth(
    refined: Tensor,
    classes: Tensor,
    size: tuple[int, int] | None = None,
    *,
    foreground: float = 0.6,
    background: float = 0.7,
    floor: float = 0.2,
) -> Tensor:
    """The class of each sure pixel: refined [B, 1 + L, h, w], classes [B, 1 + L] -> int64 [B, H, W], else 255.

    A pixel belongs to a class where the class's mask is above max(share * its maximum over the image, floor);
    pixels of several classes belong to none.

    Args:
        refined: masks of `classes`, from `take_classes` and PAMR.
        classes: from `label_classes`.
        size: H, W to which the masks are upsampled first (bilinear, corners aligned).
        foreground: share of a concept's maximum.
        background: share of the background's maximum.
        floor: least threshold.
    """
    masks = refined.detach()
    if size is not None and tuple(size) != tuple(masks.shape[2:]):
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=True)
    share = masks.new_full((masks.shape[1],), foreground)
    share[0] = background
    thresholds = (masks.amax(dim=(2, 3)) * share).clamp(min=floor)
    thresholds = thresholds.masked_fill(classes == NO_CLASS, torch.inf)
    above = masks > thresholds[:, :, None, None]
    # one class at a pixel: the sum of 1 + id over the classes above is 1 + its id
    ids = (classes + 1).to(torch.uint8)[:, :, None, None]
    count = above.sum(dim=1, dtype=torch.uint8)
    found = (above * ids).sum(dim=1, dtype=torch.int64) - 1
    return found.masked_fill(count != 1, IGNORED)


def one_hot(target: Tensor, channels: int) -> Tensor:
    """The released form of the pseudo ground truth: int64 [B, H, W] -> [B, channels, H, W] of 0 and 1."""
    return (target[:, None] == torch.arange(channels, device=target.device)[:, None, None]).float()
