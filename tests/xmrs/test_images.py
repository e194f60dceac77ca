"""Photos to pixels: the released geometry, bit-equal to torchvision's transforms, from the item's generator."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as T
from torchvision.transforms import v2

from projects.xmrs import images
from shared.data import item_generator

MEANS, DEVIATIONS = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return Image.fromarray(cells.repeat(8, 0).repeat(8, 1)[:height, :width])


def naive_pad(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Index by index: which pixel of the photo a padded place shows."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    out = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    for y in range(side):
        for x in range(side):
            row, inside_rows = source(y - top, height, mode)
            column, inside_columns = source(x - left, width, mode)
            if mode != "constant" or (inside_rows and inside_columns):
                out[y, x] = pixels[row, column]
    return out


def source(place: int, size: int, mode: str) -> tuple[int, bool]:
    inside = 0 <= place < size
    if mode in ("constant", "edge"):
        return min(max(place, 0), size - 1), inside
    period = 2 * size if mode == "symmetric" else max(1, 2 * (size - 1))
    place %= period
    return (place if place < size else period - place - (mode == "symmetric")), inside


@pytest.mark.parametrize("mode", images.PAD_MODES)
@pytest.mark.parametrize("size", [(5, 12), (12, 5), (7, 7), (3, 16), (1, 4)])
def test_padding_equals_the_index_by_index_definition(mode: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(1, 256, (*size, 3), np.uint8)
    padded = np.asarray(images.pad_to_square(Image.fromarray(pixels), mode))
    np.testing.assert_array_equal(padded, naive_pad(pixels, mode))


def test_normalisation_is_bit_equal_to_torchvision() -> None:
    pixels = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    expected = T.normalize(T.to_tensor(Image.fromarray(pixels)), MEANS, DEVIATIONS)
    found = images.normalized(pixels[:, ::-1])  # also from a view
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.flip(2))


@pytest.mark.parametrize("size", [(200, 300), (333, 200), (64, 64), (640, 100)])
def test_evaluation_is_pad_resize_centre_crop(size: tuple[int, int]) -> None:
    for side, resize in ((224, 256), (64, 73), (32, 32)):
        square = Image.fromarray(np.asarray(images.pad_to_square(photo(*size), "reflect")))
        expected = T.center_crop(T.resize(square, [resize, resize]), [side, side])
        expected = T.normalize(T.to_tensor(expected), MEANS, DEVIATIONS)
        assert torch.equal(images.evaluation_image(photo(*size), side=side, resize=resize), expected)


class Recorded:
    """A generator that keeps what it gave."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.given: list[float] = []

    def __getattr__(self, name: str) -> Callable[..., float]:
        def call(*arguments: float) -> float:
            value = getattr(self.rng, name)(*arguments)
            self.given.append(float(value))
            return value

        return call


@pytest.mark.parametrize("index", range(8))
def test_training_equals_torchvision_with_the_same_draws(index: int) -> None:
    """Both branches (pad, stretch), turned, cropped, mirrored: step by step with torchvision's functions."""
    side, resize = 224, 256
    original = photo(190, 260, index)
    rng = Recorded(item_generator(0, 0, index))
    found = images.training_image(original, rng, side=side, resize=resize)  # type: ignore[arg-type]
    draws = iter(rng.given)
    expected = original
    if next(draws) < 0.5:
        expected = images.pad_to_square(expected, images.PAD_MODES[int(next(draws))])
    expected = T.rotate(T.resize(expected, [resize, resize]), next(draws))
    top, left = int(next(draws)), int(next(draws))
    expected = T.crop(expected, top, left, side, side)
    if next(draws) < 0.5:
        expected = T.hflip(expected)
    assert torch.equal(found, T.normalize(T.to_tensor(expected), MEANS, DEVIATIONS))
    assert next(draws, None) is None


def test_training_draws_have_the_released_probabilities() -> None:
    """A photo whose halves and corners tell what was drawn; 2,000 draws."""
    rng_draws = [Recorded(item_generator(3, 0, index)) for index in range(2000)]
    small = photo(12, 20)
    for rng in rng_draws:
        images.training_image(small, rng, side=12, resize=16)  # type: ignore[arg-type]
    padded = [rng.given for rng in rng_draws if rng.given[0] < 0.5]
    assert 900 < len(padded) < 1100
    modes = np.bincount([int(given[1]) for given in padded], minlength=4) / len(padded)
    assert np.abs(modes - 0.25).max() < 0.05
    angles = np.array([rng.given[2 if rng.given[0] < 0.5 else 1] for rng in rng_draws])
    assert -10 <= angles.min() < -9.5
    assert 9.5 < angles.max() <= 10
    assert abs(angles.mean()) < 0.5
    corners = np.array([rng.given[-3:-1] for rng in rng_draws]).astype(int)
    assert {tuple(np.unique(corners[:, axis])) for axis in (0, 1)} == {(0, 1, 2, 3, 4)}, "the last place too"
    assert 900 < sum(rng.given[-1] < 0.5 for rng in rng_draws) < 1100


def test_the_same_item_has_the_same_draws_and_another_epoch_others() -> None:
    first, again, other = (
        images.training_image(photo(80, 60), item_generator(1, epoch, 5), side=32, resize=36)
        for epoch in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_corner_of_a_turned_photo_is_black() -> None:
    rng = item_generator(0, 0, 0)
    white = images.blank_photo(64)
    turned = images.training_image(white, rng, side=64, resize=64)
    black = v2.functional.normalize(torch.zeros(3, 64, 64), MEANS, DEVIATIONS)
    assert torch.equal(turned[:, 0, 0], black[:, 0, 0]) or torch.equal(turned[:, 0, -1], black[:, 0, -1])


def test_the_orientation_tag_is_not_applied(tmp_path: Path) -> None:
    """The released code means to turn photos by it, and never does."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(40, 60).save(tmp_path / "turned.jpg", exif=exif)
    found, reason = images.read_photo(tmp_path / "turned.jpg")
    assert (found.size, reason) == ((60, 40), None)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_photo_is_white_and_says_why(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    found, reason = images.read_photo(path, blank_side=50)
    assert found.size == (50, 50)
    assert np.asarray(found).min() == 255
    assert reason is not None
    assert str(path) in reason


def test_gray_palette_and_cmyk_photos_become_rgb(tmp_path: Path) -> None:
    for mode, name in (("L", "gray.jpg"), ("P", "palette.png"), ("CMYK", "cmyk.jpg")):
        photo(20, 30).convert(mode).save(tmp_path / name)
        found, reason = images.read_photo(tmp_path / name)
        assert (found.mode, found.size, reason) == ("RGB", (30, 20), None)
