"""Agreement of index masks with the ground truth: confusion counts, IoU, precision and recall per class.

Class 0 is the background, class i + 1 concept i; K = 1 + number of concepts. Numbers are percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.errors import InputError

IGNORED = 255  # ground truth that does not count
BACKGROUND = "background"


def confusion(
    prediction: np.ndarray, truth: np.ndarray, classes: int, *, ignored: int = IGNORED, source: str = "mask"
) -> np.ndarray:
    """Counts int64 [classes, classes], row = truth, column = prediction, without the pixels that are ignored.

    prediction, truth: integers of one shape, e.g. [H, W]. InputError, which names the `source`, when the shapes
    differ or a pixel that counts has no class.
    """
    if prediction.shape != truth.shape:
        raise InputError(
            f"{source}: predicted mask of {_size(prediction)} pixels, ground truth of {_size(truth)}"
        )
    counts = _of_few_classes(prediction, truth, classes, ignored)
    if counts is not None:
        return counts
    pairs = _any_integers(prediction, truth, ignored, max(classes, 256))
    counted = int(pairs.sum())
    found = pairs[:classes, :classes]
    if int(found.sum()) != counted:
        raise InputError(f"{source}: {_stray(pairs, classes)}")
    return found.astype(np.int64)


def _of_few_classes(
    prediction: np.ndarray, truth: np.ndarray, classes: int, ignored: int
) -> np.ndarray | None:
    """Counts of clean masks of bytes; None for others. Both labels of a pixel fit into one byte, row 15 = ignored."""
    if not (prediction.dtype == truth.dtype == np.uint8 and classes <= 15 and ignored == IGNORED):
        return None
    if not truth.size or prediction.max() >= classes or ((truth >= classes) & (truth != ignored)).any():
        return None
    joined = truth << 4
    joined |= prediction
    counts = np.bincount(joined.reshape(-1), minlength=256).reshape(16, 16)
    return counts[:classes, :classes].copy()


def _any_integers(prediction: np.ndarray, truth: np.ndarray, ignored: int, size: int) -> np.ndarray:
    kept = truth != ignored
    first, second = truth[kept].astype(np.int64), prediction[kept].astype(np.int64)
    first, second = (np.where((labels < 0) | (labels >= size), size, labels) for labels in (first, second))
    flat = np.bincount(first * (size + 1) + second, minlength=(size + 1) ** 2)
    return flat.reshape(size + 1, size + 1)


def _stray(pairs: np.ndarray, classes: int) -> str:
    """What is wrong with counts outside of the classes."""
    for name, counts in (("ground truth", pairs.sum(1)), ("predicted mask", pairs.sum(0))):
        beyond = np.flatnonzero(counts[classes:])
        if len(beyond):
            return f"{name} has label {classes + int(beyond[0])}, expected 0 to {classes - 1}"
    raise AssertionError("no pixel without a class")


def _size(mask: np.ndarray) -> str:
    return " x ".join(map(str, mask.shape))


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a set of masks, from their summed `confusion` [K, K]."""

    confusion: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class in the ground truth [K]."""
        return self.confusion.sum(1)

    @property
    def iou(self) -> np.ndarray:
        """100 TP / (TP + FP + FN) per class [K]; 0 for a class that occurs nowhere, as released."""
        return self._share(self.confusion.sum(0) + self.confusion.sum(1) - np.diagonal(self.confusion))

    @property
    def precision(self) -> np.ndarray:
        """100 TP / (TP + FP) per class [K]; 0 for a class that is never predicted."""
        return self._share(self.confusion.sum(0))

    @property
    def recall(self) -> np.ndarray:
        """100 TP / (TP + FN) per class [K]; 0 for a class without ground truth."""
        return self._share(self.confusion.sum(1))

    def _share(self, of: np.ndarray) -> np.ndarray:
        return 100.0 * np.diagonal(self.confusion) / np.maximum(of, 1)

    def means(self, chosen: np.ndarray | slice) -> dict[str, float]:
        """Mean IoU, precision and recall over the chosen classes; empty when there is none."""
        values = {
            "miou": self.iou[chosen],
            "precision": self.precision[chosen],
            "recall": self.recall[chosen],
        }
        return {name: float(per_class.mean()) for name, per_class in values.items() if len(per_class)}

    def metrics(self, concepts: Sequence[str]) -> dict[str, Any]:
        """Nested numbers for results.json.

        `miou`, `precision`, `recall`: means over all concepts, an absent one counts as 0 (as released);
        `with_background`: over the background too; `present`: over the concepts that the ground truth has.
        """
        present = 1 + np.flatnonzero(self.pixels[1:])
        names = (BACKGROUND, *concepts)
        return {
            **self.means(slice(1, None)),
            "with_background": self.means(slice(None)),
            "present": {**self.means(present), "concepts": len(present)},
            "iou": dict(zip(names, self.iou.tolist(), strict=True)),
            "precision_of": dict(zip(names, self.precision.tolist(), strict=True)),
            "recall_of": dict(zip(names, self.recall.tolist(), strict=True)),
            "pixels": dict(zip(names, self.pixels.tolist(), strict=True)),
        }

    def table(self, concepts: Sequence[str]) -> str:
        """The released table, letter for letter."""
        line = "-" * 44
        rows = zip((BACKGROUND, *concepts), self.pixels, self.iou, self.precision, self.recall, strict=True)
        return "\n".join(
            [
                f"{'Class':>12} | {'#':>5} | {'IoU':>5} | {'Pr':>5} | {'Re':>5}",
                line,
                *(f"{name:>12} | {n:>5} | {iou:5.1f} | {p:5.1f} | {r:5.1f}" for name, n, iou, p, r in rows),
                line,
                _means_line(self.means(slice(1, None))),
                line,
                "With background: ",
                _means_line(self.means(slice(None))),
                "",
            ]
        )


def _means_line(means: dict[str, float]) -> str:
    return f"mIoU: {means['miou']:.2f}\t  Pr: {means['precision']:.2f}\t  Re: {means['recall']:.2f}"
