"""The images of a split for the exports: their ids, labels and keypoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from projects.babel.correspondence import Correspondence
from projects.babel.data import DataSet
from projects.babel.pictures import PictureStore, present
from projects.babel.splits import image_id, multi_hot, read_split
from shared.errors import InputError


@dataclass(frozen=True)
class Keypoints:
    """The M keypoints of I images, image by image.

    offsets: int64 [I + 1]. points: int32 [M], indices into point_ids; point_ids: S [P]. rows: int32 [M], images.
    rowcol: float32 [M, 2], fractions.
    """

    offsets: np.ndarray
    points: np.ndarray
    point_ids: np.ndarray
    rows: np.ndarray
    rowcol: np.ndarray


class ExportSource:
    """The images of a split in the order of its file.

    ids: of the images. first: int64 [I], first labels. labels: float32 [I, C]. missing: images left out
    (`data.skip_missing`).
    """

    def __init__(self, data: DataSet, split: str, concepts: Sequence[str]) -> None:
        file = data.split_file(split)
        root = Path(data.root)
        rows, self.missing = present(
            read_split(file, tuple(concepts)), root, skip=data.skip_missing, source=file
        )
        rows = rows[: data.max_items]
        if not rows:
            raise InputError(f"{file}: no images")
        self.ids = [image_id(row.path) for row in rows]
        hot = multi_hot(rows, concepts)
        self.first = np.array([labels[0] for labels in hot], np.int64)
        self.labels = np.zeros((len(rows), len(concepts)), np.float32)
        for row, labels in zip(self.labels, hot, strict=True):
            row[list(labels)] = 1
        self._data, self._store = data, PictureStore([root / row.path for row in rows])

    def read(self, row: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return self._store.read(row)

    @cached_property
    def correspondence(self) -> Correspondence:
        """Of the whole set; InputError when the data have none."""
        if self._data.correspondence is None:
            raise InputError("data.correspondence: is null; keypoints are exported from it")
        return Correspondence.open(self._data.correspondence, cache=self._data.cache)

    @property
    def left_out(self) -> dict[str, int]:
        """Counts of what was skipped: missing images, and keypoints outside their picture where any were read."""
        read = "correspondence" in self.__dict__
        counts = {
            "missing images": len(self.missing),
            "keypoints outside their picture": self.correspondence.num_outside if read else 0,
        }
        return {what: count for what, count in counts.items() if count}

    def keypoints(self) -> Keypoints:
        """Of all images; InputError when they have none."""
        found = [
            None if place is None else self.correspondence.keypoints(place)
            for place in self.correspondence.indices_of(self.ids)
        ]
        counts = [0 if one is None else len(one[0]) for one in found]
        kept = [one for one in found if one is not None]
        if not sum(counts):
            raise InputError(f"{self._data.correspondence}: no keypoint of the {len(self.ids)} images")
        points = np.concatenate([one[0] for one in kept])
        unique, points = np.unique(points, return_inverse=True)
        return Keypoints(
            np.concatenate([[0], np.cumsum(counts)]),
            points.astype(np.int32),
            self.correspondence.point_names[unique],
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            np.concatenate([one[1] for one in kept]),
        )
