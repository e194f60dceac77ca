"""Pseudo ground truth and mask loss: as the plain definition over all channels says."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel import bench_released as released
from projects.babel import mask_loss as module
from projects.babel.mask_loss import class_pixels, mask_loss, plain_mask_loss
from projects.babel.pamr import PAMR
from projects.babel.pseudo_labels import label_classes, one_hot, pseudo_ground_truth, take_classes

CONCEPTS, SIDE, SIZE = 5, 9, (21, 17)


def labels_of(*rows: tuple[int, ...]) -> Tensor:
    """Multi-hot [B, C]."""
    labels = torch.zeros(len(rows), CONCEPTS)
    for row, concepts in enumerate(rows):
        labels[row, list(concepts)] = 1
    return labels


LABELS = labels_of((1,), (0, 4), (2,), (0, 2, 3))


def refined_masks(labels: Tensor, seed: int = 0) -> Tensor:
    """Blobs [B, 1 + C, h, w], stronger where the image is labelled."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randn(len(labels), 1 + CONCEPTS, 3, 3, generator=generator)
    blobs = F.interpolate(blobs, (SIDE, SIDE), mode="bilinear", align_corners=True)
    return (4 * blobs + 2 * F.pad(labels, (1, 0), value=1.0)[:, :, None, None]).softmax(1)


def target_of(labels: Tensor, seed: int = 0, size: tuple[int, int] | None = SIZE) -> Tensor:
    classes = label_classes(labels)
    return pseudo_ground_truth(take_classes(refined_masks(labels, seed), classes), classes, size)


def test_classes_of_an_image_are_the_background_and_its_labels() -> None:
    assert label_classes(LABELS).tolist() == [[0, 2, -1, -1], [0, 1, 5, -1], [0, 3, -1, -1], [0, 1, 3, 4]]
    assert label_classes(torch.zeros(2, CONCEPTS)).tolist() == [[0], [0]]


def test_channels_are_taken_and_padded_with_zeros() -> None:
    masks = refined_masks(LABELS)
    taken = take_classes(masks, label_classes(LABELS))
    assert torch.equal(taken[1, 2], masks[1, 5])
    assert torch.equal(taken[3, 1:], masks[3, [1, 3, 4]])
    assert not taken[0, 2:].any()


def test_a_pixel_has_the_one_class_whose_mask_is_above_its_threshold() -> None:
    """Pixel by pixel, all channels, from the definition."""
    target = target_of(LABELS, size=None)
    masks = refined_masks(LABELS) * F.pad(LABELS, (1, 0), value=1.0)[:, :, None, None]
    for image in range(len(LABELS)):
        limits = [
            max((0.7 if c == 0 else 0.6) * masks[image, c].max().item(), 0.2) for c in range(1 + CONCEPTS)
        ]
        for row, column in itertools.product(range(SIDE), repeat=2):
            above = [c for c in range(1 + CONCEPTS) if masks[image, c, row, column].item() > limits[c]]
            assert target[image, row, column] == (above[0] if len(above) == 1 else 255)
    found = set(target.unique().tolist())
    assert {0, 255} < found
    assert len(found) > 3


@pytest.mark.parametrize("seed", range(3))
def test_label_channels_alone_give_what_all_channels_give(seed: int) -> None:
    expected = released.pseudo_ground_truth(released.cleaned(refined_masks(LABELS, seed), LABELS, SIZE))
    assert torch.equal(one_hot(target_of(LABELS, seed), 1 + CONCEPTS), expected)


def test_refining_the_label_channels_alone_changes_nothing() -> None:
    masks, raw = refined_masks(LABELS), torch.rand(len(LABELS), 3, SIDE, SIDE)
    refine, classes = PAMR((1, 2), 3), label_classes(LABELS)
    torch.testing.assert_close(
        refine(raw, take_classes(masks, classes)), take_classes(refine(raw, masks), classes)
    )


def test_maximum_equal_to_the_floor_gives_no_pixel() -> None:
    """A mask must be above 0.2, not at it."""
    classes = torch.tensor([[0, 1]])
    flat = torch.full((1, 2, 2, 2), 0.2)
    assert (pseudo_ground_truth(flat, classes) == 255).all()
    flat[0, 1] = 0.21
    assert (pseudo_ground_truth(flat, classes) == 1).all()


def loss_and_gradient(function, logits: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Losses of all images, and the gradient of their sum, each image with another factor."""
    leaf = logits.clone().requires_grad_()
    losses = function(leaf, *arguments)
    factors = torch.arange(1, len(losses) + 1, dtype=losses.dtype)
    (losses * factors).sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk", [1, 1 << 30])
def test_loss_and_gradient_are_the_definitions(
    seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of one image, or of all: the same numbers."""
    monkeypatch.setitem(module._CHUNK_BYTES, "cpu", chunk)
    logits = torch.randn(4, 1 + CONCEPTS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    target = target_of(LABELS, seed)
    found = loss_and_gradient(mask_loss, logits, target, LABELS)
    expected = loss_and_gradient(released.mask_loss, logits, one_hot(target, 1 + CONCEPTS), LABELS)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-7)
    assert (expected[0] > 0).any()


def test_an_image_counts_only_if_all_its_classes_have_pixels() -> None:
    labels = labels_of((0,), (0,), (0, 1))
    target = torch.full((3, 4, 4), 255)
    target[:, 0] = 1
    target[0, 1] = target[2, 1] = 0
    logits = torch.randn(3, 1 + CONCEPTS, 4, 4)
    losses, gradient = loss_and_gradient(mask_loss, logits, target, labels)
    assert losses[0] > 0
    assert losses[1:].tolist() == [0, 0]  # no background; no pixel of the second label
    assert gradient[0].any()
    assert not gradient[1:].any()


def test_ignored_pixels_stay_in_the_denominator() -> None:
    labels, logits = labels_of((0,)), torch.randn(1, 1 + CONCEPTS, 4, 4)
    target = torch.full((1, 4, 4), 255)
    target[0, 0, :3], target[0, 0, 3] = 0, 1
    losses = torch.log_softmax(logits[0, :, 0], 0)  # of the four known pixels
    weighted = -(losses[0, :3].sum() * (4 - 3) / 5 + losses[1, 3] * (4 - 1) / 5)
    assert mask_loss(logits, target, labels).item() == pytest.approx(weighted.item() / 16, rel=1e-5)


def test_an_image_without_any_sure_pixel_has_no_loss() -> None:
    target = torch.full((1, 4, 4), 255)
    losses, gradient = loss_and_gradient(
        mask_loss, torch.randn(1, 1 + CONCEPTS, 4, 4), target, labels_of((0,))
    )
    assert losses.tolist() == [0]
    assert not gradient.any()


def test_loss_without_gradient_and_of_half_precision() -> None:
    logits, target = torch.randn(4, 1 + CONCEPTS, SIDE, SIDE).bfloat16(), target_of(LABELS)
    with torch.no_grad():
        found = mask_loss(logits, target, LABELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mask_loss(logits.float(), target, LABELS))
    assert loss_and_gradient(mask_loss, logits, target, LABELS)[1].dtype == torch.bfloat16


def test_pixels_are_counted_by_class() -> None:
    target = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [1, 255]]])
    assert class_pixels(target, 3).tolist() == [[1, 0, 2], [0, 1, 0]]


def test_the_plain_loss_leaves_ignored_pixels_out() -> None:
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 2], [255, 2]]])
    rows = torch.log_softmax(logits[0], 0)
    expected = -(rows[0, 0, 0] + rows[2, 0, 1] + rows[2, 1, 1]) / 3
    assert plain_mask_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)
