"""The losses against their definitions, patch by patch and point by point."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from projects.semabs.losses import accuracy, class_weights, ignored_points, occupancy_loss, scene_sums

SHAPE = (3, 4, 50)


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels (one patch empty, one full), and what is ignored (one patch wholly)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(SHAPE, generator=generator)
    labels = (torch.rand(SHAPE, generator=generator) < 0.2).float()
    labels[0, 1], labels[1, 2] = 0, 1
    ignored = torch.rand(SHAPE, generator=generator) < 0.3
    ignored[2, 3] = True
    return logits, labels, ignored


def naive_loss(logits: Tensor, labels: Tensor, ignored: Tensor, balanced: bool) -> float:
    """One mean over everything, in float64 and Python."""
    weights = np.ones(logits.shape)
    if balanced:
        for scene in range(len(logits)):
            for patch in range(logits.shape[1]):
                share = labels[scene, patch].double().mean().item()
                for point in range(logits.shape[2]):
                    of_class = share if labels[scene, patch, point] > 0 else 1 - share
                    weights[scene, patch, point] = 1 / (of_class + 1e-10)
        weights *= weights.size / weights.sum()
    total, count = 0.0, 0
    for index in np.ndindex(*logits.shape):
        if not ignored[index]:
            p = 1 / (1 + math.exp(-logits[index].item()))
            total -= float(weights[index]) * math.log(p if labels[index] > 0 else 1 - p)
            count += 1
    return total / count


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_one_mean_over_the_batch(given: tuple[Tensor, Tensor, Tensor], balanced: bool, masked: bool) -> None:
    logits, labels, ignored = given
    found = occupancy_loss(logits, labels, ignored if masked else None, balance_positive_negative=balanced)
    expected = naive_loss(logits, labels, ignored if masked else torch.zeros_like(ignored), balanced)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_mean_over_scenes_is_what_processes_of_one_scene_average(
    given: tuple[Tensor, Tensor, Tensor], balanced: bool
) -> None:
    parts = [
        naive_loss(logits[None], labels[None], ignored[None], balanced)
        for logits, labels, ignored in zip(*given, strict=True)
    ]
    found = occupancy_loss(*given, balance_positive_negative=balanced, mean_over="scenes")
    assert float(found) == pytest.approx(np.mean(parts), rel=1e-5)
    assert float(occupancy_loss(*given, balance_positive_negative=balanced)) != pytest.approx(np.mean(parts))


def test_a_scene_in_which_everything_is_ignored_adds_nothing(given: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, labels, ignored = given
    ignored[1] = True
    logits.requires_grad_()
    occupancy_loss(logits, labels, ignored, mean_over="scenes").backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()


def test_both_classes_of_a_patch_weigh_the_same(given: tuple[Tensor, Tensor, Tensor]) -> None:
    labels = given[1]
    weights = class_weights(labels)
    inside = (weights * labels).sum(-1)
    outside = (weights * (1 - labels)).sum(-1)
    both = (labels.sum(-1) > 0) & (labels.sum(-1) < SHAPE[-1])
    assert both.sum() == 10
    torch.testing.assert_close(inside[both], outside[both])
    assert scene_sums(*given, balance_positive_negative=True).isfinite().all()


def test_what_is_ignored_depends_on_the_task() -> None:
    outside = torch.tensor([[[1, 0, 0], [0, 0, 0]]])
    unseen = torch.tensor([[[0, 1, 0], [0, 0, 1]]])
    assert ignored_points("ovssc", [["pot", ""]], outside, unseen).tolist() == [[[1, 1, 0], [1, 1, 1]]]
    assert ignored_points("vool", [["in", "[pad]"]], outside, unseen).tolist() == [[[1, 0, 0], [1, 1, 1]]]
    assert ignored_points("vool", [["in", "on"]], outside, unseen).tolist() == [[[1, 0, 0], [0, 0, 0]]]


def test_accuracy_counts_what_is_kept() -> None:
    logits, labels = torch.tensor([[[1.0, -1.0, 2.0, -2.0]]]), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    none = torch.zeros(1, 1, 4, dtype=torch.bool)
    assert float(accuracy(logits, labels, none)) == 0.5
    assert float(accuracy(logits, labels, torch.tensor([[[False, True, True, False]]]))) == 1
    assert math.isnan(float(accuracy(logits, labels, ~none)))
