"""Depth images and points: back-projection, the scene's box, the camera's frustum, checks of what a user gives.

Cameras are OpenCV's (x right, y down, z forward). `pose` [4, 4] takes camera to scene coordinates; scenes are in
metres with z up. Pixel (column u, row v) has its centre at (u, v), as in the released data.
"""

import numpy as np

from shared.errors import InputError

_BLOCK = 1 << 14  # points
_MEDIAN_OF = 10_000  # pixels
_MILLIMETRES = 100.0  # a median depth above this is no room in metres


def back_project(depth: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Scene points [h * w, 3] float32 of all pixels of a depth image [h, w] in metres, row by row."""
    height, width = depth.shape
    columns, rows, origin = _pixel_rays(height, width, intrinsics, pose)
    points = columns[None] + rows[:, None]
    points *= depth.astype(np.float32, copy=False)[..., None]
    points += origin
    return points.reshape(-1, 3)


def back_project_pixels(
    depth: np.ndarray, pixels: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray
) -> np.ndarray:
    """The rows `pixels` [n] (flat indices v * w + u) of `back_project`, without the others: [n, 3] float32."""
    height, width = depth.shape
    columns, rows, origin = _pixel_rays(height, width, intrinsics, pose)
    row, column = np.divmod(pixels, width)
    points = np.take(columns, column, axis=0) + np.take(rows, row, axis=0)
    points *= depth.reshape(-1)[pixels].astype(np.float32, copy=False)[:, None]
    points += origin
    return points


def _pixel_rays(
    height: int, width: int, intrinsics: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pixel's point is depth * (columns[u] + rows[v]) + origin: ([w, 3], [h, 3], [3]) float32."""
    focal_x, focal_y = float(intrinsics[0, 0]), float(intrinsics[1, 1])
    rotation, origin = np.asarray(pose, np.float64)[:3, :3], np.asarray(pose, np.float64)[:3, 3]
    columns = ((np.arange(width) - float(intrinsics[0, 2])) / focal_x)[:, None] * rotation[:, 0]
    rows = ((np.arange(height) - float(intrinsics[1, 2])) / focal_y)[:, None] * rotation[:, 1]
    return columns.astype(np.float32), (rows + rotation[:, 2]).astype(np.float32), origin.astype(np.float32)


def in_bounds(points: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Whether points [..., 3] lie in the box `bounds` [2, 3], faces included: bool [...].

    Compared in float32: -0.1 as float32 lies outside a box that begins at -0.1 as float64.
    """
    low, high = np.asarray(bounds, np.float32)
    inside = (points[..., 0] >= low[0]) & (points[..., 0] <= high[0])
    for axis in (1, 2):
        inside &= (points[..., axis] >= low[axis]) & (points[..., axis] <= high[axis])
    return inside


def in_frustum(
    points: np.ndarray, depth_shape: tuple[int, int], intrinsics: np.ndarray, pose: np.ndarray
) -> np.ndarray:
    """Whether points [..., 3] project into the image (h, w) and lie before the camera: bool [...].

    0 <= u < w, 0 <= v < h, z > 0, unrounded; what hides a point is not looked at.
    """
    height, width = depth_shape
    world_to_camera = np.linalg.inv(np.asarray(pose, np.float64))
    projection = np.asarray(intrinsics, np.float64)[:3, :3] @ world_to_camera[:3]
    flat = np.asarray(points).reshape(-1, 3)
    inside = np.empty(len(flat), bool)
    for start in range(0, len(flat), _BLOCK):  # in pieces that stay in the cache
        block = flat[start : start + _BLOCK].astype(np.float64)
        u, v, z = (block @ row[:3] + row[3] for row in projection)
        inside[start : start + _BLOCK] = (z > 0) & (u >= 0) & (v >= 0) & (u < width * z) & (v < height * z)
    return inside.reshape(points.shape[:-1])


def check_depth(depth: np.ndarray, source: str, field: str = "depth") -> None:
    """InputError unless depth [h, w] is in metres: finite, not negative, not all 0 (0 = no measurement)."""
    if depth.ndim != 2:
        raise InputError(f"{source}: {field}: expected [height, width], found shape {list(depth.shape)}")
    if depth.dtype.kind not in "fiu":
        raise InputError(f"{source}: {field}: expected numbers in metres, found {depth.dtype}")
    if not np.isfinite(depth).all():
        bad = int((~np.isfinite(depth)).sum())
        raise InputError(
            f"{source}: {field}: expected finite metres (0 = no measurement), found {bad} NaN or inf"
        )
    if depth.size and depth.min() < 0:
        raise InputError(f"{source}: {field}: expected metres >= 0, found {depth.min():g}")
    measured = depth[depth > 0]
    if not measured.size:
        raise InputError(f"{source}: {field}: expected a depth image in metres, found only zeros")
    middle = float(np.median(measured[:: 1 + measured.size // _MEDIAN_OF]))
    if middle > _MILLIMETRES:
        raise InputError(f"{source}: {field}: expected metres, found a median of {middle:g}: in millimetres?")


def check_intrinsics(
    intrinsics: np.ndarray, shape: tuple[int, int], source: str, field: str = "cam_intr"
) -> None:
    """InputError unless this is a pinhole camera of an image of `shape` (h, w); at least [3, 3]."""
    if intrinsics.ndim != 2 or min(intrinsics.shape) < 3 or not np.isfinite(intrinsics).all():
        raise InputError(
            f"{source}: {field}: expected finite numbers [3, 3], found shape {list(intrinsics.shape)}"
        )
    if intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        raise InputError(
            f"{source}: {field}: expected focal lengths > 0, found {intrinsics[0, 0]:g}, {intrinsics[1, 1]:g}"
        )
    height, width = shape
    x, y = float(intrinsics[0, 2]), float(intrinsics[1, 2])
    if not (width / 4 <= x <= width * 3 / 4 and height / 4 <= y <= height * 3 / 4):
        raise InputError(
            f"{source}: {field}: the principal point ({x:g}, {y:g}) is not near the middle of the image "
            f"(width {width}, height {height}): intrinsics of another size?"
        )


def check_pose(pose: np.ndarray, source: str, field: str = "cam_pose") -> None:
    """InputError unless `pose` is an affine camera-to-scene matrix [4, 4] that can be inverted."""
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise InputError(f"{source}: {field}: expected finite numbers [4, 4], found shape {list(pose.shape)}")
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-5) or abs(np.linalg.det(pose[:3, :3])) < 1e-8:
        raise InputError(f"{source}: {field}: expected camera to scene coordinates, found {pose.tolist()}")


def check_upright(points: np.ndarray, floor: np.ndarray, others: np.ndarray, source: str) -> None:
    """InputError unless z points up: the floor's points lie lower than those of other objects (medians).

    points [N, 3]; floor, others: bool [N]. Nothing is said where either has no point.
    """
    if floor.any() and others.any():
        low, high = (float(np.median(points[mask, 2])) for mask in (floor, others))
        if low > high:
            raise InputError(
                f"{source}: full_xyz_pts: expected z up, found the floor at {low:.2f} above the other objects at "
                f"{high:.2f} (items.check_upright=false reads it as it is)"
            )
