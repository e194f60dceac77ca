"""correspondence.json -> flat arrays in a folder, in one pass over the file and in bounded memory."""

import contextlib
import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel.correspondence_json import Keypoint, read_images
from shared.errors import InputError
from shared.files import save_npy, write_json
from shared.progress import Progress

VERSION = 1  # of the arrays' layout
ABOUT = "about.json"
SCRATCH = ("names.tmp", "xy.tmp")
_MOST_OUTSIDE = 0.01  # share of keypoints; more of them are no fractions at all


@dataclass
class _Seen:
    """What is known of the images in file order while they stream by."""

    ids: list[bytes]
    counts: list[int]
    widths: list[int]  # bytes of the longest point id of each image
    outside: int = 0
    first_outside: str = ""


def write_arrays(source: Path, folder: Path, *, silent: bool = False) -> None:
    """Write ids, offsets, points, rowcol and point_names of `source` into the new `folder`; about.json last.

    Images are sorted by id, points are numbered in the order of their ids, keypoints of an image are sorted by point.
    Keypoints outside the picture are left out and counted; InputError if they are more than 1 %, and for images or
    points that are there twice, keypoints that are no two numbers, broken JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen = _stream(source, folder, silent)
    total = sum(seen.counts)
    if seen.outside > _MOST_OUTSIDE * (total + seen.outside):
        raise InputError(
            f"{source}: {seen.outside} of {total + seen.outside} keypoints lie outside [0, 1], the first is "
            f"{seen.first_outside}; expected fractions of width and height"
        )
    order = sorted(range(len(seen.ids)), key=seen.ids.__getitem__)
    for first, second in itertools.pairwise(order):
        if seen.ids[first] == seen.ids[second]:
            raise InputError(f"{source}: image {seen.ids[first].decode()!r} is there twice")
    points, names = _number(folder / SCRATCH[0], seen)
    _write_sorted(folder, seen, order, points)
    save_npy(folder / "point_names.npy", names)
    for name in SCRATCH:
        (folder / name).unlink()
    about = {"version": VERSION, "images": len(order), "keypoints": total, "points": len(names)}
    write_json(folder / ABOUT, {**about, "keypoints outside the picture": seen.outside})


def _stream(source: Path, folder: Path, silent: bool) -> _Seen:
    """Point ids and coordinates of all images into scratch files, in the order of the file."""
    seen = _Seen([], [], [])
    with (
        _no_collection(),
        open(folder / SCRATCH[0], "wb") as names_file,
        open(folder / SCRATCH[1], "wb") as xy_file,
        Progress(source.stat().st_size, unit="byte", label=source.name, silent=silent) as bar,
    ):
        for image, keypoints in read_images(source, bar.update):
            names, xy = _keypoints(source, image, keypoints)
            inside = ((xy >= 0) & (xy <= 1)).all(1)
            if not inside.all():
                bad = int(np.flatnonzero(~inside)[0])
                if not seen.outside:
                    seen.first_outside = f"{names[bad].decode()!r} of {image!r}: {xy[bad].tolist()}"
                seen.outside += int((~inside).sum())
                names, xy = names[inside], xy[inside]
            if "\0" in image:
                raise InputError(f"{source}: image {image!r}: an id cannot hold NUL")
            seen.ids.append(image.encode())
            seen.counts.append(len(names))
            seen.widths.append(names.dtype.itemsize)
            names_file.write(names.tobytes())
            xy_file.write(xy.astype("<f4").tobytes())
    return seen


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small lists without cycles: looking for cycles among them would double the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _keypoints(source: Path, image: str, pairs: list[Keypoint]) -> tuple[np.ndarray, np.ndarray]:
    """(ids S[k], xy float64 [k, 2]) of an image."""
    where = f"{source}: image {image!r}"
    texts = [name for name, _ in pairs]
    values = [value for _, value in pairs]
    distinct = set(texts)
    if len(distinct) != len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise InputError(f"{where}: point {twice!r} is there twice")
    xy = _numbers(values)
    if xy is None:
        bad = next(at for at, value in enumerate(values) if _numbers([value]) is None)
        raise InputError(f"{where}: point {texts[bad]!r}: expected [x, y], found {str(values[bad])[:60]}")
    encoded = [text.encode() for text in texts]
    if "" in distinct or "\0" in "".join(distinct):
        raise InputError(f"{where}: a point without an id, or with NUL in it")
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1)}"), xy


def _numbers(values: list[Any]) -> np.ndarray | None:
    """float64 [k, 2]; None where a value is not a list of two finite numbers."""
    if not values:
        return np.zeros((0, 2))
    if set(map(type, values)) != {list} or set(map(len, values)) != {2}:
        return None
    if not set(map(type, itertools.chain.from_iterable(values))) <= {float, int}:
        return None
    try:
        xy = np.fromiter(itertools.chain.from_iterable(values), np.float64, 2 * len(values)).reshape(-1, 2)
    except OverflowError:
        return None
    return xy if np.isfinite(xy).all() else None


def _number(path: Path, seen: _Seen) -> tuple[np.ndarray, np.ndarray]:
    """(number of each keypoint's point, the points' ids S[points] ascending)."""
    width, total = max(seen.widths, default=1), sum(seen.counts)
    names = np.zeros(total, f"S{width}")
    start = 0
    with open(path, "rb") as file:
        for count, own in zip(seen.counts, seen.widths, strict=True):
            names[start : start + count] = np.frombuffer(file.read(count * own), f"S{own}", count)
            start += count
    if width <= 8:  # as big-endian integers they sort alike, and many times faster
        padded = np.zeros(total, "S8")
        padded[:] = names
        keys, numbers = np.unique(padded.view(">u8").astype(np.uint64), return_inverse=True)
        unique = keys.astype(">u8").view("S8").astype(f"S{width}")
    else:
        unique, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int32 if len(unique) < 2**31 else np.int64), unique


def _write_sorted(folder: Path, seen: _Seen, order: Sequence[int], points: np.ndarray) -> None:
    """Images by id, keypoints by point within an image; one image at a time, so that memory stays that of points."""
    counts = np.array(seen.counts, np.int64)
    starts = np.cumsum(counts) - counts
    offsets = np.concatenate([[0], np.cumsum(counts[list(order)])]).astype(np.int64)
    total = int(offsets[-1])
    sorted_points = np.lib.format.open_memmap(folder / "points.npy", "w+", points.dtype, (total,))
    rowcol = np.lib.format.open_memmap(folder / "rowcol.npy", "w+", np.float32, (total, 2))
    with open(folder / SCRATCH[1], "rb") as file:
        for image, start in zip(order, offsets.tolist(), strict=False):
            count, source = seen.counts[image], int(starts[image])
            own = points[source : source + count]
            by_point = np.argsort(own)
            file.seek(8 * source)
            xy = np.frombuffer(file.read(8 * count), "<f4").reshape(-1, 2)
            sorted_points[start : start + count] = own[by_point]
            rowcol[start : start + count] = xy[by_point, ::-1]
    sorted_points.flush()
    rowcol.flush()
    save_npy(folder / "offsets.npy", offsets)
    width = max(map(len, seen.ids), default=1)
    save_npy(folder / "ids.npy", np.array([seen.ids[image] for image in order], f"S{max(1, width)}"))


def is_settled(modified_ns: int) -> bool:
    """Whether a file's time of change identifies its content: one just written could change again within a tick."""
    return time.time_ns() - modified_ns > 2_000_000_000
