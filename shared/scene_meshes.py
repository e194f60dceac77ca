"""Triangle meshes with ids on every face, and the solids that procedural scenes are built from.

Axes: x to the right, y away from the viewer, z up. Builders return closed meshes whose faces point outwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles: vertices [V, 3] float32, faces [F, 3] int32; part, instance, material [F] int32."""

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    material: np.ndarray

    def labelled(
        self, *, part: int | None = None, instance: int | None = None, material: int | None = None
    ) -> "Mesh":
        """The same mesh with these ids on all its faces."""
        given = {"part": part, "instance": instance, "material": material}
        count = len(self.faces)
        filled = {name: np.full(count, value, np.int32) for name, value in given.items() if value is not None}
        return replace(self, **filled)

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> "Mesh":
        """The mesh, shifted."""
        return replace(self, vertices=self.vertices + np.array([x, y, z], np.float32))

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> "Mesh":
        """The mesh, stretched from the origin by positive factors."""
        return replace(self, vertices=self.vertices * np.array([x, y, z], np.float32))

    def turned(self, angle: float, axis: Sequence[float] = (0.0, 0.0, 1.0)) -> "Mesh":
        """The mesh, turned round `axis` through the origin by `angle` in radians (right-handed)."""
        return replace(self, vertices=(self.vertices @ rotation(angle, axis).T).astype(np.float32))

    def normals(self) -> np.ndarray:
        """Unit normals of the faces [F, 3] float32."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        normal = np.cross(b - a, c - a)
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)

    def areas(self) -> np.ndarray:
        """Areas of the faces [F] float32."""
        a, b, c = (self.vertices[self.faces[:, corner]] for corner in range(3))
        return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def rotation(angle: float, axis: Sequence[float]) -> np.ndarray:
    """Rotation matrix [3, 3] by `angle` round `axis` (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def mesh(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """A mesh with all ids 0."""
    zeros = np.zeros(len(faces), np.int32)
    return Mesh(np.asarray(vertices, np.float32), np.asarray(faces, np.int32), zeros, zeros, zeros)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of many; ids stay."""
    starts = np.cumsum([0, *(len(one.vertices) for one in meshes)])
    return Mesh(
        np.concatenate([one.vertices for one in meshes]),
        np.concatenate([one.faces + start for one, start in zip(meshes, starts, strict=False)]).astype(
            np.int32
        ),
        *(
            np.concatenate([getattr(one, name) for one in meshes])
            for name in ("part", "instance", "material")
        ),
    )


def box(low: Sequence[float], high: Sequence[float]) -> Mesh:
    """An axis-parallel box from corner `low` to corner `high`."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    return prism(np.array([[x0, z0], [x1, z0], [x1, z1], [x0, z1]]), y0, y1)


def prism(outline: np.ndarray, front: float, back: float) -> Mesh:
    """The outline [n, 2] (x, z), anticlockwise seen from the front, star-shaped, as a solid from y=front to back."""
    outline = np.asarray(outline, float)
    count = len(outline)
    rim = np.arange(count)
    following = np.roll(rim, -1)
    centre = outline.mean(0)
    points = np.concatenate([outline, [centre]])
    vertices = np.concatenate([_at_depth(points, front), _at_depth(points, back)])
    faces = [
        np.stack([rim, following, np.full(count, count)], 1),
        np.stack([following, rim, np.full(count, count)], 1) + count + 1,
        np.stack([rim, rim + count + 1, following], 1),
        np.stack([following, rim + count + 1, following + count + 1], 1),
    ]
    return mesh(vertices, np.concatenate(faces))


def ring(outer: np.ndarray, inner: np.ndarray, front: float, back: float) -> Mesh:
    """What lies between two outlines [n, 2] with as many points, from y=front to y=back."""
    count = len(outer)
    rim = np.arange(count)
    following = np.roll(rim, -1)
    loops = [
        _at_depth(np.asarray(points, float), depth) for depth in (front, back) for points in (outer, inner)
    ]
    a, b, c, d = (rim + count * loop for loop in range(4))  # front outer, front inner, back outer, back inner
    e, f, g, h = (following + count * loop for loop in range(4))
    quads = [(a, e, f, b), (c, d, h, g), (a, c, g, e), (b, f, h, d)]
    faces = [np.stack(three, 1) for p, q, r, s in quads for three in ((p, q, r), (p, r, s))]
    return mesh(np.concatenate(loops), np.concatenate(faces))


def lathe(profile: np.ndarray, segments: int = 16, turn: float = 0.0) -> Mesh:
    """The profile [n, 2] of (radius, z), from below to above, turned round the z axis; `turn`: first corner."""
    profile = np.asarray(profile, float)
    angles = turn + 2 * np.pi * np.arange(segments) / segments
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    loops = [np.c_[radius * circle, np.full(segments, height)] for radius, height in profile]
    ends = [[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]]
    rim = np.arange(segments)
    following = np.roll(rim, -1)
    faces = []
    for level in range(len(profile) - 1):
        low, high = level * segments, (level + 1) * segments
        faces.append(np.stack([low + rim, low + following, high + following], 1))
        faces.append(np.stack([low + rim, high + following, high + rim], 1))
    bottom, top = len(profile) * segments, (len(profile) - 1) * segments
    faces.append(np.stack([following, rim, np.full(segments, bottom)], 1))
    faces.append(np.stack([top + rim, top + following, np.full(segments, bottom + 1)], 1))
    return mesh(np.concatenate([*loops, ends]), np.concatenate(faces))


def ball(radius: float, segments: int = 12, *, half: bool = False) -> Mesh:
    """A sphere round the origin, or its upper half."""
    angles = np.linspace(0 if half else -np.pi / 2, np.pi / 2, segments // 2 + 1)
    return lathe(radius * np.stack([np.cos(angles), np.sin(angles)], 1), segments)


def column(
    radius: float, low: float, high: float, segments: int = 12, top_radius: float | None = None
) -> Mesh:
    """A cylinder on the z axis; a cone with `top_radius` 0, a frustum with another."""
    top = radius if top_radius is None else top_radius
    return lathe(np.array([[radius, low], [top, high]]), segments)


def pyramid(half: float, low: float, high: float, *, sides: int = 4) -> Mesh:
    """A spire on the z axis; with four sides its base is the square of half-width `half`, parallel to the axes."""
    radius = half / np.cos(np.pi / sides)
    return lathe(np.array([[radius, low], [0.0, high]]), sides, turn=np.pi / sides)


def arch_outline(width: float, height: float, *, pointed: float = 0.5, points: int = 12) -> np.ndarray:
    """A doorway [2 points + 2, 2] with its foot centred at the origin: jambs and an arch.

    `pointed` 0 is a half circle, 1 the equilateral Gothic arch; the arch takes what the jambs leave of `height`.
    """
    half = width / 2
    radius = half * (1 + pointed)
    apex = np.arccos(1 - half / radius) if pointed else np.pi / 2
    angles = np.linspace(0, apex, points)
    x = half - radius + radius * np.cos(angles)
    z = radius * np.sin(angles)
    spring = max(height - z[-1], 0.05 * height)
    z = z * (height - spring) / z[-1]
    right = np.stack([x, spring + z], 1)
    left = right[-2::-1] * [-1, 1]
    return np.concatenate([[[-half, 0], [half, 0]], right, left])


def circle_outline(radius: float, points: int = 24) -> np.ndarray:
    """A circle [points, 2] round the origin, anticlockwise."""
    angles = 2 * np.pi * np.arange(points) / points
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _at_depth(outline: np.ndarray, y: float) -> np.ndarray:
    return np.stack([outline[:, 0], np.full(len(outline), y), outline[:, 1]], 1)
