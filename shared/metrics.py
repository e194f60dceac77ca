"""Metrics: pure functions from arrays to numbers. Retrieval ranks are those of `shared.ranking`."""

from collections.abc import Iterable

import numpy as np

from shared.ranking import (
    PairedRanks,
    Ranks,
    paired_ranks,
    paired_ranks_of_scores,
    ranks_among_themselves,
    ranks_of_targets,
)

__all__ = [
    "PairedRanks",
    "Ranks",
    "average_precision",
    "confusion_matrix",
    "intersection_over_union",
    "paired_ranks",
    "paired_ranks_of_scores",
    "ranks_among_themselves",
    "ranks_of_targets",
    "recall_summary",
]


def recall_summary(ranks: np.ndarray, ks: Iterable[int] = (1, 5, 10)) -> dict[str, float]:
    """`r<k>` in percent for each k, `medr` = floor(median) + 1 and `meanr` = mean + 1, of 0-based ranks."""
    ranks = np.asarray(ranks)
    if not len(ranks):
        raise ValueError("no ranks to summarise")
    recalls = {f"r{k}": 100.0 * np.count_nonzero(ranks < k) / len(ranks) for k in ks}
    return {**recalls, "medr": float(np.floor(np.median(ranks)) + 1), "meanr": float(ranks.mean() + 1)}


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall steps: sum of (R_n - R_{n-1}) P_n; NaN without positives.

    labels: bool [N], scores: [N]. Items of equal score enter together, so their order does not matter.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(
            f"labels {labels.shape} and scores {scores.shape}: expected two vectors of one length"
        )
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(
        np.append(np.diff(scores[order]) != 0, True)
    )  # last item of each group of equal scores
    found = np.cumsum(labels[order])[ends]
    precision = found / (ends + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / found[-1])


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, *, ignore_index: int | None = None
) -> np.ndarray:
    """Counts int64 [num_classes, num_classes], row = label, column = prediction; any shape, e.g. [B, H, W].

    Items with label `ignore_index` are left out. ValueError when another label or a prediction is no class.
    """
    labels, predictions = np.asarray(labels).reshape(-1), np.asarray(predictions).reshape(-1)
    if labels.shape != predictions.shape:
        raise ValueError(f"{len(labels)} labels and {len(predictions)} predictions")
    if ignore_index is not None:
        kept = labels != ignore_index
        labels, predictions = labels[kept], predictions[kept]
    for name, values in (("label", labels), ("prediction", predictions)):
        if len(values) and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(f"{name} from {values.min()} to {values.max()}, expected 0 to {num_classes - 1}")
    flat = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
    """IoU per class [C] = tp / (tp + fp + fn) from a confusion matrix; NaN for a class that occurs nowhere.

    The mean IoU over the classes that occur is `np.nanmean` of it.
    """
    confusion = np.asarray(confusion, np.float64)
    hits = np.diagonal(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    with np.errstate(invalid="ignore"):
        return np.where(union > 0, hits / np.where(union > 0, union, 1), np.nan)
