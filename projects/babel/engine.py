"""The pieces of training: one optimizer step, and what is written about it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from projects.babel.data import Batch, Split
from projects.babel.objective import Objective, matching_loss, supervised_loss
from projects.babel.outputs import Net
from projects.babel.run_state import Progress
from shared import collectives, data
from shared.batch_norm import synchronize_batch_norm
from shared.errors import InputError
from shared.log import Run
from shared.runtime import Runtime, seed_everything


@dataclass(frozen=True)
class StepResult:
    """A step's numbers, over the global batch.

    Attributes:
        loss: what was minimised.
        classification, foreground, mask, correspondence: L_cls, mean mask of the labelled concepts, mean L_mask,
            sum of L_NCE over the pairs / batch size; without their weights; 0 where not computed.
        points: matched points.
        gradient_norm: of all parameters.
    """

    loss: float
    classification: float
    foreground: float
    mask: float
    correspondence: float
    points: float
    gradient_norm: float


def optimizer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `build_optimizer`, from the `optim` section."""
    return {name: settings[name] for name in ("kind", "lr", "weight_decay", "betas", "momentum")}


def prepare(model: Net, runtime: Runtime, *, seed: int, sync_batchnorm: bool) -> None:
    """Make a new model ready to be trained here.

    Convolutions get the layout that is fast for them (channels last); with `sync_batchnorm` norms see all ranks;
    dropout is drawn apart on each rank.
    """
    model.to(memory_format=torch.channels_last)
    if sync_batchnorm and runtime.world_size > 1:
        synchronize_batch_norm(model)
    if runtime.world_size > 1:  # the weights are drawn already, the same on all ranks
        seed_everything((seed + 1) * 1_000_003 + runtime.rank)
    model.train()


def batches(
    split: Split, plans: Iterable[data.BatchPlan], runtime: Runtime, *, workers: int | None = None
) -> Iterator[tuple[Batch, data.Clock]]:
    """The plans' training batches on the device, each with the clock of its step."""
    return data.timed_batches(split.fetch_train, plans, runtime.device, workers=workers)


def train_step(
    model: Net,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    aim: Objective,
    *,
    runtime: Runtime,
    batch_size: int,
    draw_seed: tuple[int, int, int] = (0, 0, 0),
    scaler: torch.amp.GradScaler | None = None,
    where: str = "training",
) -> StepResult:
    """One optimizer step on this rank's share of a global batch (already on the device).

    Args:
        model, optimizer, batch, aim, runtime: what, how, on what, with which loss, where.
        batch_size: pairs of the global batch.
        draw_seed: (seed, epoch, step) of the draws of negatives.
        scaler: loss scaling, for fp16.
        where: the place in the run, for the message of an error.

    Raises:
        InputError: a loss or gradient that is not finite, and why; the optimizer has changed nothing.
    """
    scaler = scaler or torch.amp.GradScaler(runtime.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)
    wanted = aim.correspondence
    with runtime.autocast():
        output = model(batch.images, layers=(wanted["layer"],) if wanted else ())
    loss, parts = supervised_loss(model, output, batch, aim)
    if wanted:
        features = output.features[wanted["layer"]]
        term = matching_loss(features, batch.matches, wanted, batch_size=batch_size, draw_seed=draw_seed)
        loss = loss + wanted["weight"] * term
        parts[3] = term.detach()
    scaler.scale(loss).backward()

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    collectives.all_reduce_gradients(parameters)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    numbers = torch.stack([x.to(loss) for x in (loss.detach(), *parts, batch.matches.counts.sum())])
    sums = collectives.all_reduce_sum_with_grad(numbers)
    values: list[float] = torch.cat([sums, norm.to(sums)[None]]).tolist()  # waits for the device
    result = StepResult(*values)
    if not (math.isfinite(result.loss) and (math.isfinite(result.gradient_norm) or scaler.is_enabled())):
        raise InputError(f"{where}: {_cause(batch, result)}")
    scaler.step(optimizer)  # with fp16 a gradient that overflowed is skipped, and the scale lowered
    scaler.update()
    return result


def record(
    run: Run, at: Progress, optimizer: torch.optim.Optimizer, result: StepResult, clock: data.Clock
) -> None:
    """Write a step's numbers under the released names."""
    rates = {f"lr/enc_group_{i:02d}": group["lr"] for i, group in enumerate(optimizer.param_groups)}
    values = {
        "epoch": at.epoch,
        "data/loss": result.loss,
        "data/loss_cls": result.classification,
        "data/loss_fg": result.foreground,
        "data/loss_mask": result.mask,
        "data/loss_3d": result.correspondence,
        "data/kp number": result.points,
        "grad_norm": result.gradient_norm,
    }
    run.scalars(at.step, {**values, **rates})
    run.tensorboard(at.step, {"batch_time": clock.batch_time, "data_time": clock.data_time})


def _cause(batch: Batch, result: StepResult) -> str:
    """Why a step failed, as far as its batch tells."""
    broken = ~torch.isfinite(batch.images.flatten(1)).all(1)
    if broken.any():
        rows = batch.indices[broken].tolist()[:5]
        return f"the pixels of training images {rows} hold NaN or infinity"
    is_loss = not math.isfinite(result.loss)
    what = f"the loss is {result.loss}" if is_loss else f"the gradient's norm is {result.gradient_norm}"
    return f"{what}, of a finite batch: try a lower optim.lr or runtime.precision=fp32"
