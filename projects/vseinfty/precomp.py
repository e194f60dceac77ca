"""The `precomp/` folder (spec section 3): captions, image ids, and local features [rows, N, D].

The features are memory-mapped and never read whole (33 GB for COCO).
"""

from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.files import open_npy, read_lines

CAPTIONS_PER_IMAGE = 5


class RegionFile:
    """Rows of features, fetched by index into zero-padded batches.

    `{split}_lengths.npy` beside it (ours; the released sets have none) gives the set sizes, [rows] int64.
    """

    def __init__(self, path: Path, *, image_dim: int | None = None):
        self.path = path
        self._array: np.ndarray | None = None
        array = self.array
        if array.dtype not in (np.float32, np.float16, np.float64):
            raise InputError(f"{path}: expected float32 or float16 features, found {array.dtype}")
        self.num_rows, self.max_regions, self.dim = array.shape
        if image_dim is not None and self.dim != image_dim:
            raise InputError(f"{path}: expected {image_dim} dimensions (image_dim), found {self.dim}")
        if 0 in array.shape:
            raise InputError(f"{path}: expected [rows, regions, dimensions], found {list(array.shape)}")
        self.lengths = self._read_lengths(path.with_name(path.name.removesuffix("_ims.npy") + "_lengths.npy"))

    @property
    def array(self) -> np.ndarray:
        """The memory map; opened again in a worker process (no features are sent there)."""
        if self._array is None:
            self._array = open_npy(self.path, mmap=True, ndim=3)
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}

    def __len__(self) -> int:
        return self.num_rows

    def fetch(self, rows: np.ndarray, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Features of rows, one copy from the map to the batch.

        Args:
            rows: [B] row numbers.
            kept: [B, N] bool, the regions that stay; None = all that the row has.

        Returns:
            Features [B, L, D] float32 with zero rows after each set, lengths [B] int64; L = max(lengths).

        Raises:
            InputError: a fetched row holds NaN or infinity.
        """
        array = self.array
        lengths = self.lengths[rows] if kept is None else kept.sum(axis=1)
        out = np.empty((len(rows), int(lengths.max(initial=0)), self.dim), np.float32)
        for b in np.argsort(rows, kind="stable"):  # in file order: a cold file is then read forwards
            source, length = array[rows[b]], lengths[b]
            target = out[b, :length]
            if kept is None:
                target[:] = source[:length]
            elif source.dtype == np.float32:
                # mode clip: the only one that writes to `out` unbuffered
                np.take(source, np.flatnonzero(kept[b]), axis=0, out=target, mode="clip")
            else:
                target[:] = source[kept[b]]
            out[b, length:] = 0
        self._check_finite(out, rows)
        return out, lengths.astype(np.int64)

    def _check_finite(self, batch: np.ndarray, rows: np.ndarray) -> None:
        flat = batch.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(np.dot(flat, flat))  # one pass; NaN and infinity spread into the sum
        if suspicious:  # or a sum that overflowed: look closely
            bad = ~np.isfinite(batch).all(axis=(1, 2))
            if bad.any():
                raise InputError(
                    f"{self.path}: row {int(rows[bad].min())}: expected finite values, found NaN or infinity"
                )

    def _read_lengths(self, path: Path) -> np.ndarray:
        if not path.exists():
            return np.full(self.num_rows, self.max_regions, np.int64)
        lengths = np.array(open_npy(path, mmap=False, ndim=1))
        if len(lengths) != self.num_rows or not np.issubdtype(lengths.dtype, np.integer):
            raise InputError(
                f"{path}: expected {self.num_rows} integers, found {len(lengths)} {lengths.dtype}"
            )
        smallest, largest = lengths.min(), lengths.max()
        if smallest < 1 or largest > self.max_regions:
            raise InputError(f"{path}: expected sizes 1..{self.max_regions}, found {smallest}..{largest}")
        return lengths.astype(np.int64)


def read_captions(path: Path) -> list[str]:
    """Captions, one stripped line each; a blank line is an empty caption and kept (quirk 24).

    Raises:
        InputError: no such file, no captions, or a number of captions that is not five per image.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such captions file")
    captions = [line.strip() for line in read_lines(path)]
    if not captions:
        raise InputError(f"{path}: expected captions, found an empty file")
    if len(captions) % CAPTIONS_PER_IMAGE:
        raise InputError(
            f"{path}: expected {CAPTIONS_PER_IMAGE} captions for each image, found {len(captions)} lines"
        )
    return captions


def read_ids(path: Path) -> list[str]:
    """Image ids, one integer per line, as strings without leading zeros or blanks.

    Raises:
        InputError: no such file, or a line that is not an integer.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such image id file")
    ids = [line.strip() for line in read_lines(path)]
    for number, line in enumerate(ids, start=1):
        if not (line.isascii() and line.isdigit()):
            raise InputError(f"{path}: line {number}: expected an integer image id, found {line[:40]!r}")
    return [str(int(line)) for line in ids]


def ids_per_image(num_ids: int, num_images: int, path: Path) -> int:
    """1, or 5 where the file repeats each image's id (it may be longer than a truncated split)."""
    if num_ids >= num_images * CAPTIONS_PER_IMAGE:
        return CAPTIONS_PER_IMAGE
    if num_ids >= num_images:
        return 1
    raise InputError(
        f"{path}: expected {num_images} ids or {CAPTIONS_PER_IMAGE} times as many, found {num_ids}"
    )


def captions_per_row(rows: int, captions: int, rows_path: Path, captions_path: Path) -> int:
    """Captions that share a row (released rule): 1 when each caption has a row, 5 when each image has."""
    if rows == captions:
        return 1
    if rows * CAPTIONS_PER_IMAGE == captions:
        return CAPTIONS_PER_IMAGE
    raise InputError(
        f"{rows_path}: expected {captions // CAPTIONS_PER_IMAGE} or {captions} rows for the "
        f"{captions} captions of {captions_path}, found {rows}"
    )
