"""The pieces of the GAN's training: one step of both networks, validation by retrieval, where a run stands.

B: batch, over all ranks   b: this rank's rows of it   D: joint space   C: condition   S: side of the image
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.xmrs import gan_losses as losses
from projects.xmrs import retrieval, synthesis
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.frozen_encoder import FrozenEncoder, features
from projects.xmrs.gan_data import GanBatch, GanSplit
from projects.xmrs.gan_schedule import automatic_drop, set_rate
from projects.xmrs.generator import Generator
from shared import collectives, data
from shared.batch_norm import synchronize_batch_norm
from shared.errors import InputError
from shared.runtime import Runtime

RECALLS = ("r1", "r5", "r10")
BETAS = (0.5, 0.999)


@dataclass
class Progress:
    """Where a run stands: all that its checkpoint needs besides weights, optimizers and random state.

    Attributes:
        epoch, step_in_epoch, step: epochs done, steps done in this one, steps in all.
        best: metrics of the best validation, with its `epoch` (from 1).
        drops: how often the automatic rule has halved the learning rates.
        trace: a row of trace_GAN.csv for each validation.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    drops: int = 0
    trace: list[list[float]] = field(default_factory=list)

    def position(self, steps_per_epoch: int) -> int:
        """Steps of this run's schedule that lie behind."""
        return self.epoch * steps_per_epoch + self.step_in_epoch

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.step_in_epoch += 1

    def end_epoch(self, found: dict[str, float] | None, rate: float) -> bool:
        """The epoch is over, with its validation or None; True when it is the best so far.

        Better is whose R@1, else R@5, else R@10 is above the best epoch's (the released rule).
        """
        self.epoch += 1
        self.step_in_epoch = 0
        if found is None:
            return False
        self.trace.append([self.epoch, rate, found["medr"], *(found[name] for name in RECALLS)])
        improved = any(found[name] > self.best.get(name, -1.0) for name in RECALLS)
        if improved:
            self.best = {**found, "epoch": self.epoch}
        return improved

    def drop_if_due(self, optim: Mapping[str, Any]) -> None:
        """Count a halving of the learning rates where the automatic rule of the `optim` section wants one."""
        times, after = optim["auto_drop_times"], optim["auto_drop_after_epochs"]
        best = int(self.best.get("epoch", 0))
        if optim["auto_drop"] and automatic_drop(
            self.epoch, best, self.drops, times=times, after_epochs=after
        ):
            self.drops += 1


@dataclass(frozen=True)
class Networks:
    """What a step trains, and the frozen image encoder that judges it."""

    generator: Generator
    discriminator: Discriminator
    encoder: FrozenEncoder
    of_generator: torch.optim.Optimizer
    of_discriminator: torch.optim.Optimizer

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "of_generator": self.of_generator,
            "of_discriminator": self.of_discriminator,
        }

    def set_rates(self, generator: float, discriminator: float) -> None:
        """Set both learning rates."""
        set_rate(self.of_generator, generator)
        set_rate(self.of_discriminator, discriminator)


def build_networks(
    generator: Generator,
    discriminator: Discriminator,
    encoder: FrozenEncoder,
    runtime: Runtime,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    sync_batchnorm: bool = False,
) -> Networks:
    """Networks on the device with their optimizers (Adam, betas .5 and .999)."""
    generator, discriminator = generator.to(runtime.device), discriminator.to(runtime.device)
    encoder = encoder.to(runtime.device)
    # fastest measured: on a CPU the generator's norms and gates want whole channels, the rest wants pixels
    discriminator.to(memory_format=torch.channels_last)
    if runtime.device.type == "cuda":
        generator.to(memory_format=torch.channels_last)
    for network in (generator, discriminator):
        if sync_batchnorm and runtime.world_size > 1:
            synchronize_batch_norm(network)
        network.train()
    how: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "betas": BETAS, "fused": True}
    return Networks(
        generator,
        discriminator,
        encoder,
        torch.optim.Adam(generator.parameters(), **how),
        torch.optim.Adam(discriminator.parameters(), **how),
    )


