"""A trained network over pictures: views in, one mask and the concepts' scores out.

C concepts, K = 1 + C classes (0 = background), H, W the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from projects.babel import dense_crf, merging
from projects.babel.expectations import are, expect, is_number, is_whole
from projects.babel.model import Net, Segmenter, predict
from projects.babel.views import Views, crop_views, reduced, whole_views
from shared.errors import InputError
from shared.runtime import Runtime

METHODS = ("single", "multi", "crops")


@dataclass(frozen=True)
class ViewPlan:
    """Which views of a picture the network sees. One field per key of the `views` section.

    Attributes:
        method: "single" (one scale, no padding), "multi" (several, padded) or "crops" (on a grid).
        scales: of "multi".
        flip: with the mirrored views.
        pad: [height, width] of the canvas of "multi" and "crops"; null = as small as possible.
        crop, grid: of "crops": [height, width] of one, and how many per column and row.
        side: reduce pictures to this shorter side first; null = as they are.
    """

    method: str = "single"
    scales: Sequence[float] = (1.0,)
    flip: bool = True
    pad: Sequence[int] | None = None
    crop: Sequence[int] = (448, 448)
    grid: Sequence[int] = (2, 2)
    side: int | None = None

    def check(self) -> None:
        """InputError when a setting makes no sense."""
        if self.method not in METHODS:
            raise InputError(f"views.method: expected one of {', '.join(METHODS)}, found {self.method!r}")
        fits = are(self.scales, is_number) and len(self.scales) > 0 and min(self.scales) > 0
        expect("views.scales", fits, "positive numbers, e.g. [1,0.75]", self.scales)
        if self.method == "single" and list(self.scales) != [1.0]:
            raise InputError(
                "views.scales: method=single takes the scale 1 alone; method=multi takes several"
            )
        for name, pair in (("pad", self.pad), ("crop", self.crop), ("grid", self.grid)):
            fits = pair is None or (are(pair, is_whole) and len(pair) == 2 and min(pair) >= 1)
            expect(f"views.{name}", fits, "[height,width]", pair)
        fits = self.side is None or (is_whole(self.side) and self.side >= 1)
        expect("views.side", fits, "a number of pixels or null", self.side)

    def of(self, picture: np.ndarray) -> Views:
        """The views of a picture, uint8 RGB [H, W, 3]."""
        pad = None if self.pad is None else (self.pad[0], self.pad[1])
        if self.method == "crops":
            crop, grid = (self.crop[0], self.crop[1]), (self.grid[0], self.grid[1])
            return crop_views(picture, crop=crop, grid=grid, flip=self.flip, pad=pad)
        if self.method == "single":
            return whole_views(picture, flip=self.flip)
        return whole_views(picture, scales=self.scales, flip=self.flip, pad=pad)


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture.

    Attributes:
        picture: what the views were made of, uint8 RGB [h, w, 3] (see `ViewPlan.side`).
        logits: class scores of each view [n, C].
        merged: mean mask of the views, a softmax [K, h, w]; None for a network without masks.
    """

    picture: np.ndarray
    logits: Tensor
    merged: Tensor | None

    @property
    def scores(self) -> np.ndarray:
        """Probability of each concept [C]: the highest over the views."""
        return torch.sigmoid(self.logits).max(dim=0).values.cpu().numpy()

    def restricted(self, labels: str, background_power: float, truth: np.ndarray | None = None) -> Tensor:
        """Mask [K, h, w] with the concepts that `labels` allows (see `merging.choose_labels`)."""
        if self.merged is None:
            raise InputError("this model classifies pictures, it has no masks (model.kind: cls)")
        chosen = merging.choose_labels(labels, self.logits, truth)
        return merging.restrict(self.merged, chosen, background_power=background_power)


@dataclass(frozen=True)
class Predictor:
    """A network in evaluation mode, and how pictures are shown to it."""

    model: Net
    runtime: Runtime
    plan: ViewPlan

    @property
    def has_masks(self) -> bool:
        """Whether the network segments; `cls` nets only classify."""
        return isinstance(self.model, Segmenter)

    def __call__(self, picture: np.ndarray) -> Prediction:
        """What it says of uint8 RGB [H, W, 3]; InputError when that is not finite."""
        picture = reduced(picture, self.plan.side)
        views = self.plan.of(picture)
        with torch.inference_mode(), self.runtime.autocast():
            logits, masks = predict(self.model, views.images.to(self.runtime.device))
        logits = logits.float()
        merged = None if masks is None else merging.average(masks.float(), views)
        if not all(bool(part.isfinite().all()) for part in (logits, merged) if part is not None):
            raise InputError("the network's output is not finite (a damaged model?)")
        return Prediction(picture, logits, merged)


def with_crf(picture: np.ndarray, mask: Tensor) -> Tensor:
    """Probabilities [K, H, W] after the dense CRF. picture: uint8 [H, W, 3]; mask: [K, H, W], as restricted."""
    return torch.from_numpy(dense_crf.refine(picture, mask.cpu().numpy()))
