"""Photos -> pixels: padding to a square, the released augmentation, ImageNet normalisation. S: side"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shared.errors import InputError
from shared.files import read_image

IMAGENET_MEANS = (0.485, 0.456, 0.406)
IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)
PAD_MODES = ("constant", "edge", "reflect", "symmetric")
MAX_ANGLE = 10.0  # degrees


def _normalized_levels() -> np.ndarray:
    """[3, 256] float32: the normalised value of every grey level, by the operations of torchvision."""
    levels = torch.arange(256, dtype=torch.float32).div(255).expand(3, 256)
    means, deviations = (torch.tensor(values)[:, None] for values in (IMAGENET_MEANS, IMAGENET_DEVIATIONS))
    values: np.ndarray = levels.sub(means).div(deviations).numpy()
    return values


LEVELS = _normalized_levels()


def read_photo(path: Path, *, blank_side: int = 224) -> tuple[Image.Image, str | None]:
    """The photo in RGB and None, or a white square and the reason why the file cannot be read.

    The orientation tag is not applied: the released code means to, but reads it after the conversion to RGB
    has dropped it, so the published numbers are of unturned photos.
    """
    try:
        return Image.fromarray(read_image(path, exif=False)), None
    except InputError as error:
        return blank_photo(blank_side), str(error)


def blank_photo(side: int) -> Image.Image:
    """The white square that stands in for a photo that cannot be read."""
    return Image.new("RGB", (side, side), (255, 255, 255))


def pad_to_square(photo: Image.Image, mode: str) -> Image.Image:
    """Let the shorter side grow to the longer one's length, by numpy.pad's `mode` (constant = black)."""
    width, height = photo.size
    missing = abs(width - height)
    if missing == 0:
        return photo
    before, after = missing // 2, missing - missing // 2
    rows, columns = ((before, after), (0, 0)) if height < width else ((0, 0), (before, after))
    return Image.fromarray(np.pad(np.asarray(photo), (rows, columns, (0, 0)), mode=mode))  # type: ignore[call-overload]


def training_image(
    photo: Image.Image, rng: np.random.Generator, *, side: int = 224, resize: int = 256
) -> Tensor:
    """The released augmentation of one photo -> float32 [3, S, S].

    With equal odds padded to a square (each of four modes) and resized, or stretched; turned by up to 10
    degrees; a random crop; mirrored half of the time.
    """
    if rng.random() < 0.5:
        photo = pad_to_square(photo, PAD_MODES[int(rng.integers(len(PAD_MODES)))])
    photo = photo.resize((resize, resize), Image.Resampling.BILINEAR)
    photo = photo.rotate(float(rng.uniform(-MAX_ANGLE, MAX_ANGLE)), Image.Resampling.NEAREST)
    top, left = (int(rng.integers(resize - side + 1)) for _ in range(2))
    pixels = np.asarray(photo)[top : top + side, left : left + side]
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return normalized(pixels)


def evaluation_image(photo: Image.Image, *, side: int = 224, resize: int = 256) -> Tensor:
    """Padded to a square by reflection, resized, centre crop -> float32 [3, S, S]."""
    photo = pad_to_square(photo, "reflect").resize((resize, resize), Image.Resampling.BILINEAR)
    start = round((resize - side) / 2)
    return normalized(np.asarray(photo)[start : start + side, start : start + side])


def normalized(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] with ImageNet's means and deviations."""
    out = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        np.take(LEVELS[channel], pixels[:, :, channel], out=out[channel], mode="clip")
    return torch.from_numpy(out)
