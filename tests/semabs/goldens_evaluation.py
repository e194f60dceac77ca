"""Golden calls of evaluation: rows of the statistics, voxels, and the summary's tables letter for letter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from projects.semabs import summary_text
from projects.semabs.completion_metrics import (
    RELEASED_CUTOFFS,
    completion_scores,
    voxel_name,
    voxelise,
)
from projects.semabs.losses import ignored_points
from projects.semabs.stats import Stats, joined, scene_rows
from projects.semabs.summary import Tuned, tuned
from projects.semabs.voxel_grid import VoxelGrid
from tests.goldens.case import Case


def stats_rows(case: Case) -> None:
    """Every row of two scenes at every cutoff, padded patches included."""
    arrays, task = case.npz(), case.data["task"]
    scores = scored(arrays, task, cutoffs=case.data["cutoffs"], grids=case.data["grids"], **bounds(case))
    names = arrays[f"{task}_stats_names"].tolist()
    assert list(scores) == names
    found = np.stack([scores[name].transpose(2, 0, 1).reshape(-1) for name in names], axis=1)
    case.close(found, arrays[f"{task}_stats"])
    if task == "ovssc":
        rows_of_scenes(case, arrays, scores)


def rows_of_scenes(case: Case, arrays: dict[str, np.ndarray], scores: dict[str, np.ndarray]) -> None:
    """The same as a table: which scene, label and cutoff a row is of, and the means over all rows."""
    cutoffs = case.data["cutoffs"]
    stats = joined(
        [
            scene_rows(
                {name: values[scene] for name, values in scores.items()},
                {"label": arrays["patch_labels_PxB"][:, scene].tolist()},
                cutoffs, scene_id=f"s{scene}", split="unseen_instances", epoch=0,
            )
            for scene in range(2)
        ]
    )  # fmt: skip
    lines = zip(stats["scene_id"], stats["label"], stats["cutoff"], strict=True)
    found = [f"{scene}|{label}|{cutoff:g}" for scene, label, cutoff in lines]
    assert sorted(found) == sorted(arrays["ovssc_rows_scene_label_cutoff"].tolist())
    expected = dict(text.split("=") for text in arrays["ovssc_epoch_stats"].tolist())
    for name in ("point_iou", "voxel32x32x32_iou", "voxel64x64x64_iou"):
        case.close(stats.mean(name), float(expected[name]), what=name)


def voxelisation(case: Case) -> None:
    """Predicted, labelled and ignored voxels of every patch; the ignored points being those out of bounds."""
    arrays, voxels = case.npz(), case.data["voxels"]
    grid = VoxelGrid(case.data["bounds"], (voxels,) * 3)
    points, logits, labels, outside = tensors(arrays, "xyz", "logit", "label", "out_of_bounds")
    for scene, patch in np.ndindex(2, 3):
        one = scene, patch
        cells = grid.flat(grid.indices(points[one]))
        found = voxelise(logits[one], labels[one] > 0, outside[one] > 0, cells, voxels**3)
        expected = {name: arrays[f"voxelize16_{name}"][one] > 0 for name in ("prediction", "label", "ignore")}
        np.testing.assert_array_equal(found.logits > case.data["cutoff"], expected["prediction"])
        np.testing.assert_array_equal(found.labels, expected["label"])
        np.testing.assert_array_equal(~found.kept, expected["ignore"])


def voxel_score(case: Case) -> None:
    """IoU of the voxels of each patch; where nothing is kept the release's single score is 0."""
    arrays, voxels = case.npz(), case.data["voxels"]
    scores = scored(arrays, "ovssc", cutoffs=[case.data["cutoff"]], grids=(voxels,), **bounds(case))
    case.close(np.nan_to_num(scores[f"{voxel_name(voxels)}_iou"][..., 0]), arrays["voxel_score16"])


def evaluation_cutoffs(case: Case) -> None:
    """The 25 cutoffs."""
    case.close(RELEASED_CUTOFFS, case.npz()["eval_cutoffs"])


def summarize_ovssc(case: Case) -> None:
    """Rows of the approaches that the paper compares."""
    found = summary_text.ovssc_rows(approaches(case, "ovssc", ("semaware", "chefer_et_al", "ours")))
    assert found == case.npz()["table_ovssc"].tolist()


def summarize_vool(case: Case) -> None:
    """Rows of every relation, in the order of the frames, and their means."""
    found = summary_text.vool_rows(approaches(case, "vool", tuple(summary_text.APPROACHES)))
    assert found == case.npz()["table_vool"].tolist()


def summarize_nyu(case: Case) -> None:
    """Rows of the supervised and the zero-shot model."""
    metric, names = case.data["metric"], case.data["approaches"]
    found = {name: tuned(frame(case, f"{key}/"), metric) for key, name in names.items()}
    headings, rows = summary_text.nyu_rows(found, metric)
    assert len(headings) == len(rows[0])
    assert rows == case.npz()["table_nyu"].tolist()


def approaches(case: Case, task: str, keys: tuple[str, ...]) -> dict[str, Tuned]:
    """Each approach's rows at its own cutoff."""
    return {summary_text.APPROACHES[key]: tuned(frame(case, f"{key}/{task}/")) for key in keys}


def frame(case: Case, prefix: str) -> Stats:
    """The columns stored under a prefix."""
    return Stats(
        {name[len(prefix) :]: column for name, column in case.npz().items() if name.startswith(prefix)}
    )


def ignored(arrays: dict[str, np.ndarray], task: str) -> torch.Tensor:
    """Points that do not count: padded patches are those without a label, in both tasks."""
    texts = arrays["patch_labels_PxB"].T
    pad = {"ovssc": "", "vool": "[pad]"}[task]
    names = [[pad if text == "" else str(text) for text in row] for row in texts]
    return ignored_points(task, names, *tensors(arrays, "out_of_bounds", "out_of_frustum"))


def scored(arrays: dict[str, np.ndarray], task: str, **how: Any) -> dict[str, np.ndarray]:
    """The metrics of the stored logits."""
    logits, labels, points = tensors(arrays, "logit", "label", "xyz")
    return completion_scores(logits, labels, ignored(arrays, task), points, **how)


def bounds(case: Case) -> dict[str, Any]:
    """The box of the grids, as a keyword argument."""
    return {"bounds": case.data["bounds"]}


def tensors(arrays: dict[str, np.ndarray], *names: str) -> list[torch.Tensor]:
    """The stored arrays."""
    return [torch.from_numpy(arrays[name]) for name in names]


CALLS: dict[str, Callable[[Case], None]] = {
    "stats_rows": stats_rows,
    "voxelisation": voxelisation,
    "voxel_score": voxel_score,
    "evaluation_cutoffs": evaluation_cutoffs,
    "summarize_ovssc": summarize_ovssc,
    "summarize_vool": summarize_vool,
    "summarize_nyu": summarize_nyu,
}
