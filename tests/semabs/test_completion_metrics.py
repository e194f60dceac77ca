"""Scores at points and in voxels against their definition, applied plainly for each cutoff."""

from typing import Any

import numpy as np
import pytest
import torch

from projects.semabs.completion_metrics import METRICS, OCCLUDED, RELEASED_CUTOFFS, completion_scores
from projects.semabs.voxel_grid import VoxelGrid

BOUNDS = [[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]]
CUTOFFS = [-1.0, 0.5, -2.5, 3.0, -0.1]  # in no order


def scene(seed: int, patches: int = 3, count: int = 700) -> dict[str, Any]:
    """Random logits with ties at the cutoffs, points also beyond the bounds, a patch that is ignored as a whole."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, (2, patches, count)).astype(np.float32)
    logits[:, :, ::9] = np.float32(-0.1)
    ignored = rng.random((2, patches, count)) < 0.2
    ignored[1, 2] = True
    labels = rng.random((2, patches, count)) < 0.15
    labels[0, 1] = False
    points = (rng.random((2, patches, count, 3)) * 2.4 - 1.2 + [0, 0, 0.9]).astype(np.float32)
    arrays = {"logits": logits, "labels": labels, "ignored": ignored, "points": points}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def plain(logits: np.ndarray, labels: np.ndarray, kept: np.ndarray, cutoff: float) -> list[float]:
    """METRICS of a list of entries."""
    hit = wrong = missed = total = 0
    for logit, label, keep in zip(logits, labels, kept, strict=True):
        if keep:
            found, truth = bool(np.float32(logit) > np.float32(cutoff)), bool(label)
            hit += found and truth
            wrong += found and not truth
            missed += truth and not found
            total += 1

    def share(part: int, whole: int) -> float:
        return part / whole if whole else np.nan

    of = share(hit, hit + wrong), share(hit, hit + missed), share(missed, total), share(wrong, total)
    return [*of, share(hit, hit + wrong + missed)]


def plain_voxels(
    logits: np.ndarray, labels: np.ndarray, ignored: np.ndarray, voxel: np.ndarray, count: int, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted (as a logit above or below the cutoff), labelled and kept voxels, voxel by voxel."""
    predicted, labelled, kept = np.full(count, cutoff - 1), np.zeros(count, bool), np.zeros(count, bool)
    for one in set(voxel.tolist()):
        inside = voxel == one
        if (logits[inside] > np.float32(cutoff)).any():
            predicted[one] = cutoff + 1
        labelled[one] = labels[inside].any()
        kept[one] = not ignored[inside].any()
    return predicted, labelled, kept


@pytest.mark.parametrize("seed", [0, 1])
def test_every_metric_is_its_definition(seed: int) -> None:
    given = scene(seed)
    observed = given["points"][:, 0, :50]
    found = completion_scores(**given, bounds=BOUNDS, cutoffs=CUTOFFS, grids=(5, 60), observed=observed)
    prefixes = ("point", "voxel5x5x5", "voxel60x60x60", OCCLUDED + "voxel5x5x5", OCCLUDED + "voxel60x60x60")
    assert sorted(found) == sorted(f"{prefix}_{metric}" for prefix in prefixes for metric in METRICS)
    arrays = {name: value.numpy() for name, value in given.items()}
    for one in [(0, 0), (0, 1), (1, 0), (1, 2)]:
        logits, labels, ignored = (arrays[name][one] for name in ("logits", "labels", "ignored"))
        for place, cutoff in enumerate(CUTOFFS):
            expected = {"point": plain(logits, labels, ~ignored, cutoff)}
            for voxels in (5, 60):
                grid = VoxelGrid(BOUNDS, (voxels,) * 3)
                voxel = grid.flat(grid.indices(arrays["points"][one]))
                predicted, labelled, kept = plain_voxels(logits, labels, ignored, voxel, voxels**3, cutoff)
                name = f"voxel{voxels}x{voxels}x{voxels}"
                used = np.flatnonzero(kept)  # a loop over all of 60^3 would take a while
                expected[name] = plain(predicted[used], labelled[used], kept[used], cutoff)
                kept[grid.flat(grid.indices(observed[one[0]].numpy()))] = False
                expected[OCCLUDED + name] = plain(predicted[used], labelled[used], kept[used], cutoff)
            for prefix, numbers in expected.items():
                ours = [found[f"{prefix}_{metric}"][(*one, place)] for metric in METRICS]
                np.testing.assert_allclose(ours, numbers, rtol=1e-12, err_msg=f"{prefix} {one} {cutoff}")


def test_shared_points_and_masks_give_the_same() -> None:
    given = scene(2)
    one_room = given["points"][:, :1]
    mask = given["ignored"][:, :1]
    found = completion_scores(
        given["logits"], given["labels"], mask, one_room, bounds=BOUNDS, cutoffs=CUTOFFS
    )
    repeated = completion_scores(
        given["logits"], given["labels"], mask.expand(-1, 3, -1), one_room.expand(-1, 3, -1, -1),
        bounds=BOUNDS, cutoffs=CUTOFFS,
    )  # fmt: skip
    for name, values in found.items():
        np.testing.assert_array_equal(values, repeated[name])
    assert not np.isnan(found["voxel32x32x32_iou"]).all()


def test_a_patch_that_is_ignored_has_no_scores() -> None:
    found = completion_scores(**scene(3), bounds=BOUNDS, cutoffs=CUTOFFS)
    assert all(np.isnan(values[1, 2]).all() for values in found.values())
    assert np.isnan(found["point_recall"][0, 1]).all()  # nothing to find
    assert (found["point_iou"][0, 1] == 0).all()


def test_released_cutoffs() -> None:
    assert len(RELEASED_CUTOFFS) == 25
    np.testing.assert_allclose(RELEASED_CUTOFFS[[0, -1]], [-2.5, -0.1])
