"""Procedural 3D scenes and their pictures: colour, depth, ids, exact cameras, surface points, correspondences.

Embree casts the rays, NumPy shades. World axes: z up; camera axes: x right, y down, z forward. Pixel (row, column)
covers [column, column+1) x [row, row+1). All randomness comes from generators that the caller gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shared.scene_meshes import Mesh
from shared.scene_textures import Material

Background = Callable[[np.ndarray], np.ndarray]  # unit directions [N, 3] -> linear colour [N, 3]
_LIFT = 3e-4  # of a secondary ray's start above its surface, in units of the distance to the camera


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: x_camera = rotation @ x_world + translation; focal length and centre in pixels."""

    width: int
    height: int
    focal: float
    rotation: np.ndarray
    translation: np.ndarray

    @property
    def position(self) -> np.ndarray:
        """Its place in the world [3]."""
        return -self.rotation.T @ self.translation

    @property
    def principal(self) -> np.ndarray:
        """The centre of the picture (x, y), pixels."""
        return np.array([self.width / 2, self.height / 2])

    def rays(self, samples: int = 1) -> np.ndarray:
        """World directions [H s, W s, 3] float32 with camera z = 1, so that a ray's length is the depth."""
        x = (np.arange(self.width * samples) + 0.5) / samples - self.width / 2
        y = (np.arange(self.height * samples) + 0.5) / samples - self.height / 2
        in_camera = np.empty((len(y), len(x), 3))
        in_camera[..., 0] = x / self.focal
        in_camera[..., 1] = y[:, None] / self.focal
        in_camera[..., 2] = 1
        return (in_camera @ self.rotation).astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, 2] (x, y) and depths [N] of world points [N, 3]; pixels mean nothing where depth <= 0."""
        in_camera = points @ self.rotation.T + self.translation
        depth = in_camera[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        return in_camera[:, :2] / safe[:, None] * self.focal + self.principal, depth

    def unproject(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """World points [N, 3] of pixels [N, 2] (x, y) at depths [N]."""
        in_camera = np.c_[(pixels - self.principal) / self.focal, np.ones(len(pixels))] * depth[:, None]
        return (in_camera - self.translation) @ self.rotation


def look_at(
    position: np.ndarray, target: np.ndarray, *, width: int, height: int, focal: float, roll: float = 0.0
) -> Camera:
    """A camera at `position` that has `target` in the middle; `roll` in radians turns it round its axis."""
    forward = np.asarray(target, float) - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right) if np.linalg.norm(right) > 1e-6 else np.array([1.0, 0, 0])
    down = np.cross(forward, right)
    turned = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    rotation = np.stack([*turned, forward])
    return Camera(width, height, focal, rotation, -rotation @ np.asarray(position, float))


@dataclass(frozen=True)
class Light:
    """A sun and a sky: direction towards the sun [3], linear colours [3] of sun, sky (above), ground (below)."""

    towards: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    ground: np.ndarray


@dataclass(frozen=True)
class Rendering:
    """A picture: rgb [H, W, 3] float32, linear; depth [H, W] float32, inf where nothing is; face [H, W], -1 there.

    part, instance [H, W] int32: ids of the face at the centre of the pixel, -1 where nothing is.
    """

    rgb: np.ndarray
    depth: np.ndarray
    face: np.ndarray
    part: np.ndarray
    instance: np.ndarray


class Scene:
    """A mesh with materials: `materials[mesh.material[face]]` gives the colour of a face's points."""

    def __init__(self, mesh: Mesh, materials: Sequence[Material]) -> None:
        self.mesh = mesh
        self.materials = materials

    @cached_property
    def normals(self) -> np.ndarray:
        """Unit normals of the faces [F, 3]."""
        return self.mesh.normals()

    @cached_property
    def _embree(self) -> object:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        scene = EmbreeScene()
        self._keep = TriangleMesh(scene, self.mesh.vertices, self.mesh.faces)
        return scene

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hits of rays [N, 3] from `origin` ([3] or [N, 3]).

        Returns:
            distance [N] float32 in units of the direction's length (inf: none), face [N] int32 (-1: none).
        """
        hits = self._embree.run(_origins(origin, directions), _contiguous(directions), output=1)  # type: ignore[attr-defined]
        missed = hits["primID"] < 0
        return np.where(missed, np.float32(np.inf), hits["tfar"]), hits["primID"]

    def occluded(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether rays [N, 3] without end meet anything [N] bool."""
        found = self._embree.run(_origins(origin, directions), _contiguous(directions), query="OCCLUDED")  # type: ignore[attr-defined]
        return found >= 0

    def render(
        self, camera: Camera, light: Light, *, background: Background = np.zeros_like, samples: int = 2
    ) -> Rendering:
        """A picture with cast shadows; colour is the mean of samples x samples rays per pixel."""
        rgb = self._shade(camera, light, background, camera.rays(samples).reshape(-1, 3))
        rgb = rgb.reshape(camera.height, samples, camera.width, samples, 3).mean((1, 3))
        depth, face = (
            values.reshape(camera.height, camera.width)
            for values in self.cast(camera.position, camera.rays().reshape(-1, 3))
        )
        part, instance = (np.where(face < 0, -1, ids[face]) for ids in (self.mesh.part, self.mesh.instance))
        return Rendering(rgb, depth, face, part, instance)

    def _shade(
        self, camera: Camera, light: Light, background: Background, directions: np.ndarray
    ) -> np.ndarray:
        distance, face = self.cast(camera.position, directions)
        hit = np.flatnonzero(face >= 0)
        colour = np.empty((len(directions), 3), np.float32)
        missed = face < 0
        away = directions[missed]
        colour[missed] = background(away / np.linalg.norm(away, axis=1, keepdims=True))
        face, distance, directions = face[hit], distance[hit], directions[hit]
        normal = self.normals[face]
        normal = normal * -np.sign(np.einsum("nc,nc->n", normal, directions))[:, None]
        points = camera.position.astype(np.float32) + distance[:, None] * directions
        lit = self._lit(points + _LIFT * distance[:, None] * normal, normal, light)
        upness = 0.5 + 0.5 * normal[:, 2:]
        received = light.ground + (light.sky - light.ground) * upness + lit[:, None] * light.sun
        colour[hit] = self.albedo(points, normal, face) * received
        return colour

    def _lit(self, points: np.ndarray, normals: np.ndarray, light: Light) -> np.ndarray:
        """Share of the sun's light that arrives [N]: cosine of its angle, 0 in the shadow."""
        cosine = normals @ light.towards.astype(np.float32)
        facing = np.flatnonzero(cosine > 0)
        towards = np.broadcast_to(light.towards.astype(np.float32), (len(facing), 3))
        shadow = self.occluded(points[facing], towards)
        lit = np.zeros(len(points), np.float32)
        lit[facing] = np.where(shadow, 0, cosine[facing])
        return lit

    def albedo(self, points: np.ndarray, normals: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Colour [N, 3] of points [N, 3] on faces [N]."""
        material = self.mesh.material[face]
        colour = np.empty((len(points), 3), np.float32)
        for number in np.unique(material):
            rows = np.flatnonzero(material == number)
            colour[rows] = self.materials[number](points[rows], normals[rows])
        return colour

    def sees(self, camera: Camera, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which surface points [N, 3] a camera sees: in the picture, turned to it, nothing before them.

        Returns:
            seen [N] bool, pixels [N, 2] (x, y).
        """
        pixels, depth = camera.project(points)
        inside = (pixels >= 0).all(1) & (pixels <= [camera.width, camera.height]).all(1) & (depth > 0)
        to_camera = camera.position - points
        seen = inside & (np.einsum("nc,nc->n", to_camera, normals) > 0)
        rows = np.flatnonzero(seen)
        lifted = points[rows] + _LIFT * depth[rows, None] * normals[rows]
        distance, _ = self.cast(camera.position, lifted - camera.position)
        seen[rows] = distance > 1 - 1e-4
        return seen, pixels


def surface_points(
    mesh: Mesh, count: int, rng: np.random.Generator, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Random points on a mesh, by area times `weights` [F] of the faces: points [count, 3], face [count]."""
    density = mesh.areas().astype(float) * (1 if weights is None else weights)
    face = rng.choice(len(density), size=count, p=density / density.sum())
    first, second = rng.random(count), rng.random(count)
    over = first + second > 1
    first[over], second[over] = 1 - first[over], 1 - second[over]
    a, b, c = (mesh.vertices[mesh.faces[face, corner]].astype(float) for corner in range(3))
    return a + first[:, None] * (b - a) + second[:, None] * (c - a), face


def correspondences(
    first: tuple[Camera, Rendering], second: tuple[Camera, Rendering], *, tolerance: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of one picture lie in another: dense matches of what both see.

    A pixel is kept when its point falls into the second picture, on the same part and instance, with depths that
    agree to `tolerance` times the depth.

    Returns:
        pixels [K, 2] (x, y) of centres in the first picture, float [K, 2] of their points in the second.
    """
    (camera, rendering), (other, seen) = first, second
    row, column = np.nonzero(np.isfinite(rendering.depth))
    pixels = np.stack([column, row], 1) + 0.5
    points = camera.unproject(pixels, rendering.depth[row, column].astype(float))
    target, depth = other.project(points)
    inside = (depth > 0) & (target >= 0).all(1) & (target < [other.width, other.height]).all(1)
    row, column = row[inside], column[inside]
    pixels, target, depth = pixels[inside], target[inside], depth[inside]
    to_column, to_row = target.astype(int).T
    there = seen.depth[to_row, to_column]
    kept = np.abs(there - depth) <= tolerance * depth
    for name in ("part", "instance"):
        kept &= getattr(rendering, name)[row, column] == getattr(seen, name)[to_row, to_column]
    return pixels[kept], target[kept]


def _origins(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    return _contiguous(np.broadcast_to(origin, directions.shape))


def _contiguous(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)
