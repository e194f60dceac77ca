"""COLMAP models in text form, as far as pycolmap leaves something to do: names with spaces, and which line is wrong."""

from collections.abc import Iterator
from pathlib import Path

from shared.atomic import unreadable

_CAMERA = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"
_IMAGE = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
_POINT = "POINT3D_ID X Y Z R G B ERROR (IMAGE_ID POINT2D_IDX)*"


def image_names(path: Path) -> dict[int, str]:
    """The names in images.txt by image id; pycolmap's reader ends them at the first blank."""
    return {int(header[0]): header[9] for _, header, _ in _images(path)}


def find_fault(folder: Path) -> str | None:
    """`file:line: what is wrong`, the first fault in cameras.txt, images.txt and points3D.txt, or None.

    Slow: read only after pycolmap has refused the model.
    """
    cameras: set[str] = set()
    sizes: dict[str, int] = {}
    for check in (_cameras(folder, cameras), _images_of(folder, cameras, sizes), _points(folder, sizes)):
        for fault in check:
            return fault
    return None


def _cameras(folder: Path, cameras: set[str]) -> Iterator[str]:
    for place, fields in _fields(folder / "cameras.txt"):
        if len(fields) < 5 or not _numbers([fields[0], *fields[2:]]):
            yield f"{place}: expected {_CAMERA}, found {' '.join(fields)[:60]!r}"
        cameras.add(fields[0])


def _images_of(folder: Path, cameras: set[str], sizes: dict[str, int]) -> Iterator[str]:
    path = folder / "images.txt"
    for number, header, points in _images(path):
        if len(header) < 10 or not _numbers(header[:9]):
            yield f"{path}:{number}: expected {_IMAGE}, found {' '.join(header)[:60]!r}"
        if header[8] not in cameras:
            yield f"{path}:{number}: camera {header[8]}, which cameras.txt does not have"
        if len(points) % 3 or not _numbers(points):
            yield f"{path}:{number + 1}: expected (X Y POINT3D_ID)*, found {len(points)} values"
        sizes[header[0]] = len(points) // 3


def _points(folder: Path, sizes: dict[str, int]) -> Iterator[str]:
    seen: set[str] = set()
    for place, fields in _fields(folder / "points3D.txt"):
        if len(fields) < 8 or len(fields) % 2 or not _numbers(fields):
            yield f"{place}: expected {_POINT}, found {' '.join(fields)[:60]!r}"
        if fields[0] in seen:
            yield f"{place}: point {fields[0]} is listed twice"
        seen.add(fields[0])
        for image, index in zip(fields[8::2], fields[9::2], strict=True):
            who = f"{place}: the track of point {fields[0]} names"
            if image not in sizes:
                yield f"{who} image {image}, which images.txt does not have"
            elif not 0 <= float(index) < sizes[image]:
                yield f"{who} 2D point {index} of image {image}, which has {sizes[image]}"


def _images(path: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """The line number, the (at most ten) header fields, and the fields of the points' line of each image."""
    lines = _lines(path)
    for number, line in lines:
        header = line.split(maxsplit=9)
        if header and not header[0].startswith("#"):
            _, points = next(lines, (number, ""))  # empty for an image without points
            yield number, header, points.split()


def _fields(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The place and the fields of each line that is not empty and no comment."""
    for number, line in _lines(path):
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            yield f"{path}:{number}", fields


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for number, line in enumerate(file, 1):
                yield number, line.strip()
    except OSError as error:
        raise unreadable(path, error) from None


def _numbers(fields: list[str]) -> bool:
    try:
        for field in fields:
            float(field)
    except ValueError:
        return False
    return True
