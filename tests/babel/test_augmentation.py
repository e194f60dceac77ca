"""Crops, mirroring and colours, of pixels and keypoints together, beside torchvision and the plain way."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from projects.babel import augmentation
from projects.babel.augmentation import Augmentation, Colours, Draw
from shared.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8).repeat(7, 0).repeat(6, 1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_is_cropped_resized_mirrored_coloured_and_normalised(mirrored: bool) -> None:
    colours = Colours(1.2, 0.8, 1.3, -0.07, order=(2, 0, 3, 1))
    box = (3, 5, 40, 51)
    expected = functional.resized_crop(
        Image.fromarray(PIXELS), *box, [32, 32], functional.InterpolationMode.BICUBIC
    )
    expected = functional.hflip(expected) if mirrored else expected
    expected = functional.adjust_saturation(expected, 1.3)
    expected = functional.adjust_brightness(expected, 1.2)
    expected = functional.adjust_hue(expected, -0.07)
    expected = functional.adjust_contrast(expected, 0.8)
    means, deviations = augmentation.IMAGENET_MEANS, augmentation.IMAGENET_DEVIATIONS
    expected = functional.normalize(functional.to_tensor(expected), means, deviations)
    found = augmentation.apply(PIXELS, Draw(box, mirrored, colours), 32)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("hue", [-0.1, 0.0, 0.1])
def test_the_hue_turns_as_torchvisions(hue: float) -> None:
    image = Image.fromarray(PIXELS)
    ours = augmentation.recolour(image, Colours(1, 1, 1, hue))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(functional.adjust_hue(image, hue)))


def test_validation_sees_the_whole_image() -> None:
    expected = functional.to_tensor(Image.fromarray(PIXELS).resize((20, 20), Image.Resampling.BICUBIC))
    restored = augmentation.denormalized(torch.from_numpy(augmentation.whole(PIXELS, 20))[None])[0]
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)


def test_keypoints_move_with_their_pixels() -> None:
    """A bright pixel that is a keypoint is still under its keypoint after crop and mirroring."""
    rng = np.random.default_rng(1)
    how = Augmentation(64, 0.4, 0.9, mirrored=0.5, coloured=0.0)
    kept = 0
    for _ in range(40):
        pixels = np.zeros((60, 80, 3), np.uint8)
        row, column = int(rng.integers(60)), int(rng.integers(80))
        pixels[row, column] = 255
        draw = how.draw(rng, 80, 60)
        places, inside = augmentation.crop_points(
            np.array([[(row + 0.5) / 60, (column + 0.5) / 80]]), (60, 80), draw
        )
        top, left, height, width = draw.box
        assert inside[0] == (top <= row < top + height and left <= column < left + width)
        if inside[0]:
            image = augmentation.apply(pixels, draw, 64)[0]
            found = np.array(np.unravel_index(image.argmax(), image.shape))
            assert np.abs(places[0] * 64 - (found + 0.5)).max() <= 1.0
            kept += 1
    assert kept > 10


def test_both_ends_of_a_crop_are_inside() -> None:
    draw = Draw((10, 20, 30, 40))
    rowcol = np.array([[0.1, 0.2], [0.4, 0.6], [0.0999, 0.2], [0.4, 0.6001]])
    places, inside = augmentation.crop_points(rowcol, (100, 100), draw)
    assert inside.tolist() == [True, True, False, False]
    np.testing.assert_allclose(places[:2], [[0, 0], [1, 1]], atol=1e-12)
    mirrored, _ = augmentation.crop_points(rowcol, (100, 100), Draw(draw.box, mirrored=True))
    np.testing.assert_allclose(mirrored[:2], [[0, 1], [1, 0]], atol=1e-12)


def test_boxes_have_the_drawn_area_and_aspect() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([augmentation.draw_box(rng, 200, 200, (0.4, 0.6)) for _ in range(400)])
    top, left, height, width = boxes.T
    assert ((top >= 0) & (left >= 0) & (top + height <= 200) & (left + width <= 200)).all()
    share, ratio = height * width / 200**2, width / height
    assert 0.39 < share.min() < 0.43
    assert 0.57 < share.max() < 0.61
    assert 0.73 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.37
    assert 0.4 < (ratio > 1).mean() < 0.6


def test_where_no_box_fits_the_central_square_is_taken() -> None:
    assert augmentation.draw_box(np.random.default_rng(0), 400, 40, (0.9, 1.0)) == (0, 180, 40, 40)


def test_probabilities() -> None:
    rng = np.random.default_rng(0)
    draws = [Augmentation(32, mirrored=0.25, coloured=0.75).draw(rng, 50, 50) for _ in range(800)]
    assert 0.2 < np.mean([draw.mirrored for draw in draws]) < 0.3
    assert 0.7 < np.mean([draw.colours is not None for draw in draws]) < 0.8
    colours = [draw.colours for draw in draws if draw.colours is not None]
    factors = np.array([(c.brightness, c.contrast, c.saturation, c.hue) for c in colours])
    np.testing.assert_allclose(factors.min(0), [0.7, 0.7, 0.7, -0.1], atol=0.01)
    np.testing.assert_allclose(factors.max(0), [1.3, 1.3, 1.3, 0.1], atol=0.01)
    assert len({c.order for c in colours}) == 24


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"size": 8}, "data.size"),
        ({"scale_from": 0.0}, "data.scale_from"),
        ({"scale_to": 1.5}, "data.scale_from"),
        ({"mirrored": 2.0}, "data.mirrored"),
        ({"coloured": -1.0}, "data.coloured"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], key: str) -> None:
    with pytest.raises(InputError, match=key):
        Augmentation(**settings)  # type: ignore[arg-type]
