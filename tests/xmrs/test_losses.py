"""Batch-hard loss against its definition, anchor by anchor."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from projects.xmrs.losses import batch_hard_loss, cosine_distances

SWITCHES = list(itertools.product((True, False), repeat=3))


def naive(
    images: Tensor, recipes: Tensor, margin: float, hardest: bool, intra: bool, both: bool
) -> list[Tensor]:
    """The mean over anchors, each with its own loops: the loss, mean positive, mean negative."""
    count = len(images)
    vectors = [*images, *recipes]
    pair = [*range(count), *range(count)]

    def distance(a: int, b: int) -> Tensor:
        x, y = vectors[a], vectors[b]
        return 1 - (x @ y) / torch.clamp(x.norm() * y.norm(), min=1e-8)

    if intra:
        anchors = [(a, list(range(2 * count))) for a in range(2 * count)]
    else:
        anchors = [(a, list(range(count, 2 * count))) for a in range(count)]
        if both:
            anchors += [(a, list(range(count))) for a in range(count, 2 * count)]
    terms, positives, negatives = [], [], []
    for a, candidates in anchors:
        own = torch.stack([distance(a, b) for b in candidates if pair[b] == pair[a]]).max()
        others = torch.stack([distance(a, b) for b in candidates if pair[b] != pair[a]])
        other = others.min() if hardest else others.mean()
        terms.append(torch.relu(own - other + margin))
        positives.append(own)
        negatives.append(other)
    return [torch.stack(values).mean() for values in (terms, positives, negatives)]


@pytest.mark.parametrize(("hardest", "intra", "both"), SWITCHES)
@pytest.mark.parametrize("margin", [0.3, 0.9])
def test_loss_and_gradients_are_those_of_the_definition(
    hardest: bool, intra: bool, both: bool, margin: float
) -> None:
    rng = np.random.default_rng(7)
    images = torch.tensor(rng.normal(size=(5, 6)), dtype=torch.float32)
    recipes = images + 2.0 * torch.tensor(rng.normal(size=(5, 6)), dtype=torch.float32)
    ours = [x.clone().requires_grad_() for x in (images, recipes)]
    theirs = [x.clone().requires_grad_() for x in (images, recipes)]
    found = batch_hard_loss(*ours, margin=margin, hardest=hardest, intra_modal=intra, symmetric=both)
    expected = naive(theirs[0], theirs[1], margin, hardest, intra, both)
    for one, other in zip(found, expected, strict=True):
        assert one.item() == pytest.approx(other.item(), abs=1e-6)
    assert expected[0].item() > 0
    found[0].backward()
    expected[0].backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)
    assert not found[1].requires_grad
    assert not found[2].requires_grad


def test_a_mode_of_the_paper_has_anchors_of_images_only() -> None:
    """Recipes that are near each other do not cost anything there; with recipes as anchors they do."""
    images = torch.eye(4)[:2]
    recipes = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    one_way = batch_hard_loss(images, recipes, margin=0.2, intra_modal=False)[0]
    two_way = batch_hard_loss(images, recipes, margin=0.2, intra_modal=False, symmetric=True)[0]
    assert one_way.item() == pytest.approx((0.2 + 0.2) / 2)  # image 0: both recipes at 0; image 1: both at 1
    assert two_way.item() == pytest.approx((0.2 + 0.2 + 0.0 + 1.2) / 4)


def test_of_two_equal_negatives_one_is_taken() -> None:
    images = torch.eye(3)
    recipes = torch.eye(3).clone().requires_grad_()
    batch_hard_loss(images, recipes, margin=1.5, intra_modal=False)[0].backward()
    assert recipes.grad is not None
    # each image is as far from both foreign recipes; the first of them is pushed
    assert recipes.grad.count_nonzero() == 3


def test_a_batch_of_one_has_loss_0_and_gradients_0() -> None:
    for switches in itertools.product((True, False), repeat=3):
        hardest, intra, both = switches
        images, recipes = (torch.randn(1, 4).requires_grad_() for _ in range(2))
        loss = batch_hard_loss(images, recipes, hardest=hardest, intra_modal=intra, symmetric=both)[0]
        loss.backward()
        assert loss.item() == 0
        assert images.grad is not None
        assert images.grad.abs().max() == 0


def test_zero_rows_are_at_distance_1_and_reduced_precision_is_left() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    torch.testing.assert_close(cosine_distances(rows, rows), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    torch.manual_seed(0)
    images, recipes = torch.randn(6, 64), torch.randn(6, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = batch_hard_loss(images, recipes)[0]
    assert found.dtype == torch.float32
    assert found.item() == batch_hard_loss(images, recipes)[0].item()
    assert batch_hard_loss(images.bfloat16(), recipes.bfloat16())[0].dtype == torch.float32