@dataclass(frozen=True)
class LossWeights:
    """Factors of the generator's losses; those of the adversary and of the classes are 1.

    Attributes:
        kl: of the condition's divergence.
        image_cycle: E(fake) to the embedding of the real image (released W_IMG_IMG_COS_LOSS).
        recipe_cycle: E(fake) to the recipe's embedding (released W_IMG_REC_COS_LOSS).
    """

    kl: float = 2.0
    image_cycle: float = 32.0
    recipe_cycle: float = 32.0


@dataclass(frozen=True)
class Counts:
    """Rows of the global batch, and how many of them have a class: on the device, so that nobody waits."""

    rows: Tensor
    labelled: Tensor


def batches(
    split: GanSplit, plans: Iterable[data.BatchPlan], runtime: Runtime, *, workers: int | None = None
) -> Iterator[GanBatch]:
    """The plans' training batches on the device."""
    pinned = runtime.device.type == "cuda"
    for batch in data.load(split.fetch_train, plans, workers=workers, pin_memory=pinned):
        yield data.to_device(batch, runtime.device)


def train_step(
    networks: Networks, batch: GanBatch, *, weights: LossWeights, runtime: Runtime, where: str = "training"
) -> dict[str, float]:
    """One step of the discriminator, then one of the generator against the new discriminator.

    batch: this rank's share, on the device. Returns the losses of the global batch: `discriminator`,
    `generator` and the generator's terms before their factors.

    Raises:
        InputError: a loss that is not finite; the optimizer whose turn it was has changed nothing.
    """
    counts = count(batch.classes)
    with runtime.autocast():
        fake, mu, log_variance = networks.generator(batch.recipe_embeddings, batch.noise, batch.draws)
    fake, mu, log_variance = fake.float(), mu.float(), log_variance.float()

    judge = networks.discriminator
    loss = discriminator_loss(judge, batch, fake.detach(), mu.detach(), counts, runtime)
    found = {"discriminator": _stepped(networks.of_discriminator, loss, {}, f"{where}, discriminator")[0]}

    judge.requires_grad_(False)  # the gradients that the release computes here are thrown away
    try:
        terms = generator_terms(networks, batch, fake, mu, log_variance, counts, weights, runtime)
        loss = total(terms, weights)
        of_loss, of_terms = _stepped(networks.of_generator, loss, terms, f"{where}, generator")
    finally:
        judge.requires_grad_(True)
    return {**found, "generator": of_loss, **of_terms}


def count(classes: Tensor) -> Counts:
    """Rows and labelled rows of the global batch, from this rank's classes [b]."""
    labelled = (classes != losses.BACKGROUND).sum()
    rows, labelled = collectives.all_reduce_sum_with_grad(
        torch.stack([torch.full_like(labelled, len(classes)), labelled])
    )
    return Counts(rows, labelled)


def discriminator_loss(
    judge: Discriminator, batch: GanBatch, fake: Tensor, mu: Tensor, counts: Counts, runtime: Runtime
) -> Tensor:
    """Real ones as real, fakes [b, 3, S, S] as fake, and the classes of both.

    Two passes, as released: batch norm sees either kind by itself. mu: conditions [b, C].
    """
    with runtime.autocast():
        real_probability, real_scores = judge(batch.images, mu)
        fake_probability, fake_scores = judge(fake, mu)
    return (
        losses.real_or_fake(real_probability, True, rows=counts.rows)
        + losses.real_or_fake(fake_probability, False, rows=counts.rows)
        + losses.semantic(real_scores, batch.classes, labelled=counts.labelled)
        + losses.semantic(fake_scores, batch.classes, labelled=counts.labelled)
    )


