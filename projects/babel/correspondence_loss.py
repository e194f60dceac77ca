"""3D-consistency losses: pixels that see the same point of the reconstruction get equal features.

All matches and negatives of a batch are sampled in one go: nothing of the size of a feature map is copied.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.bilinear_rows import sample_rows
from projects.babel.matches import Draws, Matches, check_kind
from projects.babel.precision import at_least_float32

NORM_EPS = 1e-6
MIN_POINTS = 2  # a pair with one point is left out, as released


def correspondence_loss(
    features: Tensor,
    matches: Matches,
    draws: Draws,
    *,
    batch_size: int,
    kind: str = "contrastive_easy",
    tau: float = 0.07,
    normalize: bool = True,
    margin: float = 3.0,
    second_images: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over pairs of the mean over their K points of a loss, divided by `batch_size`.

    contrastive_easy (the paper's L_NCE): -log(e^(q.p/tau) / (e^(q.p/tau) + sum_n e^(q.n/tau))) with q, p the
    features of a match in the first and the second image and N negatives n at random places of random second
    images. contrastive: negatives of the same second image, at some distance of the match. triplet:
    relu(margin + |q - p| - |q - n|). mse: squared difference of q and p, mean over channels.

    Args:
        features: [2P, D, h, w] of one layer, images of pair i at i and i + P.
        matches: of the P pairs. Pairs with one point or none have no loss but stay in `batch_size`.
        draws: for these pairs and points.
        batch_size: pairs of a step by configuration, of all processes.
        kind: of `matches.KINDS`.
        tau: temperature of the contrastive losses.
        normalize: unit features, f / (|f| + 1e-6).
        margin: of the triplet loss.
        second_images: [P of all processes, D, h, w], the second images of the global batch in the order that
            `draws.images` counts them; by default those of `features`.

    Returns:
        The loss, in the graph of `features` and `second_images` even where there is no match, and detached
        numbers: sum (over pairs), points (all of them), pairs (with a loss), accuracy (contrastive: share of
        points whose match is nearer than every negative).
    """
    check_kind(kind)
    pairs = len(features) // 2
    enough = matches.counts >= MIN_POINTS
    kept = enough[matches.pair]
    pair, rowcol, uniform = matches.pair[kept], matches.rowcol[kept], draws.uniform[kept]
    image, places = negative_places(kind, pair, rowcol[:, 2:], draws.images, uniform)
    count = places.shape[1]
    first, second = (pair, rowcol[:, :2]), (pair + pairs, rowcol[:, 2:])
    if second_images is None or kind != "contrastive_easy":
        rows = _sample(features, first, second, (image.flatten() + pairs, places.flatten(0, 1)))
        queries, positives, negatives = rows.split([len(pair), len(pair), count * len(pair)])
    else:
        queries, positives = _sample(features, first, second).chunk(2)
        negatives = _sample(second_images, (image.flatten(), places.flatten(0, 1)))
    with torch.autocast(features.device.type, enabled=False):
        negatives = negatives.view(len(pair), count, features.shape[1])
        losses, correct = _point_losses(
            kind,
            at_least_float32(queries),
            at_least_float32(positives),
            at_least_float32(negatives),
            tau,
            normalize,
            margin,
        )
        total = (losses / matches.counts[pair]).sum()
        if second_images is not None and kind != "contrastive_easy":
            total = total + 0 * second_images.sum()
    with torch.no_grad():
        stats = {
            "sum": total.detach(),
            "points": matches.counts.sum(),
            "pairs": enough.sum(),
            "accuracy": correct.float().mean() if len(correct) else total.new_zeros(()),
        }
    return total / batch_size, stats


def negative_places(
    kind: str, pair: Tensor, positives: Tensor, images: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Second image and place of each negative: int64 [T, M], [T, M, 2] (row, column).

    Args:
        kind: of the loss.
        pair: int64 [T].
        positives: [T, 2], the matches' places in the second images.
        images: int64 [P, N], see Draws.
        uniform: [T, ...], see Draws.
    """
    if kind == "contrastive_easy":
        return images[pair], uniform
    if kind == "contrastive":
        places = torch.cat([_shifted(positives[:, axis], uniform[:, axis], axis) for axis in (0, 1)], dim=1)
    else:
        places = positives[:, None] + uniform
    return pair[:, None].expand(places.shape[:2]), places


def _shifted(positive: Tensor, uniform: Tensor, axis: int) -> Tensor:
    """One coordinate moved by 0.25 to 0.75 up or down, the other anywhere: [T], [T, M, 3] -> [T, M, 2].

    Below 0 becomes 0; above 1 stays outside of the image, whose features are zero there: so the release (it
    computes the remainder and drops it).
    """
    sign, size, other = uniform.unbind(dim=2)
    shift = torch.where(sign < 0.5, -1.0, 1.0) * (0.25 + 0.5 * size)
    moved = (positive[:, None] + shift).clamp(min=0)
    return torch.stack([moved, other] if axis == 0 else [other, moved], dim=2)


def _sample(maps: Tensor, *places: tuple[Tensor, Tensor]) -> Tensor:
    """Rows of all (image, rowcol), one after the other."""
    return sample_rows(
        maps, torch.cat([image for image, _ in places]), torch.cat([rowcol for _, rowcol in places])
    )


def _point_losses(
    kind: str,
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    tau: float,
    normalize: bool,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """Loss of each point [T], and whether its match is nearest [T] (contrastive kinds, else [0]).

    queries, positives: [T, D]; negatives: [T, M, D].
    """
    if normalize:
        queries, positives = _unit(queries), _unit(positives)
    if kind.startswith("contrastive"):
        against = torch.einsum("tnd,td->tn", negatives, queries)
        if normalize:  # of the products, not of the negatives: the same for less memory
            against = against / (negatives.norm(dim=2) + NORM_EPS)
        logits = torch.cat([(queries * positives).sum(dim=1, keepdim=True), against], dim=1) / tau
        losses = -torch.log_softmax(logits, dim=1)[:, 0]
        return losses, logits.argmax(dim=1) == 0
    nothing = queries.new_zeros(0)
    if kind == "mse":
        return (queries - positives).square().mean(dim=1), nothing
    negatives = _unit(negatives[:, 0]) if normalize else negatives[:, 0]
    gap = margin + _distance(queries, positives) - _distance(queries, negatives)
    return F.relu(gap), nothing


def _unit(rows: Tensor) -> Tensor:
    return rows / (rows.norm(dim=-1, keepdim=True) + NORM_EPS)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return F.pairwise_distance(a, b)
