"""Index masks against the ground truth of a list, one image at a time.

K = 1 + number of concepts.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from projects.babel.masks import read_mask
from projects.babel.score_log import ScoreLog
from projects.babel.segmentation_scores import IGNORED, SegmentationScores, confusion
from shared.errors import InputError

UNREADABLE = ("error", "skip")
ORACLE_SHARE = 0.5  # of a cell that a concept must fill


@dataclass
class MaskTally:
    """Counts of a set of images, and which were left out."""

    concepts: Sequence[str]
    log: ScoreLog = field(default_factory=ScoreLog)
    images: int = 0
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.concepts) + 1,) * 2, np.int64)

    def add(self, name: str, counts: np.ndarray) -> None:
        """Add an image with its own confusion counts [K, K]."""
        self.confusion += counts
        self.images += 1
        self.log.add(name, counts)

    @classmethod
    def joined(cls, parts: Sequence["MaskTally"]) -> "MaskTally":
        """The tally of all parts, in their order."""
        whole = cls(parts[0].concepts)
        for part in parts:
            whole.confusion += part.confusion
            whole.images += part.images
            whole.skipped += part.skipped
            whole.log.extend(part.log)
        return whole

    @property
    def scores(self) -> SegmentationScores:
        """Of all images so far; InputError when there is none."""
        if not self.images:
            reason = f"; the first: {self.skipped[0]}" if self.skipped else ""
            raise InputError(f"segmentation: no image was evaluated, {len(self.skipped)} left out{reason}")
        return SegmentationScores(self.confusion)

    def metrics(self) -> dict[str, Any]:
        """Numbers for results.json, with how many images they are of."""
        return {
            **self.scores.metrics(self.concepts), "images": self.images, "skipped": len(self.skipped),
        }  # fmt: skip

    def table(self) -> str:
        """The released table, under the number of images."""
        return f"# of images: {self.images}\n{self.scores.table(self.concepts)}"


def evaluate_files(
    pairs: Sequence[tuple[Path, Path]],
    masks: Path,
    concepts: Sequence[str],
    *,
    unreadable: str = "error",
    oracle_from: tuple[int, int] | None = None,
) -> MaskTally:
    """Compare `<masks>/<stem of the picture>.png` with the true mask of each (picture, mask) pair.

    Args:
        pairs: of `splits.read_segmentation_list`.
        masks: folder of the predictions.
        concepts: names of labels 1, 2, ...
        unreadable: "error", or "skip": leave out and count an image whose mask is missing, damaged or of another
            size (the released evaluation skips it in silence).
        oracle_from: score what masks of (height, width) pixels could reach at best instead, see `oracle_mask`.

    Raises:
        InputError: see `unreadable`; or no image could be evaluated.
    """
    if unreadable not in UNREADABLE:
        raise InputError(f"unreadable: expected one of {', '.join(UNREADABLE)}, found {unreadable!r}")
    if oracle_from is None and not masks.is_dir():
        raise InputError(f"{masks}: no such folder of masks")
    stems = [picture.stem for picture, _ in pairs]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise InputError(f"{masks}: two pictures of the list share the mask {twice}.png")

    def counted(pair: tuple[Path, Path]) -> np.ndarray | InputError:
        try:
            truth = read_mask(pair[1])
            if oracle_from is not None:
                file, prediction = pair[1], oracle_mask(truth, len(concepts) + 1, oracle_from)
            else:
                file = masks / f"{pair[0].stem}.png"
                prediction = read_mask(file)
            return confusion(prediction, truth, len(concepts) + 1, source=str(file))
        except InputError as error:
            return error

    tally = MaskTally(concepts)
    with ThreadPoolExecutor(
        min(8, os.cpu_count() or 1)
    ) as pool:  # decoders and NumPy let go of the interpreter
        for (picture, _), found in zip(pairs, pool.map(counted, pairs), strict=True):
            if not isinstance(found, InputError):
                tally.add(picture.name, found)
            elif unreadable == "skip":
                tally.skipped.append(str(found))
            else:
                pool.shutdown(wait=False, cancel_futures=True)
                raise InputError(f"{found} (unreadable=skip leaves it out)")
    return tally


def oracle_mask(
    truth: np.ndarray, classes: int, size: tuple[int, int], *, share: float = ORACLE_SHARE
) -> np.ndarray:
    """The true mask after a detour over `size` (height, width): what a network of that output size could reach.

    The share of each class in a cell is averaged down and interpolated up; a pixel gets the class of more than
    `share`, else the background. Pixels that are ignored belong to no class. uint8 [H, W].
    """
    labels = torch.from_numpy(truth.astype(np.int64))
    labels = labels.masked_fill(labels == IGNORED, classes)
    if int(labels.max()) > classes:
        raise InputError(f"ground truth has label {int(labels.max())}, expected 0 to {classes - 1}")
    planes = F.one_hot(labels, classes + 1)[..., :classes].permute(2, 0, 1)[None].float()
    small = F.adaptive_avg_pool2d(planes, size)
    back = F.interpolate(small, size=truth.shape, mode="bilinear", align_corners=False)[0]
    found = back.argmax(0)
    found[back.max(0).values <= share] = 0
    return found.to(torch.uint8).numpy()
