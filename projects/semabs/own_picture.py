"""A user's own picture: its depth, its camera, and where the camera stands in the scene.

Depth and intrinsics make points; the networks were trained on rooms of 2 x 2 x 2 m whose floor is near z = 0 and
which the camera looks at along +x. Without a pose, what is seen is turned upright, shrunk if need be and put there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import geometry
from projects.semabs.scene_pickle import Scene, checked_label
from shared.atomic import first_line
from shared.errors import InputError
from shared.files import open_npy, read_image, read_json, read_lines

_MOST = 0.94  # of the scene's box that the seen points fill
_TRIM = 0.01  # of the points at either end do not count


def read_picture(path: str | Path, *, side: int) -> np.ndarray:
    """A photograph uint8 [h, w, 3], upright, made smaller where its shorter side is above `side`."""
    return shrunk(read_image(path), side)


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture [h, w, 3] whose shorter side is at most `side` pixels."""
    import cv2

    height, width = picture.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return picture
    return cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def labels_of(given: Any) -> list[str]:
    """Labels from a list or from text with commas or line ends; InputError where there are none."""
    parts = given.replace("\n", ",").split(",") if isinstance(given, str) else given
    if not isinstance(parts, list | tuple):
        raise InputError(f"labels: expected [chair,table], found {given!r}")
    if isinstance(given, str):
        parts = [part for part in parts if part.strip()]
    found = list(dict.fromkeys(checked_label(str(part), source="labels") for part in parts))
    if not found:
        raise InputError("labels: expected what to look for, e.g. labels=[chair,table]")
    return found


def read_depth(path: str | Path, shape: tuple[int, int], *, unit: float | None = None) -> np.ndarray:
    """Depth in metres [h, w] float32 for a picture of `shape`, from .npy or a 16-bit .png.

    unit: metres of one; None = 1 in .npy files of fractions, 0.001 in whole numbers. A depth map of another size
    but the same sides is stretched without mixing. InputError: unreadable, other sides, not depth in metres.
    """
    import cv2

    raw = open_npy(path) if Path(path).suffix == ".npy" else _depth_image(path)
    if raw.ndim != 2 or raw.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: depth: expected numbers [height, width], found {raw.dtype} {list(raw.shape)}"
        )
    factor = unit if unit is not None else (1.0 if raw.dtype.kind == "f" else 0.001)
    depth = np.asarray(raw, np.float32) * np.float32(factor)
    geometry.check_depth(depth, str(path))
    (height, width), (rows, columns) = shape, depth.shape
    if abs(rows / columns - height / width) > 0.03 * height / width:
        raise InputError(
            f"{path}: depth: expected the sides of the picture, {width} x {height}, found {columns} x {rows}"
        )
    if depth.shape != shape:
        return np.asarray(cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST), np.float32)
    return depth


def read_intrinsics(
    given: Any, shape: tuple[int, int], *, full: tuple[int, int], field_of_view: float
) -> np.ndarray:
    """A camera matrix [3, 3] for the picture of `shape` (h, w).

    given: [fx, fy, cx, cy] or a file (.npy, .json, .txt) of a matrix for the picture as it is on the disk, whose
    size is `full`; None = a centred camera that sees `field_of_view` degrees across.
    """
    height, width = shape
    if given is None:
        focal = width / 2 / np.tan(np.deg2rad(field_of_view) / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    source = "intrinsics" if isinstance(given, list | tuple) else str(given)
    matrix = np.asarray(given, float) if isinstance(given, list | tuple) else _matrix(given)
    if matrix.shape == (4,):
        fx, fy, cx, cy = matrix
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    geometry.check_intrinsics(matrix, full, source, "intrinsics")
    scaled = matrix[:3, :3].astype(float)
    scaled[0] *= width / full[1]
    scaled[1] *= height / full[0]
    return scaled


def read_pose(
    given: Any, depth: np.ndarray, intrinsics: np.ndarray, bounds: np.ndarray, *, tilt: float
) -> np.ndarray:
    """Camera to scene [4, 4]: from a file or a list of lists; None = `upright`."""
    if given is None:
        return upright(depth, intrinsics, bounds, tilt=tilt)
    source = "pose" if isinstance(given, list | tuple) else str(given)
    try:
        matrix = np.asarray(given, float) if isinstance(given, list | tuple) else _matrix(given)
    except ValueError as error:
        raise InputError(f"{source}: expected numbers [4, 4]: {error}") from None
    geometry.check_pose(matrix, source, "pose")
    return matrix


def upright(depth: np.ndarray, intrinsics: np.ndarray, bounds: np.ndarray, *, tilt: float) -> np.ndarray:
    """Camera to scene [4, 4] for a camera that looks down by `tilt` degrees: the seen points in the box [2, 3].

    The scene's z is up, the camera looks along x; points are shrunk to fit (never enlarged), their middle comes to
    that of the box, and the lowest to z = 0.
    """
    sine, cosine = np.sin(np.deg2rad(tilt)), np.cos(np.deg2rad(tilt))
    pose = np.eye(4)
    pose[:3, :3] = [[0, -sine, cosine], [-1, 0, 0], [0, -cosine, -sine]]
    points = geometry.back_project(depth, intrinsics, pose)[depth.reshape(-1) > 0]
    low, high = np.quantile(points, [_TRIM, 1 - _TRIM], axis=0)
    box_low, box_high = np.asarray(bounds, float)
    room = np.array([*(box_high - box_low)[:2], box_high[2]]) * _MOST
    scale = min(1.0, float((room / np.maximum(high - low, 1e-6)).min()))
    middle = (low + high) / 2 * scale
    target = np.array([*((box_low + box_high) / 2)[:2], (high - low)[2] / 2 * scale])
    moved = np.eye(4)
    moved[:3, :3] *= scale
    moved[:3, 3] = target - middle
    return moved @ pose


def own_scene(
    picture: np.ndarray,
    labels: Sequence[str],
    depth: np.ndarray,
    intrinsics: np.ndarray,
    pose: np.ndarray,
    name: str = "picture",
) -> Scene:
    """A scene of a user's picture."""
    return Scene(name, picture, depth, intrinsics, pose, tuple(labels))


def _depth_image(path: str | Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in ("I;16", "I;16B", "I", "F"):
                raise InputError(
                    f"{path}: depth: expected one channel of 16 bits (millimetres), found {image.mode}"
                )
            return np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: depth: expected .npy or a 16-bit .png: {first_line(error)}") from None


def _matrix(path: str | Path) -> np.ndarray:
    """Numbers of a .npy, .json or text file."""
    suffix = Path(path).suffix
    try:
        if suffix == ".npy":
            return np.asarray(open_npy(path), float)
        if suffix == ".json":
            return np.asarray(read_json(path), float)
        rows = [line.replace(",", " ").split() for line in read_lines(path) if line.strip()]
        return np.squeeze(np.array(rows, float))
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected a matrix of numbers (.npy, .json or text)") from None
