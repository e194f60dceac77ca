"""Binary cross-entropy of occupancy, with the released weighting and masks.

B: scenes   P: patches (labels or descriptions)   N: query points
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shared import collectives

REDUCTIONS = ("points", "scenes")
_EPSILON = 1e-10


def ignored_points(
    task: str,
    names: Sequence[Sequence[str]],
    out_of_bounds: Tensor,
    out_of_frustum: Tensor,
) -> Tensor:
    """Points that accuracy and metrics leave out, bool [B, P, N].

    Padded patches and points out of the scene's bounds; for `ovssc` also points that the camera cannot see. The
    OVSSC loss leaves the same ones out; the VOOL loss keeps them all, as the released one.

    Args:
        task: ovssc or vool.
        names: [B][P] labels ("" = a padded patch), or relations ("[pad]" = a padded one).
        out_of_bounds, out_of_frustum: [B, P, N], true where outside.
    """
    pad = {"ovssc": "", "vool": "[pad]"}[task]
    padded = torch.tensor([[name == pad for name in row] for row in names], device=out_of_bounds.device)
    ignored = out_of_bounds.bool() | padded[:, :, None]
    return ignored | out_of_frustum.bool() if task == "ovssc" else ignored


def class_weights(labels: Tensor) -> Tensor:
    """1 / the share of a point's class in its patch: both classes of a patch weigh the same. [..., N] -> [..., N].

    Not yet scaled: `occupancy_loss` scales them so that they add up to the number of points.
    """
    positives = labels.mean(dim=-1, keepdim=True, dtype=torch.float32)
    return torch.where(labels > 0, 1 / (positives + _EPSILON), 1 / (1 - positives + _EPSILON))


def occupancy_loss(
    logits: Tensor,
    labels: Tensor,
    ignored: Tensor | None = None,
    *,
    balance_positive_negative: bool = False,
    mean_over: str = "points",
) -> Tensor:
    """Mean binary cross-entropy over the global batch, the same on every rank.

    Each rank differentiates its own scenes only: `collectives.all_reduce_gradients` completes the gradient. As
    released, the weights are scaled over all points, ignored ones included, and the mean divides by the number of
    points that are left, not by their weights.

    Args:
        logits, labels: [B, P, N]; labels 1 inside, 0 outside. B may differ between ranks.
        ignored: bool [B, P, N], left out; None = nothing is.
        balance_positive_negative: weigh with `class_weights`.
        mean_over: points = one mean over all points (one process of the released code), scenes = the mean over
            scenes of each one's mean (the released recipe, 8 processes of one scene each). A scene in which
            everything is ignored adds nothing.
    """
    sums = collectives.all_gather_with_grad(
        scene_sums(logits, labels, ignored, balance_positive_negative=balance_positive_negative)
    )
    if mean_over == "points":
        sums = sums.sum(0, keepdim=True)
    loss, kept, weight, points = sums.unbind(-1)
    return (loss / kept.clamp(min=1) * (points / weight)).mean()


def scene_sums(
    logits: Tensor,
    labels: Tensor,
    ignored: Tensor | None = None,
    *,
    balance_positive_negative: bool = False,
) -> Tensor:
    """[B, 4]: of each scene the weighted loss of the kept points, their number, all points' weight and number."""
    logits, labels = logits.float(), labels.float()
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weights = class_weights(labels) if balance_positive_negative else torch.ones_like(losses)
    kept = torch.ones_like(losses) if ignored is None else (~ignored).float()
    sums = [(weights * kept * losses).sum((1, 2)), kept.sum((1, 2)), weights.sum((1, 2))]
    return torch.stack([*sums, torch.full_like(sums[0], losses[0].numel())], dim=-1)


def accuracy(logits: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
    """Share of the kept points of the global batch whose logit is on the right side of 0; NaN when none is kept."""
    kept = ~ignored
    right = (((logits > 0) == (labels > 0)) & kept).sum()
    counts = torch.stack([right, kept.sum()]).double()
    counts = collectives.all_reduce_sum_with_grad(counts)
    return counts[0] / counts[1]
