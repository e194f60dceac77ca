"""Where a thing may be that the camera does not see: inside a receptacle's box, or behind what hides it."""

import numpy as np

from projects.semabs.simulator import View

_STRIP = 10  # pixels


def behind(view: View, reference: int, points: np.ndarray) -> np.ndarray:
    """Which points [N, 3] lie behind the reference: bool [N].

    In each strip of ten columns from its first one: those deeper than its deepest pixel there, but not those
    within ten rows of its first row.
    """
    height, width = view.segmentation.shape
    to_camera = np.linalg.inv(np.asarray(view.pose, float))
    x, y, z = to_camera[:3, :3] @ points.T.astype(float) + to_camera[:3, 3:]
    safe = np.where(z > 0, z, 1.0)
    u = np.rint(x / safe * view.intrinsics[0, 0] + view.intrinsics[0, 2])
    v = np.rint(y / safe * view.intrinsics[1, 1] + view.intrinsics[1, 2])
    pictured = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    rows, columns = np.nonzero(view.segmentation == reference)
    if not len(rows):
        return np.zeros(len(points), bool)
    first = int(columns.min())
    strip = (columns - first) // _STRIP
    deepest = np.full(int(strip.max()) + 1, -np.inf)
    np.maximum.at(deepest, strip, view.depth[rows, columns])
    deepest[np.isneginf(deepest)] = np.inf
    of_point = np.where(pictured, (u - first) // _STRIP, -1).astype(int)
    known = (of_point >= 0) & (of_point < len(deepest)) & (v > rows.min() + _STRIP)
    found: np.ndarray = known & (z > deepest[np.where(known, of_point, 0)])
    return found
