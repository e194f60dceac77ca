"""Colour jitter of a picture; the draws depend on the seed alone."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Jitter:
    """One draw: factors of brightness, contrast and saturation, shift of hue, and the order of the four."""

    order: tuple[int, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> the same with other colours."""
        from torchvision.transforms import functional

        picture = Image.fromarray(image)
        steps = (
            lambda: functional.adjust_brightness(picture, self.brightness),
            lambda: functional.adjust_contrast(picture, self.contrast),
            lambda: functional.adjust_saturation(picture, self.saturation),
            lambda: functional.adjust_hue(picture, self.hue),
        )
        for step in self.order:
            picture = steps[step]()
        return np.asarray(picture)


def draws(count: int, seed: int) -> list[Jitter]:
    """`count` draws of torchvision's ColorJitter(0.6, 0.6, 0.6, hue 0.1) under `torch.manual_seed(seed)`.

    torch's own generator is left as it was.
    """
    if not count:
        return []
    from torchvision.transforms import ColorJitter

    jitter = ColorJitter(0.6, 0.6, 0.6, 0.1)
    ranges = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(count):
            order, *values = ColorJitter.get_params(*ranges)
            found.append(Jitter(tuple(order.tolist()), *(float(value) for value in values)))
    return found
