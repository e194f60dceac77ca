"""What a net, or masks that were written before, say of the points of a reconstruction, view by view.

K = 1 + C classes (0 = background), M keypoints of a view, N points.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from projects.babel import masks
from projects.babel.colmap import UNKNOWN
from projects.babel.expectations import expect_positive
from projects.babel.fusion import Fusion, PointScores, sample_labels, sample_scores
from projects.babel.reconstructions import Reconstruction
from projects.babel.segmenting import Predictor, ViewPlan
from projects.babel.sources import training_side
from projects.babel.trained import Trained
from shared.errors import InputError
from shared.files import read_image
from shared.progress import Progress
from shared.runtime import Runtime

_PROPORTIONS = 1.5  # pixels by which a reduced picture may miss the proportions of the original
# (picture's name, (height, width) of its camera, keypoints [M, 2]) -> scores [M, K], which of them count [M]
View = Callable[[str, tuple[int, int], np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass
class Fused:
    """A reconstruction with the classes of its points.

    single: how often single views are right, over keypoints; None without true classes.
    """

    reconstruction: Reconstruction
    fusion: Fusion
    single: PointScores | None
    missing: list[str] = field(default_factory=list)

    def scores(self, kind: str) -> PointScores | None:
        """How often the fused classes are right, over points that a view sees."""
        truth = self.reconstruction.truth
        if truth is None or self.single is None:
            return None
        scores = PointScores.empty(len(self.single.counts))
        scores.add(truth, self.fusion.labels(kind))
        return scores


@dataclass(frozen=True)
class FromNet:
    """Scores of a net: the merged masks of each picture, restricted as for 2D masks, as shares of one."""

    predictor: Predictor
    labels: str = "all"
    background_power: float = 4.0

    def __call__(self, file: str, size: tuple[int, int], rowcol: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See View."""
        picture = read_image(file, exif=False)
        _check_size(file, picture.shape, size)
        mask = self.predictor(picture).restricted(self.labels, self.background_power)
        scores = sample_scores(mask, rowcol)
        return scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12), np.ones(len(scores), bool)


@dataclass(frozen=True)
class FromMasks:
    """Votes of the masks that infer.py wrote, named like the pictures."""

    classes: int

    def __call__(self, file: str, size: tuple[int, int], rowcol: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See View."""
        mask = masks.read_mask(file)
        _check_size(file, mask.shape, size)
        labels = sample_labels(mask, rowcol)
        known = labels != UNKNOWN
        if known.any() and labels[known].max() >= self.classes:
            raise InputError(
                f"{file}: label {labels[known].max()}, expected 0 to {self.classes - 1} (or {UNKNOWN})"
            )
        return np.eye(self.classes, dtype=np.float32)[np.where(known, labels, 0)], known


def fuse(reconstruction: Reconstruction, view: View, num_classes: int) -> Fused:
    """Add up all views of a reconstruction, one at a time, with progress."""
    model, truth = reconstruction.model, reconstruction.truth
    fusion = Fusion(len(model.point_ids), num_classes)
    done = Fused(reconstruction, fusion, None if truth is None else PointScores.empty(num_classes))
    if truth is not None and (wrong := (truth >= num_classes) & (truth != UNKNOWN)).any():
        raise InputError(
            f"{reconstruction.name}: true class {truth[wrong][0]}, expected 0 to {num_classes - 1} (or {UNKNOWN}): "
            "labels of other concepts?"
        )
    with Progress(len(model.names), unit="view", label=f"views of {reconstruction.name}") as bar:
        for i, file in enumerate(reconstruction.files):
            points, rowcol = model.observations(i)
            if file is None:
                done.missing.append(model.names[i])
            elif len(points):
                scores, known = view(str(file), model.size(i), rowcol)
                points, scores = points[known], scores[known]
                fusion.add(points, scores)
                if done.single is not None and truth is not None:
                    done.single.add(truth[points], scores.argmax(axis=1))
            bar.update()
    return done


def choose_view(settings: Mapping[str, Any], model: Trained, runtime: Runtime, plan: ViewPlan) -> View:
    """A net's view, or that of masks where the settings name a folder of them; InputError for unknown choices.

    The user's own pictures (`images`) are reduced to the side that the net was trained on, where the settings say none.
    """
    if settings["masks"] is not None:
        return FromMasks(len(model.concepts) + 1)
    if settings["labels"] not in ("best", "all"):
        raise InputError(f"labels: expected best or all, found {settings['labels']!r}")
    expect_positive("background_power", settings["background_power"])
    if settings["images"] is not None and plan.side is None:
        plan = dataclasses.replace(plan, side=training_side(model))
    predictor = Predictor(model.model, runtime, plan)
    return FromNet(predictor, settings["labels"], float(settings["background_power"]))


class Totals:
    """Counts over reconstructions, which need not be kept."""

    def __init__(self, concepts: tuple[str, ...]) -> None:
        self.concepts = concepts
        self._scores: dict[str, PointScores] = {}
        self._sums = dict.fromkeys(
            ("reconstructions", "points", "points_without_a_view", "views", "keypoints", "missing_images"), 0
        )

    def add(self, fused: Fused) -> None:
        """Count a reconstruction."""
        seen = fused.fusion.seen
        counts = (
            1,
            len(seen),
            int((seen == 0).sum()),
            fused.fusion.views,
            int(seen.sum()),
            len(fused.missing),
        )
        for name, count in zip(self._sums, counts, strict=True):
            self._sums[name] += count
        for kind in ("mean", "majority", "single_view"):
            found = fused.single if kind == "single_view" else fused.scores(kind)
            if found is not None:
                total = self._scores.setdefault(kind, PointScores.empty(len(self.concepts) + 1))
                total.counts += found.counts

    def metrics(self) -> dict[str, Any]:
        """`PointScores.metrics` of mean, majority and single views where true classes are known, and the counts."""
        return {**{kind: one.metrics(self.concepts) for kind, one in self._scores.items()}, **self._sums}


def _check_size(file: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Pictures may be smaller than those of the reconstruction, of the same proportions."""
    if abs(shape[0] * size[1] - shape[1] * size[0]) > _PROPORTIONS * max(size):
        raise InputError(
            f"{file}: {shape[1]} x {shape[0]} pixels, its camera in the reconstruction has {size[1]} x {size[0]}: "
            "expected the same proportions"
        )
