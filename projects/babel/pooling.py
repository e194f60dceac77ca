"""Class scores of an image from its pixels' scores: normalised global weighted pooling and the focal size penalty."""

import torch
from torch import Tensor

from projects.babel.precision import at_least_float32


def focal_penalty(mean_mask: Tensor, *, power: float = 3.0, floor: float = 0.01) -> Tensor:
    """(1 - m)^power · log(floor + m), element by element: pushes masks of vanishing area up."""
    return (1 - mean_mask) ** power * torch.log(floor + mean_mask)


def pooled_scores(logits: Tensor, masks: Tensor, *, power: float = 3.0, floor: float = 0.01) -> Tensor:
    """Scores of the concepts [B, C]: Σ x m / (1 + Σ m) over pixels, plus the focal penalty of the mean mask.

    logits, masks: [B, 1 + C, h, w] with the background first, which has no score.
    """
    scores = at_least_float32(logits[:, 1:].flatten(2))
    shares = at_least_float32(masks[:, 1:].flatten(2))
    weighted = (scores * shares).sum(2) / (1 + shares.sum(2))
    return weighted + focal_penalty(shares.mean(2), power=power, floor=floor)


def foreground_share(masks: Tensor, labels: Tensor) -> Tensor:
    """Σ_c label_c · mean m_c / Σ labels, [B]: for logs. masks [B, 1 + C, h, w], labels [B, C]."""
    shares = at_least_float32(masks[:, 1:].flatten(2)).mean(2)
    return (shares * labels).sum(1) / labels.sum(1)
