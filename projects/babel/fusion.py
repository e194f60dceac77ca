"""What many views say of a 3D point, brought together over the point's track.

N points, K = 1 + C classes (0 = background), M keypoints of a view. Views are added one at a time: memory is
that of the points, however many views there are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.babel.colmap import UNKNOWN
from shared.errors import InputError

KINDS = ("mean", "majority")


def sample_scores(scores: Tensor, rowcol: np.ndarray) -> np.ndarray:
    """Scores at keypoints, float32 [M, K].

    scores: [K, H, W], any size with the picture's proportions; rowcol: [M, 2], fractions of the picture, whose edges
    are 0 and 1 (bilinear between the centres of pixels, as COLMAP counts them).
    """
    grid = torch.from_numpy(np.ascontiguousarray(rowcol[:, ::-1], np.float32)).to(scores.device) * 2 - 1
    found = F.grid_sample(
        scores[None].float(), grid[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T.cpu().numpy()


def sample_labels(labels: np.ndarray, rowcol: np.ndarray) -> np.ndarray:
    """Labels [M] of a mask [H, W] at keypoints [M, 2]: those of the pixels in which they lie."""
    height, width = labels.shape
    rows = np.clip((rowcol[:, 0] * height).astype(np.int64), 0, height - 1)
    columns = np.clip((rowcol[:, 1] * width).astype(np.int64), 0, width - 1)
    return labels[rows, columns]


class Fusion:
    """Sums over the views of each point: of its class scores (float64 [N, K]) and of its votes (int64 [N, K])."""

    def __init__(self, num_points: int, num_classes: int) -> None:
        self.scores = np.zeros((num_points, num_classes))
        self.votes = np.zeros((num_points, num_classes), np.int64)
        self.views = 0

    @property
    def seen(self) -> np.ndarray:
        """How many views each point has had, int64 [N]."""
        return self.votes.sum(axis=1)

    def add(self, points: np.ndarray, scores: np.ndarray) -> None:
        """A view: the rows of its points [M] (one may occur twice) and their class scores [M, K].

        Each keypoint votes for its best class; of equal ones for the lowest.
        """
        np.add.at(self.scores, points, scores.astype(np.float64))
        np.add.at(self.votes, (points, scores.argmax(axis=1)), 1)
        self.views += 1

    def means(self) -> np.ndarray:
        """Mean scores float32 [N, K]; 0 for a point that no view sees."""
        return (self.scores / np.maximum(self.seen, 1)[:, None]).astype(np.float32)

    def labels(self, kind: str = "mean") -> np.ndarray:
        """The class of each point, uint8 [N]: the best mean score, or the most votes; UNKNOWN without a view.

        majority: of classes with equally many votes the one with the higher mean score.
        """
        if kind not in KINDS:
            raise InputError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
        means = self.means()
        if kind == "majority":
            means = np.where(self.votes == self.votes.max(axis=1, keepdims=True), means, -1.0)
        return np.where(self.seen > 0, means.argmax(axis=1), UNKNOWN).astype(np.uint8)

    def confidence(self, kind: str = "mean") -> np.ndarray:
        """Share of the chosen class in the scores (mean) or votes (majority) of a point, float32 [N]."""
        table = self.means() if kind == "mean" else self.votes
        labels = self.labels(kind)
        chosen = table[np.arange(len(table)), np.where(labels == UNKNOWN, 0, labels)]
        total = table.sum(axis=1)
        share = np.divide(chosen, total, out=np.zeros(len(table)), where=total > 0)
        return share.astype(np.float32)


@dataclass
class PointScores:
    """How often predicted classes of points are right: counts of (true, predicted) classes, int64 [K, K]."""

    counts: np.ndarray

    @classmethod
    def empty(cls, num_classes: int) -> "PointScores":
        """No point yet."""
        return cls(np.zeros((num_classes, num_classes), np.int64))

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count points; those whose true or predicted class is UNKNOWN are left out."""
        known = (truth != UNKNOWN) & (predicted != UNKNOWN)
        classes = len(self.counts)
        index = truth[known].astype(np.int64) * classes + predicted[known]
        self.counts += np.bincount(index, minlength=classes * classes).reshape(classes, classes)

    def metrics(self, concepts: tuple[str, ...]) -> dict[str, Any]:
        """In percent: accuracy; per concept and as means over the concepts that occur: recall and IoU.

        `foreground`: accuracy over the points of concepts, without those of the background.
        """
        right, true, predicted = np.diag(self.counts), self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = np.maximum(true + predicted - right, 1)
        iou, recall = 100 * right / union, 100 * right / np.maximum(true, 1)
        present = [k for k in range(1, len(true)) if true[k]]
        of_concepts = max(1, int(true[1:].sum()))
        return {
            "accuracy": 100 * float(right.sum()) / max(1, int(true.sum())),
            "foreground": 100 * float(right[1:].sum()) / of_concepts,
            "mean_recall": float(recall[present].mean()) if present else 0.0,
            "miou": float(iou[present].mean()) if present else 0.0,
            "iou": {concepts[k - 1]: float(iou[k]) for k in present},
            "recall": {concepts[k - 1]: float(recall[k]) for k in present},
            "points": int(true.sum()),
        }
