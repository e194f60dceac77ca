"""Bench cases of training: a whole step at the released size, beside the released way and the machine's own rate.

The released step is restated plainly: every convolution as written, all masks refined and upsampled, the losses
of `bench_released`, Adam tensor by tensor, memory in pages of the usual size.
"""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from projects.babel import bench_released as released
from projects.babel import engine, objective, optim
from projects.babel.augmentation import denormalized
from projects.babel.bench_losses import IMAGE, NEGATIVES, PAIRS, POINTS, matches_and_draws
from projects.babel.bench_network import QUICK, released_forward
from projects.babel.classification_losses import classification_loss
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.data import Batch
from projects.babel.head import SingleStageNet
from projects.babel.matches import Draws
from projects.babel.model import build_model
from shared.bench import Case, Sides, Target
from shared.runtime import Runtime

WEIGHT, LEARNING_RATE = 0.3, 1e-5
MATRIX = 2048  # side of the products that measure the machine


@dataclass(frozen=True)
class Step:
    """What one side did.

    Attributes:
        loss: of a small batch without dropout, before any step: by that the sides are compared.
        seconds: of this step.
        flop: of the step's convolutions and products.
        rate: FLOP/s of large matrix products on this machine, in the side's precision.
    """

    loss: float
    seconds: float
    flop: float
    rate: float

    def __str__(self) -> str:
        share = self.flop / self.rate / self.seconds
        return (
            f"{self.flop / 1e12:.2f} TFLOP at {self.flop / self.seconds / 1e9:.0f} GFLOP/s, "
            f"{share:.0%} of the {self.rate / 1e9:.0f} of matrix products"
        )


def batch_of(pairs: int, points: int, side: int) -> tuple[Batch, Draws]:
    """Smooth random images, one label each."""
    torch.manual_seed(1)
    images = F.interpolate(torch.randn(2 * pairs, 3, 14, 14), side, mode="bilinear", align_corners=True)
    first = torch.arange(2 * pairs) % 10
    matches, draws = matches_and_draws(pairs, points, NEGATIVES)
    return Batch(images, F.one_hot(first, 10).float(), first, matches, torch.arange(2 * pairs)), draws


def training(quick: bool) -> Sides:
    """Forward, all three losses, backward and Adam step of a batch."""
    torch.manual_seed(0)
    settings: dict[str, Any] = QUICK if quick else {}
    start = build_model(**settings)
    assert isinstance(start, SingleStageNet)
    with torch.no_grad():  # masks as sharp as those of a trained net, so that the mask loss has its work
        start.last_conv.get_parameter("0.weight").mul_(5)
    size = (3, 4, 32) if quick else (PAIRS, POINTS, IMAGE)
    sides: Sides = {"released": released_side(copy.deepcopy(start), size)}
    for precision in ("fp32", "bf16"):
        sides[f"ours {precision}"] = our_side(copy.deepcopy(start), size, precision)
    return sides


def released_side(model: SingleStageNet, size: tuple[int, int, int]) -> Callable[[], Step]:
    """All of it as written."""
    small, small_draws = batch_of(2, *size[1:])
    with without_dropout(model):
        before = released_losses(model, small, small_draws, keep_all=True).item()
    flop = counted_flop(lambda net, images: released_forward(net, images)[1], model, size)
    rate = matrix_rate(torch.float32)
    batch, draws = batch_of(*size)
    groups = optim.parameter_groups(model, lr=LEARNING_RATE, weight_decay=5e-4)
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE, foreach=False, fused=False)

    @released.plain_pages()
    def step() -> Step:
        started = time.perf_counter()
        optimizer.zero_grad()
        released_losses(model, batch, draws).backward()
        optimizer.step()
        return Step(before, time.perf_counter() - started, flop, rate)

    return step


