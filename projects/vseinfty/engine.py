"""The pieces of training: opening the data, one optimizer step, validation, and where a run stands.

B: batch, over all ranks   b: this rank's rows of it   N: regions or grids   L: tokens   E: joint space
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from projects.vseinfty import metrics
from projects.vseinfty.cached_embeddings import CachedEmbeddings, RunningStatistics, chunk_slices
from projects.vseinfty.captions import build_tokenizer
from projects.vseinfty.data import Batch, DataSet, Split
from projects.vseinfty.distributed import pad_to_global_maximum, synchronize_batch_norm
from projects.vseinfty.encoding import encode_captions, encode_images, length_buckets
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.model import VSEModel
from shared import collectives, data
from shared.errors import InputError
from shared.log import Run
from shared.runtime import Runtime, seed_everything

__all__ = [
    "Progress",
    "StepResult",
    "batches",
    "encode_captions",
    "encode_images",
    "forward_and_backward",
    "length_buckets",
    "open_data",
    "prepare",
    "record",
    "train_step",
    "validate",
]


@dataclass
class Progress:
    """Where a run stands: all that its checkpoint needs besides weights, optimizer and random state."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0  # optimizer steps in all, the released `Eiters`
    best_rsum: float = -1.0
    best: dict[str, float] = field(default_factory=dict)  # dev metrics of the best epoch

    def position(self, steps_per_epoch: int) -> int:
        """Steps of this run's schedule that lie behind."""
        return self.epoch * steps_per_epoch + self.step_in_epoch

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.step_in_epoch += 1

    def end_epoch(self, dev_metrics: dict[str, float]) -> bool:
        """The epoch is validated; True when it is the best so far by rsum (of equal ones the first)."""
        improved = bool(dev_metrics["rsum"] > self.best_rsum)
        if improved:
            self.best_rsum = dev_metrics["rsum"]
            self.best = {**dev_metrics, "epoch": self.epoch}
        self.epoch += 1
        self.step_in_epoch = 0
        return improved


@dataclass(frozen=True)
class StepResult:
    """The loss (unscaled sum over the global batch) and the gradient's norm before clipping."""

    loss: float
    gradient_norm: float


def open_data(dataset: DataSet, model_settings: Mapping[str, Any], *, seed: int) -> tuple[Split, Split, int]:
    """The training and the dev split for a model of these settings, and the size of the vocabulary.

    Args:
        dataset: the set; made on first use where it is embedded data.
        model_settings: keyword arguments of `build_model`.
        seed: of all augmentation.

    Raises:
        InputError: the set, its vocabulary or a file of it is missing or does not fit.
    """
    dataset.prepare()
    tokenizer = build_tokenizer(
        text_encoder=model_settings["text_encoder"],
        vocab_path=dataset.vocab_path,
        bert=model_settings["bert"],
    )
    opening = {
        "tokenizer": tokenizer,
        "backbone": model_settings["backbone"],
        "image_dim": model_settings["image_dim"],
    }
    train = dataset.open(dataset.train_split, seed=seed, **opening)
    return train, dataset.open(dataset.dev_split, **opening), tokenizer.vocab_size


def prepare(model: VSEModel, runtime: Runtime, *, seed: int, sync_batchnorm: bool, compiled: bool) -> None:
    """Make a new model ready to be trained here.

    Batch norm over all ranks where wanted, compiled encoders where wanted, dropout of its own on each rank.
    """
    if sync_batchnorm and runtime.world_size > 1:
        synchronize_batch_norm(model)
    if compiled:  # in place: the parameters' names stay; lengths differ from batch to batch
        model.img_enc.compile(dynamic=True)
        model.txt_enc.compile(dynamic=True)
    if runtime.world_size > 1:  # the weights are drawn already, the same on all ranks
        seed_everything((seed + 1) * 1_000_003 + runtime.rank)
    model.train()


def batches(
    split: Split, plans: Iterable[data.BatchPlan], runtime: Runtime, *, workers: int | None = None
) -> Iterator[tuple[Batch, data.Clock]]:
    """The plans' training batches on the device, each with the clock of its step."""
    return data.timed_batches(split.fetch_train, plans, runtime.device, workers=workers)


