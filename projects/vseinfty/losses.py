"""Triplet loss over all in-batch negatives (paper eq. 7; VSE0 sum and VSE++ hardest form)."""

import torch
from torch import Tensor


def triplet_loss(images: Tensor, captions: Tensor, *, margin: float, hardest: bool) -> Tensor:
    """Hinge loss of a batch of matching pairs, summed over the batch (not averaged: spec quirk 5).

    With S = images captions^T and d = diag S: for caption retrieval max(0, margin + S_ij - d_i), for image
    retrieval max(0, margin + S_ij - d_j), i != j. `hardest` keeps the largest entry of each row and of each
    column, otherwise all entries count (the warm-up form).

    Args:
        images: [B, E], row i matches row i of captions; a batch of one has loss 0.
        captions: [B, E].
        margin: alpha.
        hardest: hardest negatives only.

    Returns:
        Scalar sum.
    """
    scores = images @ captions.t()
    positives = scores.diagonal()
    same = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    negatives = scores.masked_fill(same, -torch.inf)
    if hardest:
        # max and hinge commute, so the hinge is taken on B values instead of B x B
        of_captions = margin + negatives.max(dim=1).values - positives
        of_images = margin + negatives.max(dim=0).values - positives
    else:
        of_captions = margin + negatives - positives[:, None]
        of_images = margin + negatives - positives[None, :]
    return of_captions.clamp(min=0).sum() + of_images.clamp(min=0).sum()
