"""What changes in the course of a run, read off a schedule as the training loop does."""

from typing import Any

import pytest
import torch

from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.optim import build_optimizer
from projects.vseinfty.schedule import Schedule
from shared.data import TrainSampler

PLAIN = {
    "lr_update": 15,
    "margin": 0.2,
    "max_violation": False,
    "vse_mean_warmup_epochs": 1,
    "embedding_warmup_epochs": 0,
    "backbone_warmup_epochs": 0,
}


def schedule(model: VSEModel | None = None, **changes: Any) -> Schedule:
    """10 steps an epoch."""
    model = model or build_model(embed_size=8, image_dim=4, vocab_size=10, word_dim=4)
    optimizer = build_optimizer(model, learning_rate=1e-2, gpo_lr_factor=3.0)
    return Schedule(model, optimizer, TrainSampler(47, 4, seed=0, drop_last=False), **{**PLAIN, **changes})


def rates(of: Schedule) -> list[float]:
    return [group["lr"] for group in of.optimizer.param_groups]


@pytest.mark.parametrize(("lr_update", "first_low"), [(1, 12), (1.5, 18), (0.25, 3), (9, None), (0, 0)])
def test_learning_rates_fall_at_a_part_of_an_epoch(lr_update: float, first_low: int | None) -> None:
    own = schedule(lr_update=lr_update)
    assert own.sampler.steps_per_epoch == 12
    for position in range(36):
        own.start_step(*divmod(position, 12))
        factor = 0.1 if first_low is not None and position >= first_low else 1.0
        assert rates(own) == pytest.approx([1e-2 * factor, 3e-2 * factor], rel=1e-12), position


def test_rates_depend_on_the_position_alone() -> None:
    """Spec quirk 12: the release decayed in epoch 15 alone, so a later resume trained at ten times the rate."""
    resumed = schedule(lr_update=1)
    resumed.start_step(7, 3)
    assert rates(resumed) == pytest.approx([1e-3, 3e-3])
    resumed.start_step(0, 0)
    assert rates(resumed) == pytest.approx([1e-2, 3e-2])


@pytest.mark.parametrize(("warmup", "first_hardest"), [(1, 12), (0.5, 6), (0, 0), (2.25, 27)])
def test_hardest_negatives_start_after_the_warm_up(warmup: float, first_hardest: int) -> None:
    own = schedule(vse_mean_warmup_epochs=warmup)
    found = [own.start_step(*divmod(position, 12))["hardest"] for position in range(36)]
    assert found == [position >= first_hardest for position in range(36)]


def test_max_violation_is_never_switched_off_by_the_warm_up() -> None:
    assert schedule(max_violation=True, vse_mean_warmup_epochs=5).start_step(0, 0)["hardest"]


def test_cnn_is_frozen_then_trained_and_the_loss_grows_in_between() -> None:
    torch.manual_seed(0)
    model = build_model(
        embed_size=8, image_encoder="grid", backbone="imagenet_res50", vocab_size=10, word_dim=4
    )
    own = schedule(model, embedding_warmup_epochs=1)
    scales, trainable = [], []
    for epoch in range(3):
        own.start_epoch(epoch)
        trainable.append({p.requires_grad for p in model.img_enc.backbone.parameters()})
        scales.append([own.start_step(epoch, step)["loss_scale"] for step in range(12)])
    assert trainable == [{False}, {True}, {True}]
    assert scales[0] == scales[2] == [1.0] * 12
    assert scales[1] == pytest.approx([step / (47 // 4 + 1) for step in range(12)])


def test_regions_have_no_loss_scale() -> None:
    assert schedule(embedding_warmup_epochs=1).start_step(1, 3)["loss_scale"] == 1.0