def train_step(
    model: VSEModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    runtime: Runtime,
    margin: float,
    hardest: bool,
    scaler: torch.amp.GradScaler | None = None,
    loss_scale: float = 1.0,
    grad_clip: float = 2.0,
    micro_batch: int | None = None,
    where: str = "training",
) -> StepResult:
    """One optimizer step on this rank's share of a global batch (already on the device).

    The released order: forward, loss over the whole batch, backward, clip over all parameters, step.

    Args:
        model, optimizer, batch, runtime: what, how, on what, where.
        margin, hardest: of the loss (see `triplet_loss`).
        scaler: loss scaling, for fp16.
        loss_scale: factor of the loss (see `Schedule`); the result's loss is without it.
        grad_clip: largest norm of the gradient; <= 0 switches clipping off.
        micro_batch: rows encoded at a time (see `cached_embeddings`); None = all.
        where: the place in the run, for the message of an error.

    Raises:
        InputError: a loss or gradient that is not finite, and why; the optimizer has changed nothing.
    """
    scaler = scaler or torch.amp.GradScaler(runtime.device.type, enabled=False)
    optimizer.zero_grad(set_to_none=True)

    def backward(images: Tensor, captions: Tensor) -> Tensor:
        all_images = collectives.all_gather_with_grad(images)
        all_captions = collectives.all_gather_with_grad(captions)
        loss = triplet_loss(all_images, all_captions, margin=margin, hardest=hardest)
        scaler.scale(loss * loss_scale).backward()
        return loss.detach()

    loss = forward_and_backward(model, batch, backward, runtime=runtime, micro_batch=micro_batch)

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    collectives.all_reduce_gradients(parameters)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    loss_value, norm_value = torch.stack([loss, norm.to(loss)]).tolist()  # the only wait for the device
    if not math.isfinite(loss_value) or not (math.isfinite(norm_value) or scaler.is_enabled()):
        raise InputError(f"{where}: {_cause(batch, loss_value, norm_value)}")
    scaler.step(optimizer)  # with fp16 a gradient that overflowed is skipped, and the scale lowered
    scaler.update()
    return StepResult(loss_value, norm_value)


def forward_and_backward(
    model: VSEModel,
    batch: Batch,
    backward: Callable[[Tensor, Tensor], Tensor],
    *,
    runtime: Runtime,
    micro_batch: int | None = None,
) -> Tensor:
    """Encode this rank's rows, call `backward(images [b, E], captions [b, E])` -> loss, fill gradients."""
    num_rows = len(batch.captions)
    regions = batch.images if batch.image_lengths is None else pad_to_global_maximum(batch.images)

    def images_of(rows: slice) -> Tensor:
        draws = None if batch.grid_draws is None else (batch.grid_draws[0][rows], batch.grid_draws[1][rows])
        lengths = None if batch.image_lengths is None else batch.image_lengths[rows]
        with runtime.autocast():
            return model.encode_images(regions[rows], lengths, draws).float()

    def captions_of(rows: slice) -> Tensor:
        with runtime.autocast():
            return model.encode_captions(batch.captions[rows], batch.caption_lengths[rows]).float()

    if micro_batch is None or num_rows <= micro_batch:
        return backward(images_of(slice(0, num_rows)), captions_of(slice(0, num_rows)))

    slices = chunk_slices(num_rows, micro_batch)
    statistics = RunningStatistics(model, len(slices))
    with statistics.paused():
        images = CachedEmbeddings(images_of, slices, runtime.device)
        captions = CachedEmbeddings(captions_of, slices, runtime.device)
    loss = backward(images.embeddings, captions.embeddings)
    with statistics.one_update():
        images.backward(statistics)
        captions.backward(statistics)
    return loss


def record(
    run: Run, at: Progress, optimizer: torch.optim.Optimizer, result: StepResult, clock: data.Clock
) -> None:
    """Write a step's numbers under the released names (spec section 9); times go to TensorBoard alone."""
    values = {"epoch": at.epoch, "Eit": at.step, "lr": optimizer.param_groups[0]["lr"], "Le": result.loss}
    run.scalars(at.step, {**values, "grad_norm": result.gradient_norm})
    times = {"batch_time": clock.batch_time, "data_time": clock.data_time}
    run.tensorboard(at.step, {**times, "step": at.step_in_epoch})


def validate(
    model: VSEModel, split: Split, runtime: Runtime, *, batch_size: int = 128, workers: int | None = None
) -> dict[str, float]:
    """Retrieval metrics of a split under the released names (`r1 .. rsum`), the same on every rank."""
    collectives.broadcast_buffers(model)  # the released code keeps those of replica 0 as well
    images = encode_images(model, split, runtime, batch_size=batch_size, workers=workers)
    captions = encode_captions(model, split, runtime, batch_size=batch_size, workers=workers)
    per_image = split.num_captions // split.num_images
    found = metrics.retrieval(images, captions, captions_per_image=per_image) if runtime.is_main else {}
    return collectives.gather_objects(found)[0]


def _cause(batch: Batch, loss: float, norm: float) -> str:
    """Why a step failed, as far as its batch tells."""
    broken = ~torch.isfinite(batch.images.flatten(1)).all(1)
    if broken.any():
        images = sorted(set(batch.image_indices.to(broken.device)[broken].tolist()))
        return f"the features of training images {images[:5]} hold NaN or infinity"
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    return f"{what}, of a finite batch: try a lower optim.learning_rate or runtime.precision=fp32"
