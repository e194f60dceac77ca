"""The losses of synthesis against torch's own, shares of a batch against the whole, batches without a class."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from projects.xmrs import gan_losses


def test_terms_equal_torch_losses() -> None:
    torch.manual_seed(0)
    probability = torch.rand(6)
    for is_real in (True, False):
        expected = nn.BCELoss()(probability, torch.full((6,), float(is_real)))
        torch.testing.assert_close(gan_losses.real_or_fake(probability, is_real, rows=6), expected)
    scores, classes = torch.randn(6, 5), torch.tensor([0, 3, 1, 0, 4, 2])
    weights = torch.tensor([0.0, 1, 1, 1, 1])
    torch.testing.assert_close(
        gan_losses.semantic(scores, classes, labelled=4), nn.CrossEntropyLoss(weights)(scores, classes)
    )
    mu, log_variance = torch.randn(6, 3), torch.randn(6, 3)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mu, (log_variance / 2).exp()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(gan_losses.divergence(mu, log_variance, rows=6), kl)
    found, wanted = torch.randn(6, 4), torch.randn(6, 4)
    expected = nn.CosineEmbeddingLoss(0.3)(found, wanted, torch.ones(6))
    torch.testing.assert_close(gan_losses.cosine_distance(found, wanted, rows=6), expected)


def test_shares_of_a_batch_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    scores, classes = torch.randn(7, 5), torch.tensor([0, 3, 0, 0, 4, 2, 1])
    whole = gan_losses.semantic(scores, classes, labelled=4)
    parts = [gan_losses.semantic(scores[rows], classes[rows], labelled=4) for rows in (slice(3), slice(3, 7))]
    torch.testing.assert_close(sum(parts), whole)
    probability = torch.rand(7)
    shares = [gan_losses.real_or_fake(probability[rows], True, rows=7) for rows in (slice(2), slice(2, 7))]
    torch.testing.assert_close(sum(shares), gan_losses.real_or_fake(probability, True, rows=7))


def test_a_batch_of_background_costs_nothing() -> None:
    scores = torch.randn(3, 5, requires_grad=True)
    loss = gan_losses.semantic(scores, torch.zeros(3, dtype=torch.int64), labelled=0)
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_certain_mistakes_stay_finite() -> None:
    assert gan_losses.real_or_fake(torch.tensor([0.0]), True, rows=1) == pytest.approx(100)


def test_enlarging_keeps_corners() -> None:
    images = torch.randn(2, 3, 8, 8)
    large = gan_losses.enlarge(images, 15)
    torch.testing.assert_close(large[..., ::2, ::2], images)  # 15 = 2 * 8 - 1: every old pixel is hit
    assert gan_losses.enlarge(images, 8) is images
    expected = functional.interpolate(images, size=(15, 15), mode="bilinear", align_corners=True)
    torch.testing.assert_close(large, expected)
