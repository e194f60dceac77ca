"""Classification losses on the image's class scores (`NET.LOSS` of the released configs)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.precision import at_least_float32
from shared.errors import InputError

KINDS = ("CrossEntropy", "SoftMargin", "Hinge", "Separate")

# Images per concept and in all, as the release weighs its classes: two of them are one off the split file.
RELEASED_COUNTS = (1352, 874, 1050, 629, 1063, 932, 1029, 957, 956, 949)
RELEASED_TOTAL = 8675


def classification_loss(
    scores: Tensor,
    labels: Tensor,
    kind: str = "CrossEntropy",
    *,
    class_counts: Sequence[int] | None = None,
    total: int | None = None,
) -> Tensor:
    """Mean over the images of one of the released losses.

    Args:
        scores: [B, C], before any sigmoid or softmax.
        labels: [B, C] of 0 and 1: one-hot first labels, or all labels of an image (`--multi_label`).
        kind: CrossEntropy: softmax, the target is an image's first positive class. SoftMargin: a sigmoid per
            class. Hinge: max(0, 1 - (s_positive - s_other)) over all such pairs of classes. Separate: a
            sigmoid per class, positives weighed by (total - n_c) / n_c.
        class_counts: Separate: n_c, training images of each class [C]. Default: WikiScenes' as released.
        total: Separate: training images. Default: as released.

    Raises:
        InputError: unknown kind, or Separate with counts for another number of classes.
    """
    if kind not in KINDS:
        raise InputError(f"loss.classification: expected one of {', '.join(KINDS)}, found {kind!r}")
    scores = at_least_float32(scores)
    if kind == "CrossEntropy":
        return F.cross_entropy(scores, labels.argmax(dim=1))
    if kind == "SoftMargin":
        return F.multilabel_soft_margin_loss(scores, labels.to(scores.dtype))
    if kind == "Hinge":
        return F.multilabel_margin_loss(scores, _positions_of_positives(labels))
    weight = _positive_weight(scores, class_counts, total)
    return F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), pos_weight=weight)


def _positions_of_positives(labels: Tensor) -> Tensor:
    """Indices of the positive classes first, then -1: [B, C]."""
    positive = labels > 0
    order = (~positive).to(torch.int8).argsort(dim=1, stable=True)
    return order.masked_fill(~positive.gather(1, order), -1)


def _positive_weight(scores: Tensor, class_counts: Sequence[int] | None, total: int | None) -> Tensor:
    counts = RELEASED_COUNTS if class_counts is None else class_counts
    if len(counts) != scores.shape[1]:
        raise InputError(
            f"loss.classification=Separate: expected the image counts of {scores.shape[1]} classes, "
            f"found {len(counts)}"
        )
    if min(counts) < 1:
        raise InputError(
            f"loss.classification=Separate: expected images of every class, found counts {list(counts)}"
        )
    n = torch.tensor(counts, dtype=scores.dtype, device=scores.device)
    return ((RELEASED_TOTAL if total is None else total) - n) / n
