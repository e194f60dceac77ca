"""Validation of the image-level concepts: average precision, accuracy, and accuracy among all labels.

N images, C concepts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.metrics import average_precision, confusion_matrix


@dataclass(frozen=True)
class ClassificationScores:
    """Numbers of one split.

    Attributes:
        ap: average precision per concept [C]; NaN for one without a positive image.
        confusion: counts [C, C], row = the image's first label, column = the best scored concept.
        easy_acc: share of the images whose best scored concept is among all their labels.
        multi_label: whether the positives of `ap` are all labels of an image, or its first alone.
    """

    ap: np.ndarray
    confusion: np.ndarray
    easy_acc: float
    multi_label: bool

    @property
    def mean_ap(self) -> float:
        """Mean of `ap` over the concepts that have a positive image."""
        return float(np.nanmean(self.ap))

    @property
    def acc(self) -> float:
        """Share of the images whose best scored concept is their first label."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def class_acc(self) -> np.ndarray:
        """`acc` among the images of each concept [C]; NaN for one without images."""
        images = self.confusion.sum(1)
        return np.where(images > 0, np.diagonal(self.confusion) / np.maximum(images, 1), np.nan)

    @property
    def mean_class_acc(self) -> float:
        """Mean of `class_acc` over the concepts that have images."""
        return float(np.nanmean(self.class_acc))

    def metrics(self, concepts: Sequence[str]) -> dict[str, Any]:
        """Nested plain numbers for results.json; a concept without positives is listed under `absent`."""
        numbers: dict[str, Any] = {
            "mAP": self.mean_ap,
            "acc": self.acc,
            "mean_class_acc": self.mean_class_acc,
            "easy_acc": self.easy_acc,
            "images": int(self.confusion.sum()),
            "AP": _present(concepts, self.ap),
            "class_acc": _present(concepts, self.class_acc),
        }
        absent = [name for name, value in zip(concepts, self.ap, strict=True) if np.isnan(value)]
        return {**numbers, "absent": absent} if absent else numbers

    def scalars(self, concepts: Sequence[str]) -> dict[str, float]:
        """The released TensorBoard tags; accuracies only where one label per image counts, as released."""
        found = {}
        for i, name in enumerate(concepts):
            numbers = {"AP": self.ap[i]} if self.multi_label else {"AP": self.ap[i], "acc": self.class_acc[i]}
            for kind, value in numbers.items():
                if not np.isnan(value):
                    found[f"{i + 1:02d}_{name}/{kind}"] = float(value)
        found["all_wo_BG/mAP"] = self.mean_ap
        found["all_wo_BG/easy_acc"] = self.easy_acc
        if not self.multi_label:
            found["all_wo_BG/acc"] = self.acc
            found["all_wo_BG/acc(averaged by classes)"] = self.mean_class_acc
        return found


def classification_scores(
    scores: np.ndarray, first: np.ndarray, labels: np.ndarray, *, multi_label: bool = False
) -> ClassificationScores:
    """Compare class scores with the labels of a split.

    Args:
        scores: [N, C] float, higher = more likely (logits or probabilities; of equal ones the lowest index wins).
        first: [N] int, position of each image's first label.
        labels: [N, C], non-zero where the image has the label (the first one among them).
        multi_label: positives of the average precision are all labels instead of the first alone.

    Raises:
        InputError: no image, or a score that is not finite.
        ValueError: shapes that do not belong together.
    """
    scores, first, labels = np.asarray(scores), np.asarray(first, np.int64), np.asarray(labels) > 0
    if scores.ndim != 2 or labels.shape != scores.shape or first.shape != scores.shape[:1]:
        raise ValueError(f"scores {scores.shape}, first labels {first.shape}, labels {labels.shape}")
    if not len(scores):
        raise InputError("classification: no image to score, expected at least one")
    bad = ~np.isfinite(scores).all(axis=1)
    if bad.any():
        raise InputError(f"classification: the scores of image {int(bad.argmax())} are not finite")
    concepts = scores.shape[1]
    positives = labels if multi_label else np.eye(concepts, dtype=bool)[first]
    best = scores.argmax(axis=1)
    return ClassificationScores(
        ap=np.array([average_precision(positives[:, c], scores[:, c]) for c in range(concepts)]),
        confusion=confusion_matrix(first, best, concepts),
        easy_acc=float(labels[np.arange(len(best)), best].mean()),
        multi_label=multi_label,
    )


def _present(concepts: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(concepts, values, strict=True) if not np.isnan(value)}
