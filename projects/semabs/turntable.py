"""Films of meshes and point clouds that turn round, rendered without a display.

Light is computed once, at the vertices: a sun with cast shadows, and as much sky as each vertex sees. A frame
is then one ray per pixel of the part of the picture that the meshes can cover.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from projects.semabs import splats
from projects.semabs.meshes import Surface
from shared.errors import InputError
from shared.files import atomic_path
from shared.scene_meshes import join, mesh
from shared.scenes import Camera, Scene, look_at

FRAMES, SIZE, FPS = 220, 1024, 24
_FIELD_OF_VIEW = np.deg2rad(40)
_SUN = np.array([-0.45, -0.35, 0.82])  # from behind the released cameras
_BACKGROUND = np.array([255, 255, 255], np.uint8)
_SKY_RAYS = 24  # of a vertex, fewer where there are many
_ALL_RAYS = 3_000_000
_LIFT = 2e-3  # of the start of a shadow ray over its surface, in units of the meshes' extent
_DARK = 0.38  # light of a vertex that sees neither sun nor sky


@dataclass(frozen=True)
class Painted:
    """A mesh of one colour: uint8 [3]."""

    surface: Surface
    colour: np.ndarray


@dataclass(frozen=True)
class Cloud:
    """Points [N, 3] with colours uint8 [N, 3], drawn as squares of side `size` in units of the scene."""

    points: np.ndarray
    colours: np.ndarray
    size: float = 0.012


@dataclass(frozen=True)
class Stage:
    """What is filmed, and the path of the camera: a circle round `centre`, `radius` away, `elevation` up in radians."""

    meshes: Sequence[Painted] = ()
    clouds: Sequence[Cloud] = ()
    centre: np.ndarray = field(default_factory=lambda: np.zeros(3))
    radius: float = 3.0
    elevation: float = 0.5
    start: float = np.pi  # azimuth of the first frame: from -x, where the released cameras stand

    def camera(self, turn: float, size: int) -> Camera:
        """The camera after `turn` in [0, 1) of the circle, for a square picture."""
        azimuth = self.start + 2 * np.pi * turn
        flat = np.cos(self.elevation)
        towards = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(self.elevation)])
        focal = size / 2 / np.tan(_FIELD_OF_VIEW / 2)
        return look_at(self.centre + self.radius * towards, self.centre, width=size, height=size, focal=focal)

    @cached_property
    def _lit(self) -> "_Lit | None":
        shown = [one for one in self.meshes if len(one.surface.faces)]
        return _Lit(shown) if shown else None

    def picture(self, turn: float = 0.0, size: int = SIZE) -> np.ndarray:
        """One frame, uint8 [size, size, 3]."""
        camera = self.camera(turn, size)
        rgb = np.broadcast_to(_BACKGROUND, (size, size, 3)).copy()
        depth = np.full((size, size), np.inf, np.float32)
        if self._lit is not None:
            self._lit.draw(rgb, depth, camera)
        for cloud in self.clouds:
            splats.draw(rgb, depth, camera, cloud.points, cloud.colours, size=cloud.size)
        return rgb


def stage_round(
    meshes: Sequence[Painted], clouds: Sequence[Cloud], *, elevation: float = 0.5, start: float = np.pi
) -> Stage:
    """A stage whose camera circles round all that is on it, far enough to see it whole."""
    parts = [one.surface.vertices for one in meshes] + [one.points for one in clouds]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise InputError("nothing to show: no mesh and no point")
    low, high = np.min([part.min(0) for part in parts], 0), np.max([part.max(0) for part in parts], 0)
    half = float(np.linalg.norm(high - low)) / 2
    radius = max(half / np.sin(_FIELD_OF_VIEW / 2) * 0.92, 1e-3)
    return Stage(meshes, clouds, (low + high) / 2, radius, elevation, start)


def film(stage: Stage, *, frames: int = FRAMES, size: int = SIZE) -> Iterator[np.ndarray]:
    """The frames of one turn, uint8 [size, size, 3] each."""
    for number in range(frames):
        yield stage.picture(number / frames, size)


def write_film(
    path: str | os.PathLike[str],
    stage: Stage,
    *,
    frames: int = FRAMES,
    size: int = SIZE,
    fps: int = FPS,
    decorate: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """One turn as an H.264 mp4 (even sizes), in its place only when it is whole; `decorate` draws on each frame."""
    import imageio_ffmpeg

    if size % 2 or size < 2 or frames < 1 or fps < 1:
        raise InputError(
            f"film: expected an even size and at least one frame, found {frames} of {size} at {fps}/s"
        )
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (size, size), fps=fps, codec="libx264", macro_block_size=2,
            output_params=["-preset", "veryfast", "-crf", "20", "-f", "mp4", "-movflags", "+faststart"],
        )  # fmt: skip
        writer.send(None)
        try:
            for picture in film(stage, frames=frames, size=size):
                writer.send(np.ascontiguousarray(decorate(picture) if decorate else picture))
        finally:
            writer.close()


class _Lit:
    """Meshes with light at their vertices."""

    def __init__(self, meshes: Sequence[Painted]) -> None:
        whole = join([mesh(one.surface.vertices, one.surface.faces) for one in meshes])
        self.scene = Scene(whole, [])
        self.vertices, self.faces = whole.vertices, whole.faces
        colours = [np.broadcast_to(one.colour, one.surface.vertices.shape) for one in meshes]
        normals = np.concatenate([one.surface.normals for one in meshes])
        light = _light(self.scene, self.vertices, normals)
        self.colours = (np.concatenate(colours) * light[:, None]).clip(0, 255).astype(np.float32)
        self.low, self.high = self.vertices.min(0), self.vertices.max(0)
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        self.origin, self.dual = a, _dual(b - a, c - a)

    def draw(self, rgb: np.ndarray, depth: np.ndarray, camera: Camera) -> None:
        """Draw into a picture and its depth, in place."""
        top, bottom, left, right = self._window(camera)
        if top >= bottom or left >= right:
            return
        x = (np.arange(left, right) + 0.5 - camera.width / 2) / camera.focal
        y = (np.arange(top, bottom) + 0.5 - camera.height / 2) / camera.focal
        across = (x[:, None] * camera.rotation[0]).astype(np.float32)
        down = (y[:, None] * camera.rotation[1] + camera.rotation[2]).astype(np.float32)
        directions = (down[:, None] + across[None]).reshape(-1, 3)
        distance, face = self.scene.cast(camera.position, directions)
        hit = np.flatnonzero(face >= 0)
        face, near = face[hit], distance[hit]
        points = camera.position.astype(np.float32) + near[:, None] * directions[hit]
        weights = np.einsum("nkc,nc->nk", self.dual[face], points - self.origin[face])
        corners = self.colours[self.faces[face]]
        first = corners[:, 0] * (1 - weights.sum(1, keepdims=True))
        colour = first + corners[:, 1] * weights[:, :1] + corners[:, 2] * weights[:, 1:]
        window_rgb, window_depth = rgb[top:bottom, left:right], depth[top:bottom, left:right]
        row, column = np.divmod(hit, right - left)
        window_rgb[row, column] = colour.clip(0, 255).astype(np.uint8)
        window_depth[row, column] = near

    def _window(self, camera: Camera) -> tuple[int, int, int, int]:
        """Rows and columns that the box round the meshes covers."""
        corners = np.array(np.meshgrid(*zip(self.low, self.high, strict=True))).reshape(3, -1).T
        pixels, far = camera.project(corners)
        if (far <= 1e-6).any():
            return 0, camera.height, 0, camera.width
        (left, top), (right, bottom) = np.floor(pixels.min(0)), np.ceil(pixels.max(0))
        return (
            max(0, int(top)), min(camera.height, int(bottom)), max(0, int(left)), min(camera.width, int(right)),
        )  # fmt: skip


def _dual(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[F, 2, 3]: its product with (point - corner) gives the weights of the two other corners of a triangle."""
    a, b, c = (
        np.einsum("fc,fc->f", *pair)[:, None] for pair in ((first, first), (first, second), (second, second))
    )
    area = np.maximum(a * c - b * b, 1e-20)
    return np.stack([(c * first - b * second) / area, (a * second - b * first) / area], 1).astype(np.float32)


def _light(scene: Scene, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Light [V] that arrives at vertices [V, 3]: about 1 in the sun."""
    extent = float(np.ptp(vertices, axis=0).max())
    start = (vertices + _LIFT * extent * normals).astype(np.float32)
    sun = _SUN / np.linalg.norm(_SUN)
    cosine = np.maximum(normals @ sun, 0)
    facing = np.flatnonzero(cosine > 0)
    cosine[facing] *= ~scene.occluded(start[facing], np.broadcast_to(sun, (len(facing), 3)))
    rng = np.random.default_rng(0)
    sky = np.zeros(len(vertices))
    count = int(np.clip(_ALL_RAYS // max(1, len(vertices)), 6, _SKY_RAYS))
    for _ in range(count):  # directions about each normal, by the cosine
        direction = rng.standard_normal(3)
        directions = (normals + direction / np.linalg.norm(direction)).astype(np.float32)
        sky += (directions[:, 2] > -0.3) & ~scene.occluded(start, directions)
    return _DARK + 0.34 * sky / count + 0.42 * cosine
