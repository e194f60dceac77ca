"""What the mini-kitchen has for ImageNet: a CNN that has learnt to name what is on photos of other dishes.

The dishes are drawn anew and are in no split. As with ImageNet's, only the CNN is kept, not the classifier.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from projects.xmrs.image_encoder import ImageBackbone
from projects.xmrs.images import evaluation_image, training_image
from projects.xmrs.mini_drawing import draw_photo
from projects.xmrs.mini_world import CONCEPTS, Dish, draw_dish
from shared.data import BatchPlan, item_generator

NAMED = ("vessel", "base", "over", "under", "finish")  # one of a kind each; then the others, any number
SIZES = tuple(len(CONCEPTS[kind]) for kind in ("vessel", "base", "ingredient", "ingredient", "finish"))
OTHERS = len(CONCEPTS["ingredient"])
_STREAM = 1_000_003  # apart from the streams of the set's own photos


class DishPhotos:
    """Photos of new dishes in memory, with what is on them: labels [N, 5] and others [N, 24] (0 or 1)."""

    def __init__(self, count: int, *, seed: int, photo_side: int = 80) -> None:
        rng = np.random.default_rng([seed, _STREAM])
        dishes = [draw_dish(rng) for _ in range(count)]
        self.seed = seed
        self.photos = [Image.fromarray(draw_photo(dish, rng, photo_side)) for dish in dishes]
        self.labels = torch.tensor([_labels(dish) for dish in dishes])
        self.others = torch.zeros(count, OTHERS)
        for row, dish in enumerate(dishes):
            self.others[row, list(dish.ingredients[2:])] = 1

    def training_images(self, plan: BatchPlan, *, side: int, resize: int) -> Tensor:
        """Augmented images [B, 3, S, S] of a plan."""
        return torch.stack(
            [
                training_image(
                    self.photos[index], item_generator(self.seed, plan.epoch, index), side=side, resize=resize
                )
                for index in plan.indices.tolist()
            ]
        )

    def evaluation_images(self, rows: range, *, side: int, resize: int) -> Tensor:
        """Images [len(rows), 3, S, S] without augmentation."""
        return torch.stack([evaluation_image(self.photos[index], side=side, resize=resize) for index in rows])


class DishNamer(nn.Module):
    """A CNN and a linear classifier: images [B, 3, S, S] -> logits [B, 89] of all that can be named."""

    def __init__(self, *, backbone: str, width: int) -> None:
        super().__init__()
        self.cnn = ImageBackbone(backbone=backbone, width=width)
        self.classifier = nn.Sequential(
            nn.BatchNorm1d(self.cnn.dim), nn.Linear(self.cnn.dim, sum(SIZES) + OTHERS)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, in the order of NAMED and then the others."""
        logits: Tensor = self.classifier(self.cnn(images))
        return logits


def naming_loss(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Cross-entropy of each kind, and of the other ingredients one by one."""
    *kinds, last = _parts(logits)
    named = sum(F.cross_entropy(part, labels[:, column]) for column, part in enumerate(kinds))
    return named + len(SIZES) * F.binary_cross_entropy_with_logits(last, others)


def accuracies(logits: Tensor, labels: Tensor, others: Tensor) -> dict[str, float]:
    """Share of photos named right, by kind; `others`: all of them right."""
    *kinds, last = _parts(logits)
    found = {
        name: float((part.argmax(dim=1) == labels[:, column]).float().mean())
        for column, (name, part) in enumerate(zip(NAMED, kinds, strict=True))
    }
    return {**found, "others": float(((last > 0) == (others > 0.5)).all(dim=1).float().mean())}


def one_cycle(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first fifth, then down along a cosine."""
    rise = max(1, steps // 5)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, steps - rise))))


def _parts(logits: Tensor) -> Iterator[Tensor]:
    return iter(logits.split([*SIZES, OTHERS], dim=1))


def _labels(dish: Dish) -> list[int]:
    return [dish.vessel, dish.base, dish.ingredients[0], dish.ingredients[1], dish.finish]
