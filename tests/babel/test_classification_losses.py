"""Each classification loss is its definition, written out."""

import math

import pytest
import torch
from torch import Tensor

from projects.babel.classification_losses import KINDS, RELEASED_COUNTS, RELEASED_TOTAL, classification_loss
from shared.errors import InputError


def scores_and_labels(classes: int = 10) -> tuple[Tensor, Tensor]:
    """Multi-hot labels with one to three positives."""
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(6, classes, generator=generator)
    labels = torch.zeros(6, classes)
    for row in range(6):
        labels[row, torch.randperm(classes, generator=generator)[: 1 + row % 3]] = 1
    return scores, labels


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive(kind: str, scores: list[float], labels: list[float], positive_weights: list[float]) -> float:
    """One image."""
    classes = len(scores)
    if kind == "CrossEntropy":
        return math.log(sum(math.exp(s) for s in scores)) - scores[labels.index(1)]
    if kind == "Hinge":
        pairs = [(i, j) for i in range(classes) for j in range(classes) if labels[i] and not labels[j]]
        return sum(max(0, 1 - (scores[i] - scores[j])) for i, j in pairs) / classes
    weights = positive_weights if kind == "Separate" else [1.0] * classes
    terms = [
        w * y * math.log(sigmoid(s)) + (1 - y) * math.log(1 - sigmoid(s))
        for s, y, w in zip(scores, labels, weights, strict=True)
    ]
    return -sum(terms) / classes


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_its_definition(kind: str) -> None:
    scores, labels = scores_and_labels()
    weights = [(RELEASED_TOTAL - n) / n for n in RELEASED_COUNTS]
    rows = [naive(kind, s, y, weights) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    assert classification_loss(scores, labels, kind).item() == pytest.approx(sum(rows) / 6, rel=1e-5)


def test_cross_entropy_takes_the_first_positive_class() -> None:
    scores, labels = scores_and_labels()
    alone = torch.zeros_like(labels)
    alone[torch.arange(6), labels.argmax(1)] = 1
    assert (labels.sum(1) > 1).any()
    assert classification_loss(scores, labels) == classification_loss(scores, alone)


def test_separate_weighs_the_classes_of_another_set_by_its_own_counts() -> None:
    scores, labels = scores_and_labels(3)
    counts = [5, 10, 20]
    found = classification_loss(scores, labels, "Separate", class_counts=counts, total=40)
    weights = [(40 - n) / n for n in counts]
    rows = [naive("Separate", s, y, weights) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)]
    assert found.item() == pytest.approx(sum(rows) / 6, rel=1e-5)


def test_half_precision_scores_are_summed_in_float32() -> None:
    scores, labels = scores_and_labels()
    for kind in KINDS:
        found = classification_loss(scores.bfloat16(), labels, kind)
        assert found.dtype == torch.float32
        assert found == classification_loss(scores.bfloat16().float(), labels, kind)


@pytest.mark.parametrize(
    ("kind", "counts", "message"),
    [
        ("Focal", None, "loss.classification: expected one of CrossEntropy, SoftMargin, Hinge, Separate"),
        ("Separate", None, "expected the image counts of 3 classes, found 10"),
        ("Separate", [4, 0, 1], "expected images of every class, found counts"),
    ],
)
def test_what_cannot_be_computed_is_said(kind: str, counts: list[int] | None, message: str) -> None:
    scores, labels = scores_and_labels(3)
    with pytest.raises(InputError, match=message):
        classification_loss(scores, labels, kind, class_counts=counts)
