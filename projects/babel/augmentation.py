"""Augmentation of an image together with its keypoints: random crop, mirroring, colours, normalisation.

Boxes are (top, left, height, width) in pixels; keypoints (row, column) as fractions of height and width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from shared.errors import InputError

Box = tuple[int, int, int, int]

IMAGENET_MEANS = (0.485, 0.456, 0.406)
IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)
RATIOS = (3 / 4, 4 / 3)  # of width to height
TRIES = 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.3, 0.3, 0.3, 0.1
_LEVELS = (
    (torch.arange(256, dtype=torch.float32).div(255).expand(3, 256) - torch.tensor(IMAGENET_MEANS)[:, None])
    / torch.tensor(IMAGENET_DEVIATIONS)[:, None]
).numpy()  # [3, 256]: the normalised value of every level


@dataclass(frozen=True)
class Colours:
    """A draw of the colour jitter: factors, a turn of the hue, and the order in which they are applied."""

    brightness: float
    contrast: float
    saturation: float
    hue: float  # in turns
    order: tuple[int, ...] = (0, 1, 2, 3)  # of brightness, contrast, saturation, hue


@dataclass(frozen=True)
class Draw:
    """What happens to one image."""

    box: Box
    mirrored: bool = False
    colours: Colours | None = None


@dataclass(frozen=True)
class Augmentation:
    """How training images are drawn.

    Attributes:
        size: side of the square that comes out, S.
        scale_from, scale_to: share of the area that the crop takes.
        mirrored: probability of mirroring.
        coloured: probability of the colour jitter.
    """

    size: int = 224
    scale_from: float = 0.9
    scale_to: float = 1.0
    mirrored: float = 0.5
    coloured: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 16:
            raise InputError(f"data.size: expected at least 16 pixels, found {self.size}")
        if not 0 < self.scale_from <= self.scale_to <= 1:
            found = f"{self.scale_from} and {self.scale_to}"
            raise InputError(f"data.scale_from, data.scale_to: expected 0 < from <= to <= 1, found {found}")
        for name, value in (("mirrored", self.mirrored), ("coloured", self.coloured)):
            if not 0 <= value <= 1:
                raise InputError(f"data.{name}: expected a probability, found {value}")

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Draw:
        """A draw for an image of this size, from the item's generator."""
        box = draw_box(rng, width, height, (self.scale_from, self.scale_to))
        mirrored = bool(rng.random() < self.mirrored)
        return Draw(box, mirrored, draw_colours(rng) if rng.random() < self.coloured else None)


def draw_box(rng: np.random.Generator, width: int, height: int, scale: tuple[float, float]) -> Box:
    """A box of `scale` times the area and an aspect of 3:4 to 4:3; after ten tries the central square.

    The aspect is uniform, and width and height change places half of the time (as in torchvision 0.2, which the
    released code ran on).
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(*scale)
        ratio = rng.uniform(*RATIOS)
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if rng.random() < 0.5:
            w, h = h, w
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(width, height)
    return (height - side) // 2, (width - side) // 2, side, side


def draw_colours(rng: np.random.Generator) -> Colours:
    """Factors of 1 +- 0.3, a hue turned by up to 0.1, in random order."""
    brightness, contrast, saturation = (
        float(rng.uniform(1 - extent, 1 + extent)) for extent in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    first, second, third, fourth = rng.permutation(4).tolist()
    hue = float(rng.uniform(-HUE, HUE))
    return Colours(brightness, contrast, saturation, hue, (first, second, third, fourth))


def crop_points(rowcol: np.ndarray, size: tuple[int, int], draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Where keypoints are after the crop and the mirroring, and which are still inside.

    Args:
        rowcol: [K, 2] fractions of the whole image.
        size: its (height, width).
        draw: what happens to it.

    Returns:
        [K, 2] float64 fractions of the crop, and [K] bool: both in [0, 1], ends included.
    """
    top, left, height, width = draw.box
    points = (np.asarray(rowcol, np.float64) * size - (top, left)) / (height, width)
    inside: np.ndarray = np.all((points >= 0) & (points <= 1), axis=1)
    if draw.mirrored:
        points[:, 1] = 1 - points[:, 1]
    return points, inside


def apply(pixels: np.ndarray, draw: Draw, side: int) -> np.ndarray:
    """uint8 [H, W, 3] -> normalised float32 [3, S, S]: crop, bicubic resize, mirroring, colours."""
    top, left, height, width = draw.box
    image = Image.fromarray(pixels[top : top + height, left : left + width])
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    if draw.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.colours is not None:
        image = recolour(image, draw.colours)
    return normalized(np.asarray(image))


def whole(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, 3] -> normalised float32 [3, S, S]: the whole image, stretched (validation)."""
    return apply(pixels, Draw((0, 0, *pixels.shape[:2])), side)


def recolour(image: Image.Image, colours: Colours) -> Image.Image:
    """The colour jitter, as torchvision's on PIL images."""
    for what in colours.order:
        if what == 0:
            image = ImageEnhance.Brightness(image).enhance(colours.brightness)
        elif what == 1:
            image = ImageEnhance.Contrast(image).enhance(colours.contrast)
        elif what == 2:
            image = ImageEnhance.Color(image).enhance(colours.saturation)
        else:
            hue, saturation, value = image.convert("HSV").split()
            turned = np.asarray(hue) + np.uint8(int(colours.hue * 255) % 256)  # modulo 256
            image = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
    return image


def normalized(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [3, H, W] with ImageNet's means and deviations."""
    out = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        np.take(_LEVELS[channel], pixels[:, :, channel], out=out[channel], mode="clip")
    return out


def denormalized(images: Tensor) -> Tensor:
    """Normalised [B, 3, H, W] -> [0, 1]."""
    means, deviations = (
        images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEANS, IMAGENET_DEVIATIONS)
    )
    return images * deviations + means
