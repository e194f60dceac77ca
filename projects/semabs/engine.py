"""The pieces of training: one optimizer step, and what is written about it.

A batch is a dict: the tensors of B items under the released names, names as lists [B][P].
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from projects.semabs import losses
from projects.semabs.completion_metrics import completion_scores
from projects.semabs.data import Batch, Split
from projects.semabs.run_state import Progress
from shared import collectives, data
from shared.errors import InputError
from shared.log import Run
from shared.runtime import Runtime

NAMES = {"ovssc": "patch_labels", "vool": "spatial_relation_name"}  # what tells padded patches
TRAIN_CUTOFF = -1.0  # of the logits, for the metrics of a training step
SCORES = ("point_iou", "voxel32x32x32_iou")


@dataclass(frozen=True)
class StepResult:
    """A step's numbers, over the global batch.

    Attributes:
        loss: what was minimised.
        accuracy: share of the points that count on the right side of 0.
        gradient_norm: L2, before it is clipped.
        logits: [B, P, N], of this rank's scenes.
        ignored: bool [B, P, N], points that do not count.
    """

    loss: float
    accuracy: float
    gradient_norm: float
    logits: Tensor
    ignored: Tensor


def batches(
    split: Split,
    plans: Iterable[data.BatchPlan],
    most: int,
    runtime: Runtime,
    *,
    workers: int | None = None,
) -> Iterator[tuple[Batch, data.Clock]]:
    """The first `most` of the plans as training batches on the device, each with the clock of its step."""
    return data.timed_batches(split.fetch_train, islice(plans, most), runtime.device, workers=workers)


def train_step(
    task: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    runtime: Runtime,
    clip: float | None = 2.0,
    balance_positive_negative: bool = False,
    mean_over: str = "points",
    scaler: torch.amp.GradScaler | None = None,
    where: str = "training",
) -> StepResult:
    """One optimizer step on this rank's share of a global batch (already on the device).

    Args:
        task: ovssc or vool: which points count (`losses.ignored_points`).
        network, optimizer, batch, runtime: what, how, on what, where.
        clip: largest L2 norm of the gradient; None = as it is.
        balance_positive_negative, mean_over: of `losses.occupancy_loss`.
        scaler: loss scaling, for fp16.
        where: the place in the run, for the message of an error.

    Raises:
        InputError: a loss or gradient that is not finite, and why; the optimizer has changed nothing.
    """
    scaler = scaler or torch.amp.GradScaler(runtime.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)
    with runtime.autocast():
        logits = network(**batch).float()
    labels = batch["output_label_pts"]
    outside = batch["out_of_bounds_pts"], batch["out_of_frustum_pts_mask"]
    ignored = losses.ignored_points(task, batch[NAMES[task]], *outside)
    loss = losses.occupancy_loss(
        logits,
        labels,
        ignored if task == "ovssc" else None,  # the released VOOL loss is over all points
        balance_positive_negative=balance_positive_negative,
        mean_over=mean_over,
    )
    scaler.scale(loss).backward()

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    collectives.all_reduce_gradients(parameters)
    scaler.unscale_(optimizer)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    right = losses.accuracy(logits.detach(), labels, ignored)
    total, share, length = torch.stack([x.double() for x in (loss.detach(), right, norm)]).tolist()
    result = StepResult(total, share, length, logits.detach(), ignored)
    if not (math.isfinite(result.loss) and (math.isfinite(result.gradient_norm) or scaler.is_enabled())):
        raise InputError(f"{where}: {_cause(batch, result)}")
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    scaler.step(optimizer)  # with fp16 a gradient that overflowed is skipped, and the scale lowered
    scaler.update()
    if isinstance(steps := getattr(network, "steps", None), Tensor):
        steps += 1
    return result


def numbers(
    result: StepResult, batch: Batch, *, bounds: Sequence[Sequence[float]], clip: float | None
) -> dict[str, float]:
    """A step's numbers under the released names, the IoUs at the released training cutoff; NaN = undefined.

    To be called on all ranks. `gradnorm` is the norm after clipping, as in the released logs.
    """
    points = batch["output_xyz_pts"]
    scores = completion_scores(
        result.logits,
        batch["output_label_pts"],
        result.ignored,
        points,
        bounds=bounds,
        cutoffs=[TRAIN_CUTOFF],
    )
    rows = collectives.gather_objects({name: scores[name].ravel() for name in SCORES})
    means = {name: _mean(np.concatenate([of_rank[name] for of_rank in rows])) for name in SCORES}
    norm = result.gradient_norm
    clipped = norm if clip is None else min(norm, clip)
    return {"loss": result.loss, "accuracy": result.accuracy, **means, "gradnorm": clipped}


def record(
    run: Run, at: Progress, optimizer: torch.optim.Optimizer, found: Mapping[str, float], clock: data.Clock
) -> None:
    """Write a step's numbers."""
    run.scalars(at.step, {"epoch": at.epoch, **found, "lr": optimizer.param_groups[0]["lr"]})
    run.tensorboard(at.step, {"batch_time": clock.batch_time, "data_time": clock.data_time})


def _mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan


def _cause(batch: Batch, result: StepResult) -> str:
    """Why a step failed, as far as its batch tells."""
    scenes = batch.get("scene_id", [])
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            broken = ~torch.isfinite(value.flatten(1)).all(1)
            if broken.any():
                which = [str(scenes[row]) for row in broken.nonzero()[:, 0].tolist() if row < len(scenes)]
                return f"{name} of {', '.join(which[:5]) or 'a scene'} holds NaN or infinity"
    is_loss = not math.isfinite(result.loss)
    what = f"the loss is {result.loss}" if is_loss else f"the gradient's norm is {result.gradient_norm}"
    return f"{what}, of a finite batch: try a lower optim.lr or runtime.precision=fp32"
