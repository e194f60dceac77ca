"""Point clouds as pictures: every point a small square, the nearest one wins."""

import numpy as np

from shared.scenes import Camera

_LARGEST = 12  # pixels of a square


def draw(
    rgb: np.ndarray,
    depth: np.ndarray,
    camera: Camera,
    points: np.ndarray,
    colours: np.ndarray,
    *,
    size: float,
) -> None:
    """Draw points [N, 3] into a picture rgb uint8 [H, W, 3] with its depth [H, W] float32 (inf: nothing there).

    colours uint8 [N, 3]; size: side of a point's square in units of the scene, seen at the cloud's distance.
    Both pictures are changed in place.
    """
    pixels, far = camera.project(points)
    kept = np.flatnonzero(far > 1e-6)
    if not len(kept):
        return
    side = int(np.clip(round(size * camera.focal / float(np.median(far[kept]))), 1, _LARGEST))
    order = kept[
        np.argsort(-far[kept])
    ]  # of equal indices in an assignment NumPy keeps the last: the nearest
    corner = np.floor(pixels[order] - (side - 1) / 2).astype(np.int64)
    step = np.arange(side)
    column = corner[:, 0, None, None] + step[None, None, :]
    row = corner[:, 1, None, None] + step[None, :, None]
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    place = (row * camera.width + column)[inside]
    owner = np.broadcast_to(np.arange(len(order))[:, None, None], inside.shape)[inside]
    front = np.full(camera.height * camera.width, -1, np.int64)
    front[place] = owner
    hit = np.flatnonzero(front >= 0)
    point = order[front[hit]]
    nearer = far[point] < depth.reshape(-1)[hit]
    hit, point = hit[nearer], point[nearer]
    depth.reshape(-1)[hit] = far[point]
    rgb.reshape(-1, 3)[hit] = colours[point]
