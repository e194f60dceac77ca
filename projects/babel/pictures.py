"""The image files of a split: which are there, and reading them once where they are small."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from projects.babel.splits import Row
from shared.errors import InputError
from shared.files import read_image


class PictureStore:
    """Images by row. Decoded ones are kept until `limit` bytes are reached (each data worker has its own)."""

    def __init__(self, paths: Sequence[Path], limit: int = 0) -> None:
        self.paths, self._free = list(paths), limit
        self._kept: dict[int, np.ndarray] = {}

    def read(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3], not to be written to; the stored rows: an orientation tag is not applied, as released.

        Raises:
            InputError: a file that is missing, damaged or no image.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        pixels = read_image(self.paths[index], exif=False)
        if pixels.nbytes <= self._free:
            self._kept[index] = pixels
            self._free -= pixels.nbytes
        return pixels


def present(
    rows: Sequence[Row], root: Path, *, skip: bool = False, source: str = ""
) -> tuple[list[Row], list[str]]:
    """The rows whose image is there, and the paths of the others.

    Args:
        rows, root: of a split file `source`, and where its paths start.
        skip: leave missing images out.

    Raises:
        InputError: an image is missing and not to be skipped, or none is there.
    """
    missing = [row.path for row in rows if not os.path.isfile(root / row.path)]
    if missing and (not skip or len(missing) == len(rows)):
        raise InputError(
            f"{source}: {len(missing)} of its {len(rows)} images are not in {root}, e.g. {missing[0]}"
            "; data.skip_missing=true leaves them out"
        )
    gone = set(missing)
    return [row for row in rows if row.path not in gone], missing
