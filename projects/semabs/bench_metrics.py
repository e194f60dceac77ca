"""Bench cases of the metrics: 25 cutoffs in one pass beside one pass for each cutoff, as released."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.semabs.completion_metrics import METRICS, RELEASED_CUTOFFS, completion_scores, voxel_name
from projects.semabs.voxel_grid import VoxelGrid
from shared.bench import Case, Sides, Target

BOUNDS = [[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]]
PATCHES, POINTS = 4, 1_000_000
GRIDS = (32, 64)
_RELEASED = "released: a pass for each cutoff"


def scene(patches: int, count: int, seed: int = 0) -> dict[str, Tensor]:
    """A room's points with logits around the cutoffs, a tenth of the points of the label, a fifth ignored."""
    rng = np.random.default_rng(seed)
    points = (rng.random((1, 1, count, 3)) * 2 + [-1, -1, -0.1]).astype(np.float32)
    return {
        "logits": torch.from_numpy(rng.normal(-1.5, 1, (1, patches, count)).astype(np.float32)),
        "labels": torch.from_numpy(rng.random((1, patches, count)) < 0.1),
        "ignored": torch.from_numpy(rng.random((1, 1, count)) < 0.2).expand(-1, patches, -1),
        "points": torch.from_numpy(points),
    }


def released_scores(
    given: Mapping[str, Tensor], cutoffs: np.ndarray, grids: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Each cutoff: predictions, labels and masks of every patch go into each grid again."""
    logits, labels, ignored = given["logits"][0], given["labels"][0], given["ignored"][0]
    points = given["points"][0].expand(len(logits), -1, -1)
    rows: dict[str, list[list[np.ndarray]]] = {}
    for cutoff in cutoffs:
        predicted = logits > float(cutoff)
        found = {"point": (predicted, labels, ~ignored)}
        for voxels in grids:
            grid = VoxelGrid(BOUNDS, (voxels,) * 3)
            cells = grid.flat(grid.indices(points))
            pooled = [
                torch.full((len(logits), voxels**3), empty).scatter_reduce(1, cells, values, "amax")
                for values, empty in (
                    (predicted.float(), 0.0),
                    (labels.float() * 2 - 1, 0.0),
                    (ignored.float(), 0.0),
                )
            ]
            occupied = torch.zeros(len(logits), voxels**3).scatter_reduce(
                1, cells, torch.ones_like(logits), "amax"
            )
            kept = (pooled[2] == 0) & (occupied > 0)
            found[voxel_name(voxels)] = (pooled[0] > 0, pooled[1] > 0, kept)
        for prefix, (guess, truth, kept) in found.items():
            for metric, values in _one_cutoff(guess, truth, kept).items():
                rows.setdefault(f"{prefix}_{metric}", []).append([values])
    return {name: np.stack(values, axis=-1) for name, values in rows.items()}


def _one_cutoff(guess: Tensor, truth: Tensor, kept: Tensor) -> dict[str, np.ndarray]:
    hit = (guess & truth & kept).sum(1).double()
    predicted, positives = (guess & kept).sum(1).double(), (truth & kept).sum(1).double()
    either, count = ((guess | truth) & kept).sum(1).double(), kept.sum(1).double()
    missed, wrong = (truth & ~guess & kept).sum(1).double(), (guess & ~truth & kept).sum(1).double()
    found = (hit / predicted, hit / positives, missed / count, wrong / count, hit / either)
    return {name: values.numpy() for name, values in zip(METRICS, found, strict=True)}


def cutoffs(quick: bool) -> Sides:
    """`quick`: a few points in small grids."""
    given, grids = (scene(2, 500), (6, 8)) if quick else (scene(PATCHES, POINTS), GRIDS)
    ours = partial(completion_scores, **given, bounds=BOUNDS, cutoffs=RELEASED_CUTOFFS, grids=grids)
    return {_RELEASED: partial(released_scores, given, RELEASED_CUTOFFS, grids), "ours": ours}


def check_scores(outputs: Mapping[str, Any]) -> str:
    """Every metric of every patch at every cutoff."""
    released, ours = outputs[_RELEASED], outputs["ours"]
    assert sorted(released) == sorted(ours)
    for name, values in ours.items():
        np.testing.assert_allclose(values, released[name], rtol=1e-12, err_msg=name)
    return f"{sum(values.size for values in ours.values())} numbers are equal to 1e-12"


CASES = [
    Case(
        "metrics_25_cutoffs",
        f"metrics at 25 cutoffs: {POINTS:,} points of {PATCHES} labels, at points and in grids of 32 and 64",
        cutoffs,
        check_scores,
        (Target("ours", _RELEASED, 15.0),),
    ),
]
