"""Which pixels of which pictures see the same point of the reconstructions, as memory-mapped arrays.

`Correspondence.open` streams correspondence.json once into a folder beside it; from then on images are looked up
without reading the file, and the processes of a data loader share the pages.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from projects.babel.correspondence_arrays import ABOUT, VERSION, is_settled, write_arrays
from shared.errors import InputError
from shared.files import atomic_path, open_npy, read_json, sha256, write_json

CACHE = "cache"  # folder beside the JSON file
_ABANDONED = 600  # seconds without a change
_STAMP = "stamp.json"  # which file on the disk has the content that a folder was made of
_OUTSIDE = "keypoints outside the picture"
_ARRAYS = {"ids": 1, "offsets": 1, "points": 1, "rowcol": 2, "point_names": 1}


class Correspondence:
    """Keypoints of I images on N points, M keypoints together.

    ids: S [I], ascending image ids (path without `WikiScenes/<category>/`). offsets: int64 [I + 1]. points: int32
    [M] (int64 from 2^31 points), ascending inside an image. rowcol: float32 [M, 2], (row, col) = (y, x) as
    fractions in [0, 1]. point_names: S [N], the point ids of the JSON file, ascending. num_outside: keypoints of
    the file that lie outside their picture and were left out.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        about = read_json(self.folder / ABOUT)
        if about.get("version") != VERSION:
            raise InputError(f"{self.folder / ABOUT}: made by another version; remove {self.folder}")
        self.num_outside = int(about[_OUTSIDE])
        arrays = {name: open_npy(self.folder / f"{name}.npy", ndim=ndim) for name, ndim in _ARRAYS.items()}
        self.ids, self.offsets = arrays["ids"], arrays["offsets"]
        self.points, self.rowcol = arrays["points"], arrays["rowcol"]
        self.point_names = arrays["point_names"]

    @classmethod
    def open(
        cls, path: str | Path, *, cache: str | Path | None = None, silent: bool = False
    ) -> "Correspondence":
        """The arrays of a correspondence.json, made on first use in a folder of `cache` named by its content.

        cache: the folder `cache` beside the file by default. Two processes may do so at once. A changed file gets a
        folder of its own. InputError: see `write_arrays`.
        """
        source = Path(path)
        if not source.is_file():
            raise InputError(f"{source}: no such file")
        place = source.parent / CACHE if cache is None else Path(cache)
        _remove_leftovers(place)
        folder = _stamped(source, place)
        if folder is None:
            stat = source.stat()
            folder = place / f"correspondence-{sha256(source)[:16]}"
            if not (folder / ABOUT).is_file():
                with atomic_path(folder) as temporary:
                    write_arrays(source, temporary, silent=silent)
            if is_settled(stat.st_mtime_ns):
                write_json(folder / _STAMP, _stamp(source, stat))
        return cls(folder)

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[type["Correspondence"], tuple[Path]]:
        return Correspondence, (self.folder,)  # a worker maps the files; it gets no copy of them

    @property
    def num_points(self) -> int:
        """Points of all reconstructions."""
        return len(self.point_names)

    @property
    def num_keypoints(self) -> int:
        """Keypoints of all images."""
        return len(self.points)

    def image_id(self, image: int) -> str:
        """The id of an image."""
        return bytes(self.ids[image]).decode()

    def point_id(self, point: int) -> str:
        """The id of a point in the JSON file."""
        return bytes(self.point_names[point]).decode()

    def index_of(self, image_id: str) -> int | None:
        """The index of an image; None where the file has none of that id."""
        return self.indices_of([image_id])[0]

    def indices_of(self, image_ids: Sequence[str]) -> list[int | None]:
        """`index_of` for many."""
        kind = self.ids.dtype
        encoded = [name.encode() for name in image_ids]
        keys = np.array([name[: kind.itemsize] for name in encoded], kind)
        places = np.searchsorted(self.ids, keys).tolist()
        return [
            place if place < len(self.ids) and bytes(self.ids[place]) == name else None
            for place, name in zip(places, encoded, strict=True)
        ]

    def keypoints(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """(points [K], rowcol float32 [K, 2]) of an image, views of the files."""
        start, end = self.offsets[image : image + 2]
        return self.points[start:end], self.rowcol[start:end]

    def shared(self, first: int, second: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(points [K] ascending, rowcol [K, 2] in the first image, in the second) of what both see."""
        points, rowcol = self.keypoints(first)
        others, other_rowcol = self.keypoints(second)
        if not len(points) or not len(others):
            return points[:0], rowcol[:0], other_rowcol[:0]
        place = np.minimum(np.searchsorted(others, points), len(others) - 1)
        hit = others[place] == points
        return points[hit], rowcol[hit], other_rowcol[place[hit]]


def _remove_leftovers(place: Path) -> None:
    """Remove what killed processes left half made; what is younger may be another machine's, still at work."""
    for leftover in place.glob(".correspondence-*.tmp"):
        owner = leftover.name.rsplit(".", 2)[1].split("-")[0]
        try:
            newest = max(entry.stat().st_mtime for entry in (leftover, *leftover.iterdir()))
        except OSError:
            continue  # its owner has just renamed it
        if time.time() - newest > _ABANDONED and owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stamp(source: Path, stat: os.stat_result) -> dict[str, int | str]:
    return {"file": str(source.resolve()), "size": stat.st_size, "modified_ns": stat.st_mtime_ns}


def _stamped(source: Path, place: Path) -> Path | None:
    """The folder that was made of exactly this file, so that a gigabyte is not hashed at every start."""
    wanted = _stamp(source, source.stat())
    for stamp in sorted(place.glob(f"correspondence-*/{_STAMP}")):
        if (stamp.parent / ABOUT).is_file() and read_json(stamp) == wanted:
            return stamp.parent
    return None
