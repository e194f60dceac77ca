"""The triplet loss against its definition, one pair at a time."""

import pytest
import torch
from torch import Tensor

from projects.vseinfty.losses import triplet_loss


def plain_loss(images: Tensor, captions: Tensor, margin: float, hardest: bool) -> Tensor:
    size = len(images)
    score = [[images[i] @ captions[j] for j in range(size)] for i in range(size)]
    zero = images.new_zeros(())
    total = zero
    for i in range(size):
        of_captions = [torch.maximum(zero, margin + score[i][j] - score[i][i]) for j in range(size) if j != i]
        of_images = [torch.maximum(zero, margin + score[j][i] - score[i][i]) for j in range(size) if j != i]
        for costs in (of_captions, of_images):
            if costs:
                total = total + (torch.stack(costs).max() if hardest else torch.stack(costs).sum())
    return total


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize(("size", "margin"), [(1, 0.2), (2, 0.2), (9, 0.2), (9, 0.0), (7, 1.5)])
def test_loss_is_its_definition(size: int, margin: float, hardest: bool) -> None:
    torch.manual_seed(size)
    images = torch.nn.functional.normalize(torch.randn(size, 6, dtype=torch.float64), dim=1).requires_grad_()
    captions = torch.nn.functional.normalize(
        torch.randn(size, 6, dtype=torch.float64), dim=1
    ).requires_grad_()
    found = triplet_loss(images, captions, margin=margin, hardest=hardest)
    expected = plain_loss(images, captions, margin, hardest)
    torch.testing.assert_close(found, expected.to(found.dtype))
    if size > 1:
        gradients = torch.autograd.grad(found, (images, captions))
        for ours, plain in zip(gradients, torch.autograd.grad(expected, (images, captions)), strict=True):
            torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("hardest", [True, False])
def test_one_pair_has_no_negatives(hardest: bool) -> None:
    images, captions = torch.randn(1, 4).requires_grad_(), torch.randn(1, 4).requires_grad_()
    loss = triplet_loss(images, captions, margin=0.2, hardest=hardest)
    loss.backward()
    assert loss.item() == 0
    assert images.grad is not None
    assert captions.grad is not None
    assert not images.grad.any()
    assert not captions.grad.any()


def test_it_is_a_sum_over_the_batch() -> None:
    """Quirk 5: a batch twice as large of pairs that do not meet has twice the loss."""
    torch.manual_seed(0)
    images, captions = torch.randn(4, 3), torch.randn(4, 3)
    zeros = torch.zeros(4, 3)
    apart = [torch.cat([torch.cat([x, zeros], 1), torch.cat([zeros, x], 1)]) for x in (images, captions)]
    single = triplet_loss(images, captions, margin=-50.0, hardest=False)
    assert single == 0
    single = triplet_loss(images * 20, captions * 20, margin=0.0, hardest=True)
    double = triplet_loss(apart[0] * 20, apart[1] * 20, margin=0.0, hardest=True)
    assert double >= 2 * single


def test_a_wrong_value_is_not_hidden() -> None:
    images = torch.randn(3, 4)
    images[1, 2] = torch.nan
    for hardest in (True, False):
        assert not torch.isfinite(triplet_loss(images, torch.randn(3, 4), margin=0.2, hardest=hardest))
