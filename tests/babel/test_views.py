"""Views of a picture: sizes, mirroring, padding, crops; what does not fit is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from projects.babel.augmentation import IMAGENET_DEVIATIONS, IMAGENET_MEANS
from projects.babel.segmenting import ViewPlan
from projects.babel.views import crop_views, normalised, reduced, whole_views
from shared.errors import InputError


def picture(height: int = 31, width: int = 44) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def by_hand(pixels: np.ndarray) -> torch.Tensor:
    values = (pixels.astype(np.float64) / 255 - np.array(IMAGENET_MEANS)) / np.array(IMAGENET_DEVIATIONS)
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)


def test_a_single_scale_has_no_padding() -> None:
    views = whole_views(picture())
    assert views.images.shape == (2, 3, 31, 44)
    torch.testing.assert_close(views.images[0], by_hand(picture()), rtol=0, atol=0)
    torch.testing.assert_close(views.images[1], by_hand(picture()[:, ::-1]), rtol=0, atol=0)
    assert views.flipped.tolist() == [False, True]
    assert len(whole_views(picture(), flip=False).images) == 1


def test_scales_are_centred_on_the_largest_or_on_a_given_canvas() -> None:
    views = whole_views(picture(), scales=(1.0, 0.5, 1.5))
    assert views.images.shape == (6, 3, 46, 66)
    small = np.asarray(Image.fromarray(picture()).resize((22, 16), Image.Resampling.BICUBIC))
    top, left, height, width = views.boxes[2].tolist()
    assert (top, left, height, width) == (15, 22, 16, 22)
    inside = views.images[2, :, top : top + height, left : left + width]
    torch.testing.assert_close(inside, by_hand(small), rtol=0, atol=0)
    outside = views.images[2].clone()
    outside[:, top : top + height, left : left + width] = 0
    assert not outside.any()
    assert whole_views(picture(), scales=(0.5,), pad=(40, 50)).images.shape == (2, 3, 40, 50)
    with pytest.raises(InputError, match="a picture of 31 x 44 pixels does not fit into 40 x 40"):
        whole_views(picture(), pad=(40, 40))


def test_crops_cover_the_picture() -> None:
    views = crop_views(picture(), crop=(20, 30), grid=(2, 3))
    assert views.images.shape == (12, 3, 20, 30)
    seen = np.zeros((31, 44), bool)
    whole = by_hand(picture())
    for image, flipped, (top, left, height, width) in zip(
        views.images, views.flipped, views.boxes.tolist(), strict=True
    ):
        seen[top : top + height, left : left + width] = True
        expected = whole[:, top : top + height, left : left + width]
        torch.testing.assert_close(image.flip(-1) if flipped else image, expected, rtol=0, atol=0)
    assert seen.all()
    assert views.padding == (0, 0)
    small = crop_views(picture(10, 10), crop=(20, 30))
    assert small.padding == (5, 10)
    for crop, grid in (((20, 30), (2, 1)), ((10, 44), (2, 1)), ((9, 44), (3, 1))):
        with pytest.raises(InputError, match="do not cover"):
            crop_views(picture(), crop=crop, grid=grid)
    with pytest.raises(InputError, match="larger than the padded picture"):
        crop_views(picture(), crop=(40, 30), pad=(31, 44))


def test_normalisation_is_exact_for_every_value() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    torch.testing.assert_close(
        torch.from_numpy(normalised(ramp)).permute(2, 0, 1), by_hand(ramp), rtol=0, atol=0
    )


def test_a_large_picture_is_reduced_to_its_shorter_side() -> None:
    assert reduced(picture(), 200).shape == (31, 44, 3)
    assert reduced(picture(), None).shape == (31, 44, 3)
    assert reduced(picture(300, 100), 50).shape == (150, 50, 3)


BAD = [
    ({"method": "double"}, "expected one of single, multi, crops"),
    ({"scales": [1, 2]}, "method=multi takes several"),
    ({"method": "multi", "scales": [0]}, "positive"),
    ({"method": "crops", "crop": [3]}, "views.crop"),
    ({"side": 0}, "views.side"),
]


@pytest.mark.parametrize(("settings", "words"), BAD)
def test_settings_that_make_no_sense(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ViewPlan(**settings).check()
