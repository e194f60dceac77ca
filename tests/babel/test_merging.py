"""Merging the masks of views: against the definition, label choices, the background's power, large pictures."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.babel import merging
from projects.babel.views import Views, crop_views, whole_views


def picture(height: int = 24, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def softmax_masks(views: Views, classes: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(views.images), classes, *views.images.shape[2:])
    return torch.softmax(2 * torch.randn(shape, generator=generator), 1)


def masks_of_a_function(views: Views) -> Tensor:
    """Masks that depend on a pixel's colours alone: every view says the same of it."""
    first = torch.sigmoid(views.images[:, :1])
    return torch.cat([first, 1 - first], 1)


def test_scales_and_mirrors_are_averaged_one_by_one() -> None:
    views = whole_views(picture(), scales=(1.0, 0.5), pad=(31, 33))
    masks = softmax_masks(views)
    total = torch.zeros(5, 24, 30)
    for index, (top, left, height, width) in enumerate([(3, 1, 24, 30)] * 2 + [(9, 9, 12, 15)] * 2):
        part = masks[index : index + 1, :, top : top + height, left : left + width]
        if index % 2:
            part = torch.flip(part, (3,))
        total += F.interpolate(part, size=(24, 30), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(merging.average(masks, views), total / 4)


def test_crops_are_averaged_pixel_by_pixel() -> None:
    views = crop_views(picture(), crop=(16, 20), pad=(26, 33))
    masks = softmax_masks(views)
    total, count = torch.zeros(5, 26, 33), torch.zeros(26, 33)
    for mask, flipped, (top, left, height, width) in zip(
        masks, views.flipped, views.boxes.tolist(), strict=True
    ):
        for row in range(height):
            for column in range(width):
                total[:, top + row, left + column] += mask[:, row, width - 1 - column if flipped else column]
                count[top + row, left + column] += 1
    expected = (total / count)[:, 1:25, 1:31]
    torch.testing.assert_close(merging.average(masks, views), expected)


@pytest.mark.parametrize(
    "views", [whole_views(picture()), crop_views(picture(), crop=(16, 20), pad=(30, 40))]
)
def test_views_that_agree_give_what_they_say(views: Views) -> None:
    alone = masks_of_a_function(whole_views(picture(), flip=False))[0]
    torch.testing.assert_close(merging.average(masks_of_a_function(views), views), alone)


def test_labels() -> None:
    scores = torch.tensor([[0.1, 2.0, -1.0, 0.0], [0.3, -5.0, 2.0, 0.0]])
    assert merging.choose_labels("best", scores).tolist() == [False, True, True, False]  # a tie keeps both
    assert merging.choose_labels("best", scores[:1]).tolist() == [False, True, False, False]
    assert merging.choose_labels("all", scores).all()
    truth = np.array([[0, 255, 4], [1, 1, 9]], np.uint8)
    assert merging.choose_labels("ground_truth", scores, truth).tolist() == [True, False, False, True]
    only_background = np.zeros((2, 2), np.uint8)
    assert not merging.choose_labels("ground_truth", scores, only_background).any()
    with pytest.raises(ValueError, match="expected one of"):
        merging.choose_labels("some", scores)


def test_restricting_masks() -> None:
    views = whole_views(picture())
    merged = merging.average(softmax_masks(views), views)
    labels = torch.tensor([True, False, False, True])
    found = merging.restrict(merged, labels, background_power=4)
    torch.testing.assert_close(found[0], merged[0] ** 4)
    torch.testing.assert_close(found[[1, 4]], merged[[1, 4]])
    assert not found[2:4].any()
    assert set(np.unique(merging.label_map(found)).tolist()) <= {0, 1, 4}


def test_a_large_picture_is_labelled_as_if_all_classes_were_enlarged_at_once() -> None:
    small = torch.rand(4, 9, 11, generator=torch.Generator().manual_seed(0))
    small[2] = small[1]  # ties: the lowest label wins
    large = F.interpolate(small[None], size=(37, 50), mode="bilinear", align_corners=False)[0]
    found = merging.label_map(small, (37, 50))
    np.testing.assert_array_equal(found, large.argmax(0).numpy())
    assert 2 not in found
    np.testing.assert_array_equal(merging.label_map(small), small.argmax(0).numpy())
