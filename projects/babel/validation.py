"""Classification of the images of a split, and the loss that names the snapshots.

N: images   C: concepts
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from projects.babel.classification_scores import ClassificationScores, classification_scores
from projects.babel.data import ImageBatch, Split
from projects.babel.head import SingleStageNet
from projects.babel.mask_loss import mask_loss
from projects.babel.objective import Objective, pseudo_labels
from projects.babel.outputs import Net, Segmenter
from projects.babel.pooling import foreground_share
from projects.babel.run_state import Progress
from shared import collectives, data
from shared.encoding import encode_all
from shared.log import Run
from shared.runtime import Runtime

MAIN = "val"  # the split whose loss scores a snapshot: unseen landmarks


@dataclass(frozen=True)
class Validation:
    """Numbers of one split.

    Attributes:
        scores: average precision and accuracies.
        loss: mean L_cls, plus the weighted mean L_mask in epochs that train with it.
        parts: loss_cls, loss_fg (mean mask of the labelled concepts), loss_mask, as far as the net and epoch have them.
    """

    scores: ClassificationScores
    loss: float
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def checkpoint_score(self) -> float:
        """The released score of a snapshot."""
        return 1 - self.loss


def validate(
    model: Net,
    split: Split,
    objective: Objective,
    runtime: Runtime,
    *,
    multi_label: bool = False,
    random_crops: bool = False,
    epoch: int = 0,
    batch_size: int = 18,
    workers: int | None = None,
) -> Validation:
    """Evaluate every image once; the same on every rank.

    Args:
        model, split, objective, runtime: what, on what, with which loss, where.
        multi_label: all labels of an image are positives, instead of its first.
        random_crops: images are augmented as in training, other crops in each epoch (as released), instead of whole.
        epoch: of the random crops.
        batch_size, workers: of loading.
    """
    collectives.broadcast_buffers(model)  # without synchronised batch norm each rank has its own
    plans = [
        data.BatchPlan(epoch, plan.step, plan.indices)
        for plan in data.eval_plans(len(split), batch_size, rank=runtime.rank, world_size=runtime.world_size)
    ]

    def encode(batch: ImageBatch) -> Tensor:
        return scores_and_means(model, batch, objective)

    def fetch(plan: data.BatchPlan) -> ImageBatch:
        return split.fetch_val(plan, random_crops=random_crops)

    shape = (len(split), model.concepts + 2)
    rows = encode_all(model, encode, fetch, plans, shape, runtime, workers=workers)
    scores = torch.from_numpy(rows[:, :-2].copy())
    targets = torch.from_numpy(split.targets)
    of_class = float(objective.classify(scores, targets))
    of_masks, foreground = rows[:, -2:].mean(axis=0, dtype="float64").tolist()
    found = classification_scores(scores.numpy(), split.first, split.labels, multi_label=multi_label)
    parts = {"loss_cls": of_class}
    if isinstance(model, Segmenter):
        parts["loss_fg"] = foreground
    if objective.mask_weight > 0 and isinstance(model, SingleStageNet):
        parts["loss_mask"] = of_masks
    return Validation(found, of_class + objective.mask_weight * of_masks, parts)


def scores_and_means(model: Net, batch: ImageBatch, objective: Objective) -> Tensor:
    """[B, C + 2]: of each image the class scores, the mask loss, the mean mask of its concepts (0: has none)."""
    output = model(batch.images)
    losses = foreground = output.scores.new_zeros(len(output.scores))
    if output.masks is not None:
        foreground = foreground_share(output.masks, batch.labels)
    if objective.mask_weight > 0 and isinstance(model, SingleStageNet):
        assert output.masks is not None
        assert output.logits is not None
        target = pseudo_labels(model, batch.images, output.masks, batch.labels)
        losses = mask_loss(output.logits.float(), target, batch.labels)
    return torch.cat([output.scores.float(), losses.float()[:, None], foreground.float()[:, None]], 1)


def record(run: Run, at: Progress, found: dict[str, Validation], concepts: tuple[str, ...]) -> float:
    """Write what was found of each split under the released names; returns the checkpoint score."""
    values: dict[str, Any] = {"epoch": at.epoch}
    for name, one in found.items():
        values |= {f"{name}/{tag}": value for tag, value in one.scores.scalars(concepts).items()}
        values |= {f"{name}/all/{tag}": value for tag, value in {"loss": one.loss, **one.parts}.items()}
    score = found[MAIN].checkpoint_score
    values[f"{MAIN}/all/checkpoint_score"] = score
    run.scalars(at.step, values)
    return score


def metrics(found: dict[str, Validation], concepts: tuple[str, ...], *, epoch: int) -> dict[str, Any]:
    """Plain numbers for results.json: {split: {mAP, acc, ..., loss}, "score", "epoch"}."""
    of_splits = {name: {**one.scores.metrics(concepts), "loss": one.loss} for name, one in found.items()}
    return {**of_splits, "score": found[MAIN].checkpoint_score, "epoch": epoch}


def summary(found: dict[str, Validation]) -> str:
    """A validation in a line."""
    return ", ".join(
        f"{name}: mAP {100 * one.scores.mean_ap:.1f}, acc {100 * one.scores.acc:.1f}, loss {one.loss:.3f}"
        for name, one in found.items()
    )
