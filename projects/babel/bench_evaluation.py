"""Bench cases of evaluation: a folder of masks against the ground truth."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from projects.babel.concepts import CONCEPTS
from projects.babel.mask_evaluation import evaluate_files
from projects.babel.masks import read_mask
from projects.babel.segmentation_scores import SegmentationScores, confusion
from shared.bench import Case, Sides, Target

NUM_IMAGES, SIZE = 237, (150, 200)  # the hand-segmented images of WikiScenes
_RELEASED = "released: loops over pixels"
_CLASSES = len(CONCEPTS) + 1
_RELEASED_CLASSES = 21


@functools.cache
def written(count: int, size: tuple[int, int], seed: int = 0) -> tuple[Path, list[tuple[Path, Path]]]:
    """Masks of smooth regions as PNG files: the folder of the predictions, and the list's pairs."""
    folder = Path(tempfile.mkdtemp(prefix="bench-masks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng, pairs = np.random.default_rng(seed), []
    for name in ("pred", "true"):
        (folder / name).mkdir()
    for i in range(count):
        truth, other = (_regions(rng, size) for _ in range(2))
        prediction = np.where(_regions(rng, size) < 4, other, truth)
        truth[_regions(rng, size) == 7] = 255
        Image.fromarray(truth).save(folder / "true" / f"{i}.png")
        Image.fromarray(prediction).save(folder / "pred" / f"{i}.png")
        pairs.append((folder / f"{i}.jpg", folder / "true" / f"{i}.png"))
    return folder / "pred", pairs


def _regions(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    coarse = torch.from_numpy(rng.standard_normal((1, _CLASSES, 6, 8)).astype(np.float32))
    return F.interpolate(coarse, size=size, mode="bicubic")[0].argmax(0).to(torch.uint8).numpy()


def released_confusion(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts [21, 21], a pixel at a time."""
    counts = np.zeros((_RELEASED_CLASSES, _RELEASED_CLASSES))
    for true_label, label in zip(truth.reshape(-1), prediction.reshape(-1), strict=True):
        if true_label < _RELEASED_CLASSES:
            counts[true_label, label] += 1
    return counts


def released_evaluation(folder: Path, pairs: list[tuple[Path, Path]]) -> np.ndarray:
    """Read and count image by image."""
    total = np.zeros((_RELEASED_CLASSES, _RELEASED_CLASSES))
    for picture, true_mask in pairs:
        prediction = np.array(Image.open(folder / f"{picture.stem}.png"))
        total += released_confusion(prediction, np.array(Image.open(true_mask)))
    return total


def our_evaluation(folder: Path, pairs: list[tuple[Path, Path]]) -> np.ndarray:
    """The same through what `eval.py` calls."""
    return evaluate_files(pairs, folder, CONCEPTS).confusion


def files(quick: bool) -> Sides:
    """From files to counts; `quick`: three small masks."""
    given = written(3, (20, 30)) if quick else written(NUM_IMAGES, SIZE)
    return {_RELEASED: partial(released_evaluation, *given), "ours": partial(our_evaluation, *given)}


def counting(quick: bool) -> Sides:
    """The counting alone, the masks being in memory."""
    folder, pairs = written(3, (20, 30)) if quick else written(NUM_IMAGES, SIZE)
    masks = [(read_mask(folder / f"{p.stem}.png"), read_mask(true)) for p, true in pairs]
    masks = masks[: 3 if quick else 40]

    def released() -> np.ndarray:
        return np.sum([released_confusion(*one) for one in masks], axis=0)

    def ours() -> np.ndarray:
        return np.sum([confusion(*one, _CLASSES) for one in masks], axis=0)

    return {_RELEASED: released, "ours": ours}


def check_counts(outputs: Mapping[str, Any]) -> str:
    """Every count is equal, and so is every score."""
    released, ours = outputs[_RELEASED], outputs["ours"]
    assert released[_CLASSES:].sum() == released[:, _CLASSES:].sum() == 0
    assert np.array_equal(released[:_CLASSES, :_CLASSES], ours), "the counts differ"
    return f"all {int(ours.sum())} pixels are counted equally, mIoU {SegmentationScores(ours).iou[1:].mean():.2f}"


CASES = [
    Case(
        "evaluate_masks",
        f"IoU of {NUM_IMAGES} masks of {SIZE[0]} x {SIZE[1]} pixels, from PNG files to the counts",
        files,
        check_counts,
        (Target("ours", _RELEASED, 50.0),),
    ),
    Case(
        "count_masks",
        f"counting alone: 40 masks of {SIZE[0]} x {SIZE[1]} pixels in memory",
        counting,
        check_counts,
        (Target("ours", _RELEASED, 50.0),),
    ),
]
