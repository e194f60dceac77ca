"""Batch-hard triplet loss over both modalities at once (paper section 3.3)."""

import torch
from torch import Tensor

COSINE_EPS = 1e-8


def cosine_distances(a: Tensor, b: Tensor) -> Tensor:
    """1 - a . b / max(|a| |b|, 1e-8) of all pairs of rows: [A, D], [B, D] -> [A, B], in float32."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        norms = a.norm(dim=1)[:, None] * b.norm(dim=1)[None]
        return 1 - a @ b.t() / norms.clamp(min=COSINE_EPS)


def batch_hard_loss(
    images: Tensor,
    recipes: Tensor,
    *,
    margin: float = 0.3,
    hardest: bool = True,
    intra_modal: bool = True,
    symmetric: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over anchors a of max(0, max_p d(a, p) - min_n d(a, n) + margin), d = cosine distance.

    With `intra_modal` anchors are all images and recipes, and so are their negatives; positives are the
    anchor itself and its partner. Otherwise anchors are the images and candidates the recipes.

    Args:
        images: [B, D], row i belongs to row i of recipes. A batch of one has no negatives and loss 0.
        recipes: [B, D].
        margin: alpha.
        hardest: the nearest negative; otherwise the mean distance of all negatives (`ohem` off).
        intra_modal: pairs inside a modality take part.
        symmetric: without `intra_modal`: recipes are anchors as well. Not in the release, whose ablation has
            image anchors only.

    Returns:
        The loss, and the means over anchors of the positives' and of the negatives' distances, detached.
    """
    if len(images) == 1:
        nothing = (images.sum() + recipes.sum()) * 0.0
        return nothing, nothing.detach(), nothing.detach()
    if intra_modal:
        embeddings = torch.cat([images, recipes])
        positives, negatives = _distances_of_all(cosine_distances(embeddings, embeddings), hardest)
    else:
        distances = cosine_distances(images, recipes)
        positives, negatives = distances.diagonal(), _negatives(distances, hardest)
        if symmetric:
            positives = torch.cat([positives, positives])
            negatives = torch.cat([negatives, _negatives(distances.t(), hardest)])
    loss = (positives - negatives + margin).clamp(min=0).mean()
    return loss, positives.detach().mean(), negatives.detach().mean()


def _distances_of_all(distances: Tensor, hardest: bool) -> tuple[Tensor, Tensor]:
    """[2B, 2B], images first -> distance of the farther positive (itself, its partner), of the negatives."""
    count = len(distances)
    itself = torch.arange(count, device=distances.device)
    partner = itself.roll(count // 2)
    own = torch.stack([distances[itself, itself], distances[itself, partner]], dim=1)
    same = itself % (count // 2)
    return own.max(dim=1).values, _negatives(distances, hardest, same[:, None] == same[None])


def _negatives(distances: Tensor, hardest: bool, same: Tensor | None = None) -> Tensor:
    """Row-wise minimum or mean over the entries that are not of the same pair."""
    if same is None:
        same = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    if hardest:
        return distances.masked_fill(same, torch.inf).min(dim=1).values
    return distances.masked_fill(same, 0.0).sum(dim=1) / (~same).sum(dim=1)
