"""Evaluate a model: its masks on the pictures of a list, its concept scores on a split.

C concepts, K = 1 + C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel.classification_scores import ClassificationScores, classification_scores
from projects.babel.data import ImageBatch, Split
from projects.babel.expectations import expect_positive
from projects.babel.mask_evaluation import MaskTally
from projects.babel.masks import read_mask
from projects.babel.merging import LABEL_CHOICES, label_map
from projects.babel.model import Net
from projects.babel.segmentation_scores import IGNORED, confusion
from projects.babel.segmenting import Prediction, Predictor
from shared.data import eval_plans
from shared.encoding import encode_all
from shared.errors import InputError
from shared.files import read_image
from shared.progress import Progress
from shared.runtime import Runtime, gather_objects

FOREGROUND = "foreground"


@dataclass(frozen=True)
class Protocol:
    """Which concepts a mask may hold (see `merging.choose_labels`), and the power of its background."""

    labels: str
    background_power: float

    @property
    def name(self) -> str:
        """A key of results.json: "best-4"."""
        return f"{self.labels}-{self.background_power:g}".replace(".", "_")


def protocols(labels: Sequence[str], powers: Sequence[float]) -> list[Protocol]:
    """Every combination, the first one being the one that is reported; InputError for what is none."""
    for name in labels:
        if name not in LABEL_CHOICES:
            raise InputError(f"labels: expected some of {', '.join(LABEL_CHOICES)}, found {name!r}")
    for power in powers:
        expect_positive("background_powers", power)
    if not labels or not powers:
        raise InputError("labels and background_powers: expected at least one of each")
    return [Protocol(one, float(power)) for one in labels for power in powers]


def evaluate_masks(
    predictor: Predictor,
    pairs: Sequence[tuple[Path, Path]],
    concepts: Sequence[str],
    wanted: Sequence[Protocol],
    *,
    unreadable: str = "error",
) -> dict[str, MaskTally]:
    """A tally per protocol, by name, from one prediction per picture; the same on all ranks.

    `foreground`: the concept (never the background) with the highest mask on the pixels that truly show one, so
    that only the choice among concepts counts.

    Args:
        predictor: the model.
        pairs: (picture, true mask) of a list.
        concepts: names of labels 1, 2, ...
        wanted: the protocols.
        unreadable: "error", or "skip": leave out and count pictures or masks that cannot be read or do not fit.

    Raises:
        InputError: see `unreadable`; or no image could be evaluated.
    """
    if unreadable not in ("error", "skip"):
        raise InputError(f"unreadable: expected error or skip, found {unreadable!r}")
    runtime = predictor.runtime
    tallies = {name: MaskTally(concepts) for name in (*(one.name for one in wanted), FOREGROUND)}
    shares = eval_plans(len(pairs), len(pairs), rank=runtime.rank, world_size=runtime.world_size)
    own = [pairs[i] for share in shares for i in share.indices]
    with Progress(len(own), unit="picture", label="masks", silent=not runtime.is_main) as bar:
        for picture, true_mask in own:
            try:
                counts = _counts(predictor, picture, true_mask, len(concepts) + 1, wanted)
            except InputError as error:
                if unreadable == "error":
                    raise
                for tally in tallies.values():
                    tally.skipped.append(str(error))
            else:
                for name, one in counts.items():
                    tallies[name].add(picture.name, one)
            bar.update()
    parts = gather_objects(tallies)
    return {name: MaskTally.joined([part[name] for part in parts]) for name in tallies}


def _counts(
    predictor: Predictor, picture: Path, true_mask: Path, classes: int, wanted: Sequence[Protocol]
) -> dict[str, np.ndarray]:
    truth = read_mask(true_mask)
    pixels = read_image(picture, exif=False)
    if pixels.shape[:2] != truth.shape:
        raise InputError(f"{true_mask}: a mask of {_size(truth)} pixels for a picture of {_size(pixels)}")
    found = predictor(pixels)
    counts = {}
    for one in wanted:
        mask = found.restricted(one.labels, one.background_power, truth)
        labels = label_map(mask, truth.shape[:2])
        counts[one.name] = confusion(labels, truth, classes, source=str(true_mask))
    counts[FOREGROUND] = _foreground(found, truth, classes, str(true_mask))
    return counts


def _foreground(found: Prediction, truth: np.ndarray, classes: int, source: str) -> np.ndarray:
    assert found.merged is not None
    labels = 1 + label_map(found.merged[1:], truth.shape[:2])
    return confusion(labels, np.where(truth == 0, IGNORED, truth), classes, source=source)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def class_scores(
    model: Net,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    random_crops: bool = False,
    label: str | None = None,
) -> np.ndarray:
    """Scores (before the sigmoid) of every image of a split, float32 [N, C], the same on all ranks.

    random_crops: augmented pictures as in the released validation, else whole ones. label: shows progress.
    """

    def fetch(plan: Any) -> ImageBatch:
        return split.fetch_val(plan, random_crops=random_crops)

    plans = eval_plans(len(split), batch_size, rank=runtime.rank, world_size=runtime.world_size)
    shape = (len(split), split.labels.shape[1])
    return encode_all(
        model, lambda batch: model(batch.images).scores, fetch, plans, shape, runtime,
        workers=workers, label=label,
    )  # fmt: skip


def classify(
    model: Net, split: Split, runtime: Runtime, *, multi_label: bool = False, **how: Any
) -> ClassificationScores:
    """Average precision and accuracy on a split; `how`: see `class_scores`."""
    scores = class_scores(model, split, runtime, **how)
    return classification_scores(scores, split.first, split.labels, multi_label=multi_label)


def summary(tallies: Mapping[str, MaskTally], primary: str) -> dict[str, Any]:
    """Numbers of one list: of the primary protocol, of all of them, of the foreground."""
    others = {name: tally.metrics() for name, tally in tallies.items() if name != FOREGROUND}
    found = {"segmentation": others[primary], "protocols": others}
    return found | ({FOREGROUND: tallies[FOREGROUND].metrics()} if FOREGROUND in tallies else {})
