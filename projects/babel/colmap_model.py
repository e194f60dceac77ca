"""A reconstruction as flat arrays.

I images, N points, M observations (a keypoint in an image that belongs to a point; a point's track are its
observations).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import InputError

_MAX_OUTSIDE = 0.01  # of the keypoints; a few are found past the edge


@dataclass(frozen=True)
class Camera:
    """COLMAP's camera `model` (PINHOLE: fx, fy, cx, cy in pixels) of images of `width` x `height`."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class Model:
    """A reconstruction.

    Attributes:
        names: of the images, as the model says.
        cameras, camera_of: the camera of image i is `cameras[camera_of[i]]`.
        cam_from_world: float64 [I, 3, 4], world to camera, z forward.
        point_ids: int64 [N], ascending; xyz: float64 [N, 3]; rgb: uint8 [N, 3]; error: float64 [N] pixels, -1
            unknown.
        offsets: int64 [I + 1]; image i has the observations offsets[i] to offsets[i + 1].
        points: int32 [M], rows of the points; xy: float32 [M, 2], pixels from the image's top left corner.
    """

    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    camera_of: np.ndarray
    cam_from_world: np.ndarray
    point_ids: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    error: np.ndarray
    offsets: np.ndarray
    points: np.ndarray
    xy: np.ndarray

    def size(self, image: int) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        camera = self.cameras[self.camera_of[image]]
        return camera.height, camera.width

    def observations(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the points [K] that an image sees, and where: rowcol float32 [K, 2], fractions of its size."""
        part = slice(self.offsets[image], self.offsets[image + 1])
        height, width = self.size(image)
        return self.points[part], self.xy[part, ::-1] / np.array([height, width], np.float32)


def make_model(
    *,
    names: Sequence[str],
    cameras: Sequence[Camera],
    camera_of: np.ndarray,
    cam_from_world: np.ndarray,
    point_ids: np.ndarray,
    xyz: np.ndarray,
    rgb: np.ndarray,
    image: np.ndarray,
    point: np.ndarray,
    xy: np.ndarray,
    error: np.ndarray | None = None,
) -> Model:
    """A model from observations in any order: `image` [M], `point` [M] (rows of the given points), `xy` [M, 2].

    ValueError when two points have one id, or an observation names an absent image or point.
    """
    count, observed = len(point_ids), len(image)
    if len(np.unique(point_ids)) != count:
        raise ValueError("point ids are not unique")
    if observed and not (
        0 <= min(image) <= max(image) < len(names) and 0 <= min(point) <= max(point) < count
    ):
        raise ValueError("an observation names an image or a point that is not there")
    by_id = np.argsort(point_ids)
    row_of = np.empty(count, np.int32)
    row_of[by_id] = np.arange(count, dtype=np.int32)
    by_image = np.argsort(image, kind="stable")
    offsets = np.zeros(len(names) + 1, np.int64)
    np.cumsum(np.bincount(np.asarray(image, np.int64), minlength=len(names)), out=offsets[1:])
    return Model(
        names=tuple(names),
        cameras=tuple(cameras),
        camera_of=np.asarray(camera_of, np.int64),
        cam_from_world=np.asarray(cam_from_world, np.float64),
        point_ids=np.asarray(point_ids, np.int64)[by_id],
        xyz=np.asarray(xyz, np.float64)[by_id],
        rgb=np.asarray(rgb, np.uint8)[by_id],
        error=np.full(count, -1.0) if error is None else np.asarray(error, np.float64)[by_id],
        offsets=offsets,
        points=row_of[np.asarray(point, np.int64)[by_image]],
        xy=np.asarray(xy, np.float32)[by_image],
    )


def check_numbers(model: Model, folder: Path) -> None:
    """InputError for what no reconstruction has: numbers that are not finite, keypoints far from their images."""
    for name, values in (
        ("xyz of points", model.xyz),
        ("poses", model.cam_from_world),
        ("keypoints", model.xy),
    ):
        if not np.isfinite(values).all():
            raise InputError(f"{folder}: {name}: not finite: damaged")
    sizes = np.array([model.size(i)[::-1] for i in range(len(model.names))])
    if sizes.min() < 1:
        raise InputError(f"{folder}: a camera of {sizes.min()} pixels, expected a width and a height")
    limits = np.repeat(sizes, np.diff(model.offsets), axis=0)
    outside = np.any((model.xy < -1) | (model.xy > limits + 1), axis=1)
    if outside.sum() > _MAX_OUTSIDE * len(model.xy):
        raise InputError(
            f"{folder}: {int(outside.sum())} of {len(model.xy)} keypoints lie outside their images: cameras of another "
            "scene?"
        )
