"""Which images of a split see the same points: the pairs that training draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from projects.babel.correspondence import Correspondence

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_BLOCK = 1 << 25  # products of a block of rows: about 400 MB while it is formed


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each row of a split the rows that share enough points with it, itself included; ascending.

    offsets: int64 [rows + 1]; columns: int32 [links].
    """

    offsets: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> np.ndarray:
        """The neighbours of a row, int32; empty where it is in no pair."""
        return self.columns[self.offsets[row] : self.offsets[row + 1]]

    @property
    def num_connected(self) -> int:
        """How many rows have a neighbour (themselves counted)."""
        return int(np.count_nonzero(np.diff(self.offsets)))


def image_graph(
    correspondence: Correspondence, images: Sequence[int | None], threshold: int = 10
) -> Neighbours:
    """Rows i, j are neighbours if their images share at least `threshold` points; i = j counts its own points.

    images: for each row of the split its image in `correspondence`, None where it has none. That a row is its own
    neighbour is the released graph: with probability 1 / degree training then draws an unmatched partner.
    """
    if threshold < 1:
        raise ValueError(f"threshold {threshold}: must be positive")
    incidence = _incidence(correspondence, images)
    transposed = incidence.T.tocsr()
    # products of a row = the summed track lengths of its points
    track = np.diff(transposed.indptr)
    work = np.concatenate([[0], np.cumsum(track[incidence.indices], dtype=np.int64)])[incidence.indptr]
    counts, columns = np.zeros(len(images), np.int64), []
    start = 0
    while start < len(images):
        end = max(start + 1, int(np.searchsorted(work, work[start] + _BLOCK, side="right")) - 1)
        shared = incidence[start:end] @ transposed
        shared.sort_indices()
        kept = shared.data >= threshold
        ends = np.concatenate([[0], np.cumsum(kept)])[shared.indptr]
        counts[start:end] = np.diff(ends)
        columns.append(shared.indices[kept].astype(np.int32))
        start = end
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Neighbours(offsets, np.concatenate([np.zeros(0, np.int32), *columns]))


def _incidence(correspondence: Correspondence, images: Sequence[int | None]) -> "csr_array[Any, Any]":
    """int32 [rows, points seen by them]: 1 where the image of a row has a keypoint of the point."""
    from scipy.sparse import csr_array

    found = [
        correspondence.keypoints(image)[0] if image is not None else np.zeros(0, np.int32) for image in images
    ]
    offsets = np.concatenate([[0], np.cumsum([len(points) for points in found], dtype=np.int64)])
    points = np.concatenate([np.zeros(0, np.int32), *found])
    seen = np.zeros(correspondence.num_points, bool)
    seen[points] = True
    rank = np.cumsum(seen, dtype=np.int32) - 1  # ascending, so columns stay sorted inside a row
    columns = int(rank[-1]) + 1 if len(rank) else 0
    ones = np.ones(len(points), np.int32)
    return csr_array((ones, rank[points], offsets), shape=(len(images), columns))
