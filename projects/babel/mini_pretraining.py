"""What the embedded landmarks have for ImageNet: a backbone that has learnt to name parts of other things.

The things (furniture, vehicles, plants, solids: `mini_objects`) are in no split and share no concept with the
landmarks. As with ImageNet's weights, only the backbone is kept, not what names the parts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from projects.babel import augmentation
from projects.babel.augmentation import Box, Draw
from projects.babel.backbones import build_backbone
from projects.babel.mini_objects import PARTS, draw_pictures
from shared.data import BatchPlan, item_generator

STRIDE = 4  # of the part maps
_CROPS = (0.1, 0.8)  # share of the area
_THINGS = 0.3  # of a crop, at least; the best of a few draws
_TRIES = 6
_COLOURED = 0.8


class ObjectPictures:
    """Pictures of other things in memory, with the part that each pixel shows."""

    def __init__(self, count: int, *, seed: int, side: int, crop: int) -> None:
        self.seed, self.crop = seed, crop
        self._pictures = list(draw_pictures(count, seed=seed, side=side))

    def training_batch(self, plan: BatchPlan) -> tuple[Tensor, Tensor]:
        """Augmented images [B, 3, S, S] and parts int64 [B, S/4, S/4] of a plan."""
        draws = []
        for index in plan.indices.tolist():
            rng = item_generator(self.seed, plan.epoch, index)
            box = _draw_box(rng, self._pictures[index].parts)
            colours = augmentation.draw_colours(rng) if rng.random() < _COLOURED else None
            draws.append(Draw(box, bool(rng.random() < 0.5), colours))
        return self._batch(plan.indices.tolist(), draws)

    def evaluation_batch(self, rows: range) -> tuple[Tensor, Tensor]:
        """The same without mirroring and colours: one crop of each picture."""
        draws = []
        for row in rows:
            draws.append(Draw(_draw_box(item_generator(self.seed, 0, row), self._pictures[row].parts)))
        return self._batch(list(rows), draws)

    def _batch(self, rows: list[int], draws: list[Draw]) -> tuple[Tensor, Tensor]:
        images = [
            augmentation.apply(self._pictures[row].rgb, draw, self.crop)
            for row, draw in zip(rows, draws, strict=True)
        ]
        parts = [self._parts(row, draw) for row, draw in zip(rows, draws, strict=True)]
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(parts))

    def _parts(self, row: int, draw: Draw) -> np.ndarray:
        top, left, height, width = draw.box
        parts = Image.fromarray(self._pictures[row].parts[top : top + height, left : left + width])
        side = self.crop // STRIDE
        parts = parts.resize((side, side), Image.Resampling.NEAREST)
        found = np.asarray(parts, np.int64)
        return np.ascontiguousarray(found[:, ::-1]) if draw.mirrored else found


class PartNamer(nn.Module):
    """A backbone, and two convolutions that name the part at each place of its shallow map (stride 4).

    The backbone's layers lie flat in this module under their released names, as in the nets for landmarks.
    """

    def __init__(self, *, backbone: str, width: int, output_stride: int, head_width: int) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, width=width, output_stride=output_stride)
        for name, layer in self.backbone.layers.items():
            self.add_module(name, layer)
        self.deep = nn.Conv2d(self.backbone.deep, head_width, 1)
        self.shallow = nn.Conv2d(self.backbone.shallow, head_width, 1)
        self.norm = nn.BatchNorm2d(head_width)
        self.name = nn.Conv2d(head_width, len(PARTS), 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, parts, S/4, S/4] of normalised images [B, 3, S, S]."""
        maps = self.backbone.encode(self, images)
        shallow = self.shallow(maps.shallow)
        deep = F.interpolate(self.deep(maps.deep), shallow.shape[-2:], mode="bilinear", align_corners=True)
        logits: Tensor = self.name(F.relu(self.norm(shallow + deep)))
        return logits

    def backbone_state(self) -> dict[str, Tensor]:
        """The backbone's tensors: what `model.weights` of a training reads."""
        kept = tuple(f"{name}." for name in self.backbone.layers)
        state: Mapping[str, Any] = self.state_dict()
        return {
            name: value.detach().cpu().contiguous() for name, value in state.items() if name.startswith(kept)
        }


def _draw_box(rng: np.random.Generator, parts: np.ndarray) -> Box:
    """A crop that shows something, as photos do."""
    found: tuple[float, Box] | None = None
    for _ in range(_TRIES):
        box = augmentation.draw_box(rng, parts.shape[1], parts.shape[0], _CROPS)
        top, left, height, width = box
        share = float((parts[top : top + height, left : left + width] > 0).mean())
        if found is None or share > found[0]:
            found = share, box
        if share >= _THINGS:
            break
    assert found is not None
    return found[1]


def naming_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross-entropy of the pixels; "nothing" (id 0), half of all of them, weighs a quarter."""
    weights = logits.new_ones(logits.shape[1])
    weights[0] = 0.25
    return F.cross_entropy(logits.float(), parts, weight=weights.float())


def accuracies(logits: Tensor, parts: Tensor) -> dict[str, float]:
    """Share of pixels named right: of all, and of those that show a thing (`parts`)."""
    right = logits.argmax(1) == parts
    return {"pixels": float(right.float().mean()), "parts": float(right[parts > 0].float().mean())}


def one_cycle(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first fifth, then down along a cosine."""
    rise = max(1, steps // 5)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(1, steps - rise))))
