"""Evaluate a network on a split: whole scenes, one at a time, as rows of the released statistics.

P patches (labels or descriptions of a scene), N points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from projects.semabs import nyu
from projects.semabs.completion_metrics import completion_scores
from projects.semabs.data import Batch, Split
from projects.semabs.losses import ignored_points
from projects.semabs.stats import NAMES, Stats, joined, read_stats, scene_rows
from shared.data import BatchPlan, eval_plans, load, to_device
from shared.errors import InputError
from shared.progress import Progress
from shared.runtime import Runtime, gather_objects

ROWS_AT_ONCE = 1 << 20  # query points (of all patches) that are decoded together
_MAPS = (  # what differs between the patches of a scene
    *("input_feature_pts", "input_target_saliency_pts", "input_reference_saliency_pts"),
    *("input_description_saliency_pts", "semantic_class_features"),
)


@dataclass(frozen=True)
class Protocol:
    """How logits become scores.

    Attributes:
        cutoffs: of the logits.
        grids: voxels per axis of the scored grids.
        occluded: also score the voxels in which no observed point lies.
        permuted: a control: each patch of a scene gets the relevancies (and text features) of the next one.
        merge_nyu: score the 11 classes of the NYU benchmark instead of the labels (`nyu.merge`).
    """

    cutoffs: Sequence[float]
    grids: Sequence[int] = (32,)
    occluded: bool = False
    permuted: bool = False
    merge_nyu: bool = False


def evaluate_split(
    network: nn.Module,
    split: Split,
    *,
    task: str,
    cutoffs: Sequence[float],
    runtime: Runtime,
    epoch: int = 0,
    workers: int | None = None,
    folder: Path | None = None,
    label: str = "evaluation",
    **protocol: Any,
) -> Stats:
    """The rows of all scenes of a split, the same on all ranks, which share the scenes. Leaves eval mode on.

    Args:
        network: with `encode` and `decode` (see `model`).
        split: of scenes.
        task: ovssc or vool.
        cutoffs, protocol: see `Protocol`.
        runtime, workers: where, and with how many data processes.
        epoch: goes into the rows.
        folder: keeps each scene's rows as soon as they are there; scenes found in it are not evaluated again.
        label: of the progress bar.

    Raises:
        InputError: a split without scenes, a scene that cannot be read, logits that are not finite.
    """
    if len(split) == 0:
        raise InputError(f"split {split.name}: expected scenes, found none")
    how = Protocol(cutoffs, **protocol)
    network.eval()
    plans = eval_plans(len(split), 1, rank=runtime.rank, world_size=runtime.world_size)
    numbers = [int(plan.indices[0]) for plan in plans]
    files = {number: folder / f"{number:06d}.npz" for number in numbers} if folder is not None else {}
    found = {number: read_stats(file) for number, file in files.items() if file.exists()}
    missing = [plan for plan in plans if int(plan.indices[0]) not in found]
    batches = load(partial(_fetch, split, how), missing, workers=workers)
    with Progress(len(plans), start=len(found), unit="scene", label=label, silent=not runtime.is_main) as bar:
        for plan, batch in zip(missing, batches, strict=True):
            number = int(plan.indices[0])
            found[number] = _scene(network, batch, split, task, how, runtime, epoch)
            if number in files:
                found[number].write(files[number])
            bar.update()
    parts = gather_objects([found[number] for number in numbers])
    return joined([stats for part in parts for stats in part])


def _fetch(split: Split, how: Protocol, plan: BatchPlan) -> Batch:
    """A scene whose query points, the same for all patches, are there once: [1, 1, N, 3]."""
    batch = split.fetch_eval(plan)
    if how.permuted:
        for name in _MAPS:
            if name in batch:
                batch[name] = batch[name].roll(-1, dims=1)
    for name in ("output_xyz_pts", "out_of_bounds_pts", "out_of_frustum_pts_mask"):
        if batch[name].stride(1) == 0:
            batch[name] = batch[name][:, :1]
    return batch


def _scene(
    network: nn.Module, batch: Batch, split: Split, task: str, how: Protocol, runtime: Runtime, epoch: int
) -> Stats:
    names = {name: batch[name][0] for name in NAMES[task] if name in batch}
    if task == "ovssc":
        names = {"label": batch["patch_labels"][0]}
    scene_id = batch["scene_id"][0]
    batch = to_device(batch, runtime.device)
    logits = scene_logits(network, batch, len(next(iter(names.values()))), runtime)
    if not bool(torch.isfinite(logits).all()):
        raise InputError(f"{scene_id}: the network's logits are not all finite")
    padding = names["label" if task == "ovssc" else "spatial_relation_name"]
    ignored = ignored_points(task, [padding], batch["out_of_bounds_pts"], batch["out_of_frustum_pts_mask"])
    labels = batch["output_label_pts"]
    if how.merge_nyu:
        names["label"], logits, labels, ignored = nyu.merge(names["label"], logits, labels, ignored)
    scores = completion_scores(
        logits,
        labels,
        ignored,
        batch["output_xyz_pts"],
        bounds=split.settings.scene_bounds,
        cutoffs=how.cutoffs,
        grids=how.grids,
        observed=batch["input_xyz_pts"] if how.occluded else None,
    )
    return scene_rows(
        {name: values[0] for name, values in scores.items()},
        names,
        how.cutoffs,
        scene_id=scene_id,
        split=split.name,
        epoch=epoch,
    )


def scene_logits(network: nn.Module, batch: Batch, patches: int, runtime: Runtime) -> Tensor:
    """Logits [1, P, N] float32 of a scene: its maps go through the U-Net once, its points are decoded in parts.

    batch: of one scene, on the device; `output_xyz_pts` [1, P or 1, N, 3].
    """
    points = batch["output_xyz_pts"]
    others = {name: value for name, value in batch.items() if name != "output_xyz_pts"}
    step = max(1, ROWS_AT_ONCE // patches)
    with torch.inference_mode(), runtime.autocast():
        encoded = network.encode(**others)  # type: ignore[operator]
        parts = [
            network.decode(  # type: ignore[operator]
                encoded,
                output_xyz_pts=points[:, :, start : start + step].expand(-1, patches, -1, -1),
                **others,
            ).float()
            for start in range(0, points.shape[2], step)
        ]
        return torch.cat(parts, dim=2)


def epoch_of(progress: Any) -> int:
    """The epoch that a checkpoint's progress tells; 0 where it tells none."""
    epoch = progress.get("epoch", 0) if isinstance(progress, dict) else 0
    return int(epoch) if isinstance(epoch, int | np.integer) else 0
