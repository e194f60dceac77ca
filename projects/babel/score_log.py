"""scores.log: for each class, the images that have it in their ground truth, the best segmented first."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from projects.babel.segmentation_scores import BACKGROUND
from shared.files import atomic_write


@dataclass
class ScoreLog:
    """Collects a line per image and class: TP - FN - FP of the class in that image."""

    rows: list[list[tuple[int, str]]] = field(default_factory=list)

    def add(self, name: str, confusion: np.ndarray) -> None:
        """Note the image `name` with its own confusion counts [K, K]."""
        self.rows = self.rows or [[] for _ in confusion]
        hits, truth = np.diagonal(confusion), confusion.sum(1)
        scores = 3 * hits - truth - confusion.sum(0)
        for label in np.flatnonzero(truth):
            self.rows[label].append((int(scores[label]), name))

    def extend(self, other: "ScoreLog") -> None:
        """Add the images of another log after ours."""
        self.rows = self.rows or [[] for _ in other.rows]
        for own, more in zip(self.rows, other.rows, strict=False):
            own += more

    def lines(self, concepts: Sequence[str]) -> Iterable[str]:
        """The released lines; images of equal score in the order in which they came."""
        for label, name in enumerate((BACKGROUND, *concepts)):
            yield name
            images = self.rows[label] if self.rows else []
            yield from (f"{score:05d} | {image}" for score, image in sorted(images, key=lambda one: -one[0]))

    def write(self, path: str | os.PathLike[str], concepts: Sequence[str]) -> None:
        """Write the log atomically."""
        with atomic_write(path, "w") as file:
            file.writelines(f"{_one_line(line)}\n" for line in self.lines(concepts))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
