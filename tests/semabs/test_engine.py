"""A training step: what it minimises, clips and counts, and when it refuses."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from projects.semabs import engine, losses, optim
from projects.semabs.data import Batch, Split, open_split
from projects.semabs.model import build_network
from projects.semabs.run_state import Progress
from shared.data import BatchPlan
from shared.errors import InputError
from shared.runtime import Runtime

HERE = Runtime(torch.device("cpu"))
BOUNDS = [[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]]
ITEMS = {"num_patches": 2, "num_descs": 2, "num_input_pts": 200, "num_output_pts": 100, "mean_of": "own"}
OPTIM = {
    "kind": "lamb", "lr": 0.01, "weight_decay": 0.0, "schedule": "cosine_with_restarts", "warmup": 4, "epochs": 3,
    "steps": None, "schedule_batch": None,
}  # fmt: skip


def opened(root: Path, task: str, **options: Any) -> Split:
    return open_split(root=root, split="train", task=task, items=ITEMS, voxel_shape=(8, 8, 8), **options)


def small(task: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(
        task=task, voxel_shape=(8, 8, 8), bounds=BOUNDS, pts_feat_hidden=8, pointing_dim=8, text_dim=64,
        unet={"f_maps": 4, "channels": 8, "groups": 4, "levels": 2}, **options,
    )  # fmt: skip


@pytest.fixture
def batch(rooms_root: Path) -> Batch:
    """Two scenes; one has fewer labels than the items have places."""
    found = opened(rooms_root, "ovssc").fetch_train(BatchPlan(0, 0, np.array([1, 0])))
    found["patch_labels"][1][1] = ""
    return found


def step(network: nn.Module, batch: Batch, **options: Any) -> engine.StepResult:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    return engine.train_step("ovssc", network, optimizer, batch, runtime=HERE, **options)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_a_step_minimises_the_loss_of_the_points_that_count(batch: Batch) -> None:
    network = small("ovssc")
    found = step(network, batch, clip=None)
    with torch.no_grad():
        logits = network(**batch)
    ignored = losses.ignored_points(
        "ovssc", batch["patch_labels"], batch["out_of_bounds_pts"], batch["out_of_frustum_pts_mask"]
    )
    assert ignored[1, 1].all()
    assert 0 < int(ignored.sum()) < ignored.numel()
    expected = losses.occupancy_loss(logits, batch["output_label_pts"], ignored)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.gradient_norm == pytest.approx(float(gradients(network).norm()), rel=1e-5)
    assert torch.equal(found.ignored, ignored)


def test_the_gradient_is_clipped_as_a_whole(batch: Batch) -> None:
    free, clipped = small("ovssc"), small("ovssc")
    norm = step(free, batch, clip=None).gradient_norm
    result = step(clipped, batch, clip=norm / 3)
    torch.testing.assert_close(gradients(clipped), gradients(free) / 3, rtol=1e-4, atol=1e-8)
    assert result.gradient_norm == pytest.approx(norm)
    numbers = engine.numbers(result, batch, bounds=BOUNDS, clip=norm / 3)
    assert numbers["gradnorm"] == pytest.approx(norm / 3), "the released logs have it after clipping"
    assert set(numbers) == {"loss", "accuracy", "point_iou", "voxel32x32x32_iou", "gradnorm"}


def test_iou_of_a_step_is_of_what_lies_above_the_released_cutoff(batch: Batch) -> None:
    result = step(small("ovssc"), batch)
    ious = []
    for logits, labels, ignored in zip(
        result.logits.flatten(0, 1), batch["output_label_pts"].flatten(0, 1), result.ignored.flatten(0, 1),
        strict=True,
    ):  # fmt: skip
        predicted, wanted = (logits > -1)[~ignored], labels[~ignored].bool()
        if either := int((predicted | wanted).sum()):
            ious.append(int((predicted & wanted).sum()) / either)
    found = engine.numbers(result, batch, bounds=BOUNDS, clip=None)
    assert found["point_iou"] == pytest.approx(np.mean(ious))


def test_the_vool_loss_is_over_all_points(rooms_root: Path) -> None:
    batch = opened(rooms_root, "vool").fetch_train(BatchPlan(0, 0, np.array([0])))
    batch["spatial_relation_name"][0][1] = "[pad]"
    network = small("vool")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    found = engine.train_step("vool", network, optimizer, batch, runtime=HERE)
    with torch.no_grad():
        expected = losses.occupancy_loss(network(**batch), batch["output_label_pts"])
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.ignored.any()


def test_steps_are_counted_where_released_networks_count_them(batch: Batch) -> None:
    network = small("ovssc")
    step(network, batch)
    step(network, batch)
    assert float(network.steps) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("input_feature_pts", math.nan, "input_feature_pts of {scene} holds NaN"),
        ("input_xyz_pts", math.inf, "input_xyz_pts of {scene} holds NaN or infinity"),
    ],
)
def test_a_broken_item_stops_before_the_step_and_is_named(
    batch: Batch, name: str, value: float, words: str
) -> None:
    batch[name][1].view(-1)[:50] = value
    network = small("ovssc")
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    with pytest.raises(InputError, match="epoch 3") as refusal:
        engine.train_step("ovssc", network, optimizer, batch, runtime=HERE, where="epoch 3")
    assert words.format(scene=batch["scene_id"][1]) in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_diverged_network_stops_before_the_step(batch: Batch) -> None:
    network = small("ovssc")
    with torch.no_grad():
        network.visual_sampler.mlp[-1].bias.fill_(math.nan)  # type: ignore[union-attr,index]
    with pytest.raises(InputError, match="the loss is nan, of a finite batch: try a lower"):
        step(network, batch)


def test_a_few_steps_learn(rooms_root: Path) -> None:
    """Also that a restarted optimizer and schedule would be noticed: the rate rises from 0."""
    split, network = opened(rooms_root, "ovssc"), small("ovssc")
    optimizer = optim.build_optimizer(network.parameters(), OPTIM)
    length = optim.length_of(OPTIM | {"steps": 20}, scenes=4, steps_per_epoch=2)
    schedule = optim.build_schedule(optimizer, OPTIM, length)
    found, rates = [], []
    for number in range(length.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        batch = split.fetch_train(BatchPlan(number // 2, 0, np.arange(2) + number % 2 * 2))
        found.append(engine.train_step("ovssc", network, optimizer, batch, runtime=HERE).loss)
        schedule.step()
    assert np.mean(found[-4:]) < 0.9 * np.mean(found[:4])
    assert rates[:5] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01])


def test_length_of_a_run() -> None:
    def length(**options: Any) -> tuple[int, int, int]:
        found = optim.length_of({**OPTIM, **options}, scenes=21, steps_per_epoch=5)
        return found.steps, found.epochs, found.schedule

    assert length() == (15, 3, 15)
    assert length(steps=11) == (11, 3, 11)
    assert length(steps=10) == (10, 2, 10)
    assert length(schedule_batch=1) == (15, 3, 63), "as long as one process would run"
    assert length(schedule_batch=2) == (15, 3, 30)


def test_means_of_an_epoch_leave_nan_out() -> None:
    at = Progress()
    at.advance({"loss": 1.0, "point_iou": math.nan})
    at.advance({"loss": 2.0, "point_iou": 0.5})
    assert (at.step, at.step_in_epoch) == (2, 2)
    assert at.end_epoch() == {"loss_mean": 1.5, "point_iou_mean": 0.5}
    assert (at.epoch, at.step_in_epoch, at.sums) == (1, 0, {})