def released_losses(model: SingleStageNet, batch: Batch, draws: Draws, *, keep_all: bool = False) -> Tensor:
    """Classification, mask and 3D loss of a batch."""
    size = (batch.images.shape[2], batch.images.shape[3])
    keep = torch.ones((), dtype=torch.bool) if keep_all else None
    scores, logits, masks, features, *_ = released_forward(model, batch.images, keep)
    with torch.no_grad():
        refined = released.pamr(denormalized(batch.images), masks)
        pseudo = released.pseudo_ground_truth(released.cleaned(refined, batch.labels, size))
    of_class = classification_loss(scores, batch.labels)
    of_masks = released.mask_loss(logits, pseudo, batch.labels).mean()
    matching = released.correspondence(features, batch.matches, draws) / len(batch.matches.counts)
    return of_class + of_masks + WEIGHT * matching


def our_side(model: SingleStageNet, size: tuple[int, int, int], precision: str) -> Callable[[], Step]:
    """The step of train.py."""
    runtime = Runtime(torch.device("cpu"), precision)
    small, small_draws = batch_of(2, *size[1:])
    aim = objective.Objective(
        correspondence={
            "layer": "decoder",
            "weight": WEIGHT,
            "kind": "contrastive_easy",
            "negatives": NEGATIVES,
            "tau": 0.07,
            "normalize": True,
            "margin": 3.0,
        }
    )
    engine.prepare(model, runtime, seed=0, sync_batchnorm=False)
    with without_dropout(model), torch.no_grad():
        before = our_loss(model, small, small_draws, aim, runtime)
    flop = counted_flop(lambda net, images: net(images).logits, model, size)
    rate = matrix_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
    batch, _ = batch_of(*size)
    optimizer = optim.build_optimizer(model, lr=LEARNING_RATE)

    def step() -> Step:
        started = time.perf_counter()
        engine.train_step(model, optimizer, batch, aim, runtime=runtime, batch_size=size[0])
        return Step(before, time.perf_counter() - started, flop, rate)

    return step


def our_loss(
    model: SingleStageNet, batch: Batch, draws: Draws, aim: objective.Objective, runtime: Runtime
) -> float:
    """As a training step computes it, with given draws."""
    with runtime.autocast():
        keep = torch.ones((), dtype=torch.bool)
        output = model(batch.images, layers=("decoder",), keep=keep)
    loss, _ = objective.supervised_loss(model, output, batch, aim)
    matching, _ = correspondence_loss(
        output.features["decoder"], batch.matches, draws, batch_size=len(batch.matches.counts)
    )
    return float(loss + WEIGHT * matching)


class without_dropout:  # noqa: N801 - used as a statement
    """Inside, dropout does nothing and batch norm works as in training."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        self.shares = [layer.p for layer in self.layers]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.p = 0.0

    def __exit__(self, *_: object) -> None:
        for layer, share in zip(self.layers, self.shares, strict=True):
            layer.p = share


def counted_flop(
    forward: Callable[[SingleStageNet, Tensor], Tensor], model: SingleStageNet, size: tuple[int, int, int]
) -> float:
    """FLOP of the net's forward and backward pass; shapes only, nothing is computed."""
    shapes = copy.deepcopy(model).to("meta")
    images = torch.empty(2 * size[0], 3, size[2], size[2], device="meta")
    with FlopCounterMode(display=False) as counter:
        forward(shapes, images).sum().backward()
    return float(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOP/s of a product of large square matrices, the best of five."""
    a = torch.randn(MATRIX, MATRIX).to(dtype)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return 2 * MATRIX**3 / min(times)


def check_training(outputs: Mapping[str, Any]) -> str:
    """The losses of the weights that all sides start from."""
    expected = outputs["released"].loss
    for side, tolerance in (("ours fp32", 1e-3), ("ours bf16", 0.1)):
        found = outputs[side].loss
        assert abs(found / expected - 1) < tolerance, f"{side}: loss {found:.5f} is not {expected:.5f}"
    return "; ".join(f"{side}: loss {step.loss:.5f}, {step}" for side, step in outputs.items())


CASES = [
    Case(
        "train_step",
        f"training step of the ResNet-50 net: {PAIRS} pairs, {IMAGE} x {IMAGE} pixels, {POINTS} points each "
        "(huge pages for ours alone)",
        training,
        check_training,
        (
            Target("ours fp32", "released", 2.0),
            Target("ours bf16", "released"),
            Target("ours bf16", "ours fp32"),
        ),
    ),
]
