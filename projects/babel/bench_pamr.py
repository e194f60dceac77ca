"""Bench cases of PAMR: neighbours summed up as shifted views, beside all of them made at once as released."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from projects.babel import bench_released
from projects.babel.pamr import PAMR
from projects.babel.pseudo_labels import label_classes, take_classes
from shared.bench import Case, Sides, Target


def inputs(quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, h, w], masks [B, 11, h, w], labels [B, 10] with one concept each; 36 x 56 x 56 as released."""
    generator = torch.Generator().manual_seed(0)
    count, side = (2, 12) if quick else (36, 56)
    images = torch.rand(count, 3, side, side, generator=generator)
    masks = torch.randn(count, 11, side, side, generator=generator).mul(3).softmax(1)
    labels = torch.eye(10)[torch.arange(count) % 10]
    return images, masks, labels


def refinement(quick: bool) -> Sides:
    """All masks of a batch of 18 pairs; `labelled`: those of the background and the labels, as training needs."""
    images, masks, labels = inputs(quick)
    module = PAMR()

    def labelled() -> Tensor:
        refined: Tensor = module(images, take_classes(masks, label_classes(labels)))
        return refined

    return {
        "released": partial(bench_released.pamr, images, masks),
        "ours": partial(module, images, masks),
        "labelled": labelled,
    }


def check(outputs: Mapping[str, Any]) -> str:
    """Refined masks agree."""
    expected = outputs["released"]
    labels = torch.eye(10)[torch.arange(len(expected)) % 10]
    pairs = (outputs["ours"], expected), (outputs["labelled"], take_classes(expected, label_classes(labels)))
    worst = max(float((found - whole).abs().max()) for found, whole in pairs)
    assert worst < 1e-4, f"masks differ by {worst:.1e}"
    return f"masks agree to {worst:.0e}"


CASES = [
    Case(
        "pamr",
        "PAMR, 36 images x 11 masks x 56 x 56, 48 neighbours, 10 iterations",
        refinement,
        check,
        (Target("ours", "released", 4.0), Target("labelled", "released")),
        memory=True,
    )
]
