"""Scores of predicted occupancy, at points and in voxel grids, for every cutoff from one pass over the points.

A voxel is predicted where any of its points has a logit above the cutoff. That is where the LARGEST logit of its
points is above the cutoff, so that the logits are pooled once and not once per cutoff; and how many of the
values above a cutoff are right is read from one histogram over the intervals between the cutoffs.

B scenes, P patches (labels or descriptions), N points, K cutoffs, G voxels per axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from projects.semabs.voxel_grid import VoxelGrid

METRICS = ("precision", "recall", "false_negative", "false_positive", "iou")
RELEASED_CUTOFFS = np.arange(-2.5, -0.0, 0.1)  # 25: -2.5, ..., -0.1
OCCLUDED = "occluded_"


@dataclass(frozen=True)
class Counts:
    """Of one patch, per cutoff (int64 [K]) or for all of them (int)."""

    true_positives: np.ndarray
    predicted: np.ndarray
    positives: int
    kept: int

    def scores(self) -> dict[str, np.ndarray]:
        """The METRICS, float64 [K]: NaN for 0 / 0; false_* are fractions of what is kept."""
        hit, predicted = self.true_positives.astype(float), self.predicted.astype(float)
        positives = np.full_like(hit, self.positives)
        missed, wrong = positives - hit, predicted - hit
        kept = np.full_like(hit, self.kept)
        with np.errstate(invalid="ignore"):
            found = (
                hit / predicted,
                hit / positives,
                missed / kept,
                wrong / kept,
                hit / (predicted + missed),
            )
        return dict(zip(METRICS, found, strict=True))


def voxel_name(voxels: int) -> str:
    """The prefix of a grid's columns: "voxel32x32x32"."""
    return "voxel" + "x".join([str(voxels)] * 3)


def completion_scores(
    logits: Tensor,
    labels: Tensor,
    ignored: Tensor,
    points: Tensor,
    *,
    bounds: np.ndarray | Sequence[Sequence[float]],
    cutoffs: np.ndarray | Sequence[float],
    grids: Sequence[int] = (32,),
    observed: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """Every metric of every patch at every cutoff: {"point_iou": float64 [B, P, K], "voxel32x32x32_iou": ...}.

    A point or voxel is predicted where logit > cutoff, both in float32. A voxel holds the label where a point of
    it does, and is left out where a point of it is ignored or where it has no point.

    Args:
        logits: [B, P, N].
        labels: [B, P, N], > 0 where the point is of the patch.
        ignored: [B, P, N] or [B, 1, N] bool.
        points: [B, P, N, 3] or, the same for every patch, [B, 1, N, 3].
        bounds: lowest and highest corner of the grids [2, 3].
        cutoffs: [K], in any order.
        grids: voxels per axis; e.g. 60 for NYU.
        observed: points of the view's surfaces [B, M, 3]. Adds columns "occluded_voxel...": voxels without any
            of these points (all that had to be completed).
    """
    order = np.argsort(np.asarray(cutoffs, np.float64), kind="stable")
    thresholds = torch.as_tensor(np.asarray(cutoffs, np.float32)[order], device=logits.device)
    rows: list[dict[str, np.ndarray]] = []
    for scene in range(logits.shape[0]):
        index = {}
        for patch in range(logits.shape[1]):
            shared = points.shape[1] == 1
            if patch == 0 or not shared:
                own = points[scene, 0 if shared else patch]
                index = {voxels: _cells(own, bounds, voxels) for voxels in grids}
            given = _Patch(
                logits[scene, patch].float(),
                labels[scene, patch] > 0,
                ignored[scene, 0 if ignored.shape[1] == 1 else patch].bool(),
            )
            seen = None if observed is None else observed[scene]
            rows.append(_patch_scores(given, index, thresholds, bounds, seen))
    unsorted = np.argsort(order)
    shape = (*logits.shape[:2], len(order))
    return {name: np.stack([row[name] for row in rows])[:, unsorted].reshape(shape) for name in rows[0]}


@dataclass(frozen=True)
class _Patch:
    logits: Tensor  # [N]
    labels: Tensor  # bool [N]
    ignored: Tensor  # bool [N]


@dataclass(frozen=True)
class Voxels:
    """A patch in a grid, flat: largest logit [G^3] (-inf where no point is), label and whether it counts."""

    logits: Tensor
    labels: Tensor
    kept: Tensor


def voxelise(logits: Tensor, labels: Tensor, ignored: Tensor, cells: Tensor, count: int) -> Voxels:
    """Pool points into voxels. All [N]; `cells`: int64 index of each point's voxel, below `count` = G^3."""
    pooled = torch.full((count,), -torch.inf, device=logits.device)
    pooled.scatter_reduce_(0, cells, logits, "amax")
    positive = torch.zeros(count, dtype=torch.bool, device=logits.device)
    positive[cells[labels]] = True
    kept = torch.zeros_like(positive)
    kept[cells] = True
    kept[cells[ignored]] = False
    return Voxels(pooled, positive, kept)


def count(logits: Tensor, labels: Tensor, kept: Tensor, thresholds: Tensor) -> Counts:
    """Counts of the entries [M] that are `kept`; `thresholds`: float32 [K], ascending."""
    intervals = len(thresholds) + 1
    # interval i: i thresholds are smaller than the logit
    codes = torch.bucketize(logits[kept], thresholds, out_int32=True) + intervals * labels[kept].int()
    histogram = torch.bincount(codes, minlength=2 * intervals).cpu().numpy().reshape(2, intervals)
    above = histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # logit > threshold
    totals = histogram.sum(axis=1)
    return Counts(above[1], above.sum(axis=0), int(totals[1]), int(totals.sum()))


def _patch_scores(
    patch: _Patch,
    index: Mapping[int, Tensor],
    thresholds: Tensor,
    bounds: np.ndarray | Sequence[Sequence[float]],
    observed: Tensor | None,
) -> dict[str, np.ndarray]:
    found = _named("point", count(patch.logits, patch.labels, ~patch.ignored, thresholds))
    for voxels, cells in index.items():
        grid = voxelise(patch.logits, patch.labels, patch.ignored, cells, voxels**3)
        name = voxel_name(voxels)
        found |= _named(name, count(grid.logits, grid.labels, grid.kept, thresholds))
        if observed is not None:
            hidden = grid.kept.clone()
            hidden[_cells(observed, bounds, voxels)] = False
            found |= _named(OCCLUDED + name, count(grid.logits, grid.labels, hidden, thresholds))
    return found


def _named(prefix: str, counts: Counts) -> dict[str, np.ndarray]:
    return {f"{prefix}_{metric}": values for metric, values in counts.scores().items()}


def _cells(points: Tensor, bounds: np.ndarray | Sequence[Sequence[float]], voxels: int) -> Tensor:
    """Flat voxel index of each point [N, 3] -> int64 [N]."""
    grid = VoxelGrid(bounds, (voxels, voxels, voxels))
    cells: Tensor = grid.flat(grid.indices(points))
    return cells
