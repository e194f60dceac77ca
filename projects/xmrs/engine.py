"""The pieces of training: one optimizer step, validation, and what is written about them.

B: batch, over all ranks   b: this rank's rows of it   L: tokens   D: joint space
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from projects.xmrs import retrieval
from projects.xmrs.data import Batch, Split
from projects.xmrs.encoding import encode_images, encode_recipes
from projects.xmrs.losses import batch_hard_loss
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.run_state import RECALLS, Progress
from projects.xmrs.word_table import compact
from shared import collectives, data
from shared.batch_norm import synchronize_batch_norm
from shared.errors import InputError
from shared.log import Run
from shared.runtime import Runtime, seed_everything


@dataclass(frozen=True)
class StepResult:
    """The loss over the global batch, the gradient's norm, mean distances to positives and negatives."""

    loss: float
    gradient_norm: float
    positive: float
    negative: float


def prepare(
    model: FoodSpaceNet,
    runtime: Runtime,
    *,
    seed: int,
    sync_batchnorm: bool,
    word_table: np.ndarray | None = None,
) -> None:
    """Make a new model ready to be trained here.

    Batch norm over all ranks where wanted, dropout of its own on each rank; with `word_table` (token ids that
    occur in the set) only the embeddings of these train: equal, and less work.
    """
    if word_table is not None:
        compact(model, word_table)
    if sync_batchnorm and runtime.world_size > 1:
        synchronize_batch_norm(model)
    if runtime.world_size > 1:  # the weights are drawn already, the same on all ranks
        seed_everything((seed + 1) * 1_000_003 + runtime.rank)
    model.train()


def summary(found: dict[str, float]) -> str:
    """A validation in a line."""
    recalls = ", ".join(f"R@{k} {100 * found[f'r{k}']:.1f}" for k in (1, 5, 10))
    return f"medR {found['medr']:.1f}, {recalls}"


def batches(
    split: Split, plans: Iterable[data.BatchPlan], runtime: Runtime, *, workers: int | None = None
) -> Iterator[tuple[Batch, data.Clock]]:
    """The plans' training batches on the device, each with the clock of its step."""
    return data.timed_batches(split.fetch_train, plans, runtime.device, workers=workers)


def train_step(
    model: FoodSpaceNet,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    runtime: Runtime,
    margin: float = 0.3,
    hardest: bool = True,
    intra_modal: bool = True,
    symmetric: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    where: str = "training",
) -> StepResult:
    """One optimizer step on this rank's share of a global batch (already on the device).

    Negatives are mined over the rows of all ranks.

    Args:
        model, optimizer, batch, runtime: what, how, on what, where.
        margin, hardest, intra_modal, symmetric: of the loss (see `batch_hard_loss`).
        scaler: loss scaling, for fp16.
        where: the place in the run, for the message of an error.

    Raises:
        InputError: a loss or gradient that is not finite, and why; the optimizer has changed nothing.
    """
    scaler = scaler or torch.amp.GradScaler(runtime.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)
    with runtime.autocast():
        images = model.encode_images(batch.images).float()
        recipes = model.encode_recipes(batch.tokens, batch.lengths).float()
    loss, positive, negative = batch_hard_loss(
        collectives.all_gather_with_grad(images),
        collectives.all_gather_with_grad(recipes),
        margin=margin,
        hardest=hardest,
        intra_modal=intra_modal,
        symmetric=symmetric,
    )
    scaler.scale(loss).backward()

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    collectives.all_reduce_gradients(parameters)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    values = torch.stack([loss.detach(), norm.to(loss), positive.detach(), negative.detach()])
    result = StepResult(*values.tolist())  # the only wait for the device
    finite = math.isfinite(result.loss) and (math.isfinite(result.gradient_norm) or scaler.is_enabled())
    if not finite:
        raise InputError(f"{where}: {_cause(batch, result)}")
    scaler.step(optimizer)  # with fp16 a gradient that overflowed is skipped, and the scale lowered
    scaler.update()
    return result


def record(
    run: Run, at: Progress, optimizer: torch.optim.Optimizer, result: StepResult, clock: data.Clock
) -> None:
    """Write a step's numbers; `loss` and `cos_loss` are the released names of one value."""
    rates = {f"lr_{group['name']}": group["lr"] for group in optimizer.param_groups}
    values = {"epoch": at.epoch + 1, "loss": result.loss, "grad_norm": result.gradient_norm, **rates}
    run.scalars(at.step, {**values, "positive": result.positive, "negative": result.negative})
    times = {"batch_time": clock.batch_time, "data_time": clock.data_time}
    run.tensorboard(at.step, {**times, "cos_loss": result.loss})


def validate(
    model: FoodSpaceNet,
    split: Split,
    runtime: Runtime,
    *,
    loss: dict[str, Any],
    medr: int = 1000,
    query: str = "image",
    batch_size: int = 20,
    workers: int | None = None,
) -> dict[str, float]:
    """Retrieval in ten subsets and the loss over batches of a split, the same on every rank.

    Args:
        model, split, runtime: what, of what, where.
        loss: keyword arguments of `batch_hard_loss`.
        medr: size of the subsets (released `--medr`).
        query: image or recipe: what searches (released `--embtype`).
        batch_size, workers: of loading; the loss is the mean over batches of `batch_size`.
    """
    collectives.broadcast_buffers(model)  # the released code keeps those of replica 0 as well
    loading: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
    images = encode_images(model, split, runtime, **loading)
    recipes = encode_recipes(model, split, runtime, **loading)
    model.train()
    found: dict[str, float] = {}
    if runtime.is_main:
        pair = (images, recipes) if query == "image" else (recipes, images)
        ranking = retrieval.rank(*pair, size=medr)
        found = {name: float(ranking[name]) for name in ("medr", *RECALLS)}
        found["loss"] = mean_loss(images, recipes, batch_size=batch_size, **loss)
    return collectives.gather_objects(found)[0]


def mean_loss(images: np.ndarray, recipes: np.ndarray, *, batch_size: int, **loss: Any) -> float:
    """The loss over consecutive batches of embeddings [N, D], averaged; a last batch of one pair is left out."""
    values = [
        batch_hard_loss(
            torch.from_numpy(images[start : start + batch_size]),
            torch.from_numpy(recipes[start : start + batch_size]),
            **loss,
        )[0].item()
        for start in range(0, len(images), batch_size)
        if len(images) - start > 1
    ]
    return float(np.mean(values))


def record_validation(run: Run, at: Progress, found: dict[str, float]) -> None:
    """Write a validation's numbers under the released names."""
    named = {"val_loss": found["loss"], "val_medR": found["medr"]}
    named |= {f"recall_{k}": found[f"r{k}"] for k in (1, 5, 10)}
    run.scalars(at.step, {**named, "recall_1-5-10": sum(found[name] for name in RECALLS)})


def report_unreadable(run: Run, splits: Iterable[Split]) -> None:
    """Count the photos that could not be read as warnings of the run."""
    for split in splits:
        for line in split.newly_unreadable():
            run.warn("unreadable image", f"{line}; a white image stands in")


def _cause(batch: Batch, result: StepResult) -> str:
    """Why a step failed, as far as its batch tells."""
    broken = ~torch.isfinite(batch.images.flatten(1)).all(1)
    if broken.any():
        return f"the pixels of training pairs {batch.indices[broken].tolist()[:5]} hold NaN or infinity"
    is_loss = not math.isfinite(result.loss)
    what = f"the loss is {result.loss}" if is_loss else f"the gradient's norm is {result.gradient_norm}"
    return f"{what}, of a finite batch: try a lower optim.learning_rate or runtime.precision=fp32"
