"""The records of COLMAP's binary files: their structure, checked before anything trusts it.

pycolmap believes the counts in a file: a damaged one makes it allocate without bound or end the process. So
the lengths are walked here first, and the large arrays (2D points) are cut out without a Python object each.
"""

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.atomic import unreadable
from shared.errors import InputError

POINT2D = np.dtype([("xy", "<f8", 2), ("point", "<i8")])  # point -1: no 3D point
POINT3D = np.dtype([("id", "<i8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_TRACK_ELEMENT = 8  # bytes: image id, index of the 2D point
_IMAGE = struct.Struct("<I7dI")
_CAMERA = struct.Struct("<IiQQ")
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class ImageRecord:
    """An image as stored: pose [qw, qx, qy, qz, tx, ty, tz], and its 2D points (dtype POINT2D)."""

    id: int
    pose: tuple[float, ...]
    camera: int
    name: str
    points: np.ndarray


class _File:
    """A mapped file, read from the front; running past its end is an InputError with the record and the byte."""

    def __init__(self, path: Path) -> None:
        self.path, self.position, self.what = path, 0, "the number of records"
        try:
            with open(path, "rb") as file:
                if not path.stat().st_size:
                    raise InputError(f"{path}: empty file, expected a COLMAP binary file")
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise unreadable(path, error) from None

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack_from(self.data, self.skip(layout.size))

    def skip(self, size: int) -> int:
        """Pass `size` bytes; where they start."""
        start, left = self.position, len(self.data) - self.position
        if size > left:
            raise InputError(
                f"{self.path}: byte {start}: {self.what} needs {size} bytes, {left} are left: truncated or damaged"
            )
        self.position = start + size
        return start

    def text(self) -> str:
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise InputError(
                f"{self.path}: byte {self.position}: {self.what}: its name does not end: damaged"
            )
        name = self.data[self.position : end].decode("utf-8", "surrogateescape")
        self.position = end + 1
        return name

    def records(self, what: str) -> Iterator[int]:
        """The numbers of the records; the file must end with the last one."""
        (count,) = self.take(_COUNT)
        for number in range(count):
            self.what = f"{what} {number + 1} of {count}"
            yield number
        if self.position != len(self.data):
            left = len(self.data) - self.position
            raise InputError(f"{self.path}: {left} bytes after the last of {count} {what}s: damaged")


def walk_images(path: Path) -> Iterator[ImageRecord]:
    """The images of images.bin, one at a time; their points are views of the mapped file."""
    file = _File(path)
    for _ in file.records("image"):
        identifier, *pose, camera = file.take(_IMAGE)
        name = file.text()
        (count,) = file.take(_COUNT)
        start = file.skip(count * POINT2D.itemsize)
        points = np.frombuffer(file.data, POINT2D, count, start)
        yield ImageRecord(identifier, tuple(pose), camera, name, points)


def read_points(path: Path) -> np.ndarray:
    """The points of points3D.bin (dtype POINT3D), without their tracks, which the images' points repeat."""
    file = _File(path)
    kept = bytearray()
    for _ in file.records("point"):
        start = file.skip(POINT3D.itemsize)
        kept += file.data[start : file.position]
        (length,) = _COUNT.unpack_from(file.data, file.position - _COUNT.size)
        file.skip(length * _TRACK_ELEMENT)
    return np.frombuffer(kept, POINT3D)


def check_cameras(path: Path, num_parameters: Callable[[int], int]) -> None:
    """Walk cameras.bin; `num_parameters(model id)` may raise InputError for a model that does not exist."""
    file = _File(path)
    for _ in file.records("camera"):
        _, model, _, _ = file.take(_CAMERA)
        file.skip(8 * num_parameters(model))
