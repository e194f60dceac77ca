"""The things of the embedded rooms: a name drawn as mesh and surface, and pictures of single things (sprites)."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from projects.semabs import mini_shapes
from projects.semabs.mini_names import COLOURS, KIND, Kind
from shared.scene_meshes import Mesh, rotation
from shared.scene_textures import Material
from shared.scenes import Light, Scene, look_at

_JITTER = 0.1  # of sizes and colours
_CELLS = 3.0  # repeats of a pattern along the height


@dataclass(frozen=True)
class Thing:
    """One drawn object: mesh in its own axes (foot at the origin, metres), surface in the same axes."""

    kind: Kind
    mesh: Mesh
    surface: Material

    @property
    def low(self) -> np.ndarray:
        """Lower corner of its box [3]."""
        return self.mesh.vertices.min(0)

    @property
    def high(self) -> np.ndarray:
        """Upper corner of its box [3]."""
        return self.mesh.vertices.max(0)


@cache
def _shape(name: str) -> Mesh:
    return mini_shapes.build(name)


def draw(name: str, rng: np.random.Generator, *, colour_noise: float = 0.0) -> Thing:
    """A thing of this name: sizes vary by 10 %, colours by 10 % (and by `colour_noise` more)."""
    kind = KIND[name]
    size = kind.height * rng.uniform(1 - _JITTER, 1 + _JITTER, 3)
    size[:2] *= rng.uniform(1 - _JITTER, 1 + _JITTER)
    spread = _JITTER + colour_noise
    colours = [
        np.clip(np.array(COLOURS[one]) * rng.uniform(1 - spread, 1 + spread, 3), 0, 1) for one in kind.colours
    ]
    mesh = _shape(kind.shape).scaled(*size)
    return Thing(kind, mesh, _surface(kind.pattern, colours[0], colours[1], float(mesh.vertices[:, 2].max())))


def _surface(pattern: str, first: np.ndarray, second: np.ndarray, height: float) -> Material:
    """The colour of points in the thing's own axes."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    cell = height / _CELLS

    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return np.where(_is_second(pattern, points, height, cell)[:, None], b, a)

    return albedo


def _is_second(pattern: str, points: np.ndarray, height: float, cell: float) -> np.ndarray:
    if pattern == "solid":
        return np.zeros(len(points), bool)
    if pattern == "two tone":
        return points[:, 2] < 0.45 * height
    x, y, z = (points / cell).T
    if pattern == "bands":
        return np.floor(2 * z) % 2 == 1
    if pattern == "stripes":
        return np.floor(2 * (x + y)) % 2 == 1
    if pattern == "checker":
        return (np.floor(1.5 * x) + np.floor(1.5 * y) + np.floor(1.5 * z + 1e-3)) % 2 == 1
    dots = points * np.float32(1.3 / cell)  # balls round a body-centred lattice: no plane misses them all
    distances = [(((dots + shift) % 1 - 0.5) ** 2).sum(1) for shift in (0.0, 0.5)]
    return np.minimum(*distances) < 0.105


def placed(surface: Material, position: np.ndarray, yaw: float) -> Material:
    """The surface of a thing that was turned by `yaw` and moved to `position`, for points in the room."""
    turn = rotation(yaw, (0, 0, 1)).astype(np.float32)
    origin = np.asarray(position, np.float32)

    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return surface((points - origin) @ turn, normals)

    return albedo


def draw_light(rng: np.random.Generator, *, wild: float = 0.0) -> Light:
    """The light of a room: from the front above, whitish; `wild` (0 to 1) from anywhere above, tinted."""
    azimuth = np.pi + rng.uniform(-1, 1) * (0.9 + 2 * wild)
    height = np.deg2rad(rng.uniform(35 - 15 * wild, 65))
    towards = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    tint = 1 + (0.06 + 0.3 * wild) * rng.uniform(-1, 1, 3)
    strength = rng.uniform(0.8, 1.1)
    return Light(towards, 0.6 * strength * tint, 0.65 * strength * tint, 0.45 * strength * tint)


def developed(linear: np.ndarray) -> np.ndarray:
    """Linear colours -> uint8."""
    return (255 * np.clip(linear, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)


def sprite(name: str, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """One thing, seen and lit as in a room, as a picture that it fills: uint8 [side, side, 4], alpha is its mask."""
    thing = draw(name, rng)
    yaw = rng.uniform(-np.pi, np.pi)
    mesh = thing.mesh.turned(yaw).labelled(material=0)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    pitch, distance = np.deg2rad(rng.uniform(15, 50)), radius * rng.uniform(3.5, 6)
    position = centre + distance * np.array([-np.cos(pitch), 0.0, np.sin(pitch)])
    camera = look_at(position, centre, width=side, height=side, focal=1.0)
    pixels, _ = camera.project(mesh.vertices)
    focal = (side / 2 - 1) / np.abs(pixels - side / 2).max()
    camera = look_at(position, centre, width=side, height=side, focal=float(focal))
    scene = Scene(mesh, [placed(thing.surface, np.zeros(3), yaw)])
    rendering = scene.render(camera, draw_light(rng), samples=1)
    alpha = np.where(rendering.face >= 0, 255, 0).astype(np.uint8)
    return np.dstack([developed(rendering.rgb), alpha])