def generator_terms(
    networks: Networks,
    batch: GanBatch,
    fake: Tensor,
    mu: Tensor,
    log_variance: Tensor,
    counts: Counts,
    weights: LossWeights,
    runtime: Runtime,
) -> dict[str, Tensor]:
    """adversarial, semantic, kl, and image_cycle and recipe_cycle unless their weights are 0."""
    with runtime.autocast():
        probability, scores = networks.discriminator(fake, mu)
    terms = {
        "adversarial": losses.real_or_fake(probability, True, rows=counts.rows),
        "semantic": losses.semantic(scores, batch.classes, labelled=counts.labelled),
        "kl": losses.divergence(mu, log_variance, rows=counts.rows),
    }
    if weights.image_cycle or weights.recipe_cycle:
        with runtime.autocast():
            seen = networks.encoder(fake)
        wanted = {"image_cycle": batch.image_embeddings, "recipe_cycle": batch.recipe_embeddings}
        for name, target in wanted.items():
            if getattr(weights, name):
                terms[name] = losses.cosine_distance(seen.float(), target, rows=counts.rows)
    return terms


def total(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The generator's loss."""
    factors = {"kl": weights.kl, "image_cycle": weights.image_cycle, "recipe_cycle": weights.recipe_cycle}
    weighted = [factors.get(name, 1.0) * term for name, term in terms.items()]
    return torch.stack(weighted).sum()


def _stepped(
    optimizer: torch.optim.Optimizer, loss: Tensor, terms: dict[str, Tensor], where: str
) -> tuple[float, dict[str, float]]:
    """Backward and one step; the loss and its terms of the global batch."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    collectives.all_reduce_gradients(p for group in optimizer.param_groups for p in group["params"])
    values = torch.stack([loss.detach(), *(term.detach() for term in terms.values())])
    first, *others = collectives.all_reduce_sum_with_grad(values).tolist()  # the only wait for the device
    if not math.isfinite(first):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(terms, others, strict=True))
        raise InputError(
            f"{where}: the loss is {first}{f' ({shown})' if shown else ''}: "
            "try a lower optim.learning_rate or runtime.precision=fp32"
        )
    optimizer.step()
    return first, dict(zip(terms, others, strict=True))


def validate(
    networks: Networks, split: GanSplit, runtime: Runtime, *, medr: int, seed: int, batch_size: int
) -> dict[str, float]:
    """Recipes found by their synthesised images (ten subsets of `medr`), and mean cosines; on every rank.

    The noise of a recipe is the same in every validation of a run, so that epochs can be compared.
    """
    collectives.broadcast_buffers(networks.generator)
    found = embed_synthesised(
        networks.generator, networks.encoder, split.recipes, runtime, seed=seed, batch_size=batch_size
    )
    metrics: dict[str, float] = {}
    if runtime.is_main:
        ranked = retrieval.rank(found, split.recipes, size=medr)
        metrics = {name: ranked[name] for name in ("medr", *RECALLS)}
        metrics["cos_recipe"] = float((found * split.recipes).sum(1).mean())
        metrics["cos_image"] = float((found * split.images).sum(1).mean())
    return dict(collectives.gather_objects(metrics)[0])


def embed_synthesised(
    generator: Generator,
    encoder: FrozenEncoder,
    recipes: np.ndarray,
    runtime: Runtime,
    *,
    seed: int,
    batch_size: int,
    zero_noise: bool = False,
) -> np.ndarray:
    """E of the images of recipe embeddings [N, D]: float32 [N, D] on every rank, without files between."""
    plans = data.eval_plans(len(recipes), batch_size, rank=runtime.rank, world_size=runtime.world_size)
    rows = np.concatenate([np.zeros(0, np.int64), *(plan.indices for plan in plans)])
    made = synthesis.batches(
        generator, recipes, rows=rows, seed=seed, zero_noise=zero_noise, batch_size=batch_size
    )
    with runtime.autocast():
        own = [features(encoder, images) for _, images in made]
    parts = torch.cat(own) if own else torch.zeros(0, recipes.shape[1], device=runtime.device)
    embedded: np.ndarray = collectives.all_gather_rows(parts).cpu().numpy()
    return embedded
