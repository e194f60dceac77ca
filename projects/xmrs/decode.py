"""Between the generator's images (ImageNet-normalised colours) and pictures that people and files take."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from projects.xmrs.images import IMAGENET_DEVIATIONS, IMAGENET_MEANS
from shared.files import atomic_write

LEGACY_DEVIATIONS = (0.229, 0.224, 0.255)  # blue: a typing error of the release, and in the images it saved
JPEG_QUALITY = 75


def to_pixels(images: Tensor, *, legacy_blue: bool = False) -> np.ndarray:
    """uint8 [..., H, W, 3] of normalised images [..., 3, H, W]: cut to 0..1, times 255, fractions dropped.

    legacy_blue: undo the normalisation with the released code's deviation of blue.
    """
    deviations = torch.tensor(LEGACY_DEVIATIONS if legacy_blue else IMAGENET_DEVIATIONS)[:, None, None]
    colours = images.detach().float().cpu() * deviations + torch.tensor(IMAGENET_MEANS)[:, None, None]
    pixels: np.ndarray = colours.clamp(0, 1).mul(255).to(torch.uint8).movedim(-3, -1).contiguous().numpy()
    return pixels


def to_picture(image: Tensor, *, autocontrast: bool = True, legacy_blue: bool = False) -> Image.Image:
    """One normalised image [3, H, W] as a picture, each colour stretched to the full range as released.

    A generator ends in tanh, so without the stretching its pictures are pale.
    """
    picture = Image.fromarray(to_pixels(image, legacy_blue=legacy_blue))
    return ImageOps.autocontrast(picture) if autocontrast else picture


def save_jpeg(path: Path, picture: Image.Image) -> None:
    """Write a JPEG of the released quality, atomically."""
    with atomic_write(path) as file:
        picture.save(file, "JPEG", quality=JPEG_QUALITY)
