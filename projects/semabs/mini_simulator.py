"""The embedded procedural rooms as a simulator: a room, a camera, pictures, and the room as a cloud of points."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from projects.semabs import mini_objects, mini_rooms
from projects.semabs.mini_names import NAMES, TRAIN_NAMES
from projects.semabs.mini_rooms import PLANES, Room
from projects.semabs.scene_generation import BOUNDS
from projects.semabs.simulator import SceneObject, View
from projects.semabs.vocabulary import TEST_ROOMS
from shared.scenes import Camera, Scene

EMPTY, PLANE = 0, 1  # object ids; the things follow
_FIRST = 2


# THOR's room numbers; those of vocabulary.TEST_ROOMS are the novel rooms
TRAIN_ROOMS = tuple(f"FloorPlan{start + n}_physics" for start in (0, 200, 300, 400) for n in range(1, 26))


@dataclass(frozen=True)
class MiniRooms:
    """Rooms drawn from seeds: of training names, or in the novel rooms of all names and with a second picture.

    side: of the square pictures, pixels; points: of the cloud, a cube number best; seed: of everything;
    hidden: what `mini_rooms.draw` hides.
    """

    side: int = 224
    points: int = 64_000
    seed: int = 0
    hidden: str | None = None

    @property
    def rooms(self) -> Sequence[str]:
        """Every name that a room may have: they say no more than whether it is a novel one."""
        return (*TRAIN_ROOMS, *TEST_ROOMS)

    def view(self, room: str, seed: int) -> View:
        """A look into the room of this seed."""
        novel = room in TEST_ROOMS
        rng = np.random.default_rng([self.seed, 606, seed])
        drawn = mini_rooms.draw(rng, NAMES if novel else TRAIN_NAMES, hidden=self.hidden)
        camera = mini_rooms.draw_camera(rng, self.side)
        drawn = _without_unseen(drawn, camera, keep=mini_rooms.HIDDEN_FIRST if self.hidden else 0)
        scene = drawn.scene()
        seen = scene.render(camera, mini_objects.draw_light(rng), samples=2)
        ids = np.array([PLANE] * PLANES + [_FIRST + n for n in range(len(drawn.things))] + [-1])
        points = grid_points(rng, self.points)
        inside = instances_at(scene, points)
        return View(
            room=room,
            rgb=mini_objects.developed(seen.rgb),
            depth=np.where(np.isfinite(seen.depth), seen.depth, 0).astype(np.float32),
            segmentation=ids[seen.instance].astype(np.int32),
            intrinsics=intrinsics(camera),
            pose=pose(camera),
            points=points,
            object_ids=np.where(inside < 0, EMPTY, ids[inside]).astype(np.int32),
            objects=_objects(drawn),
            randomized_rgb=_randomized(drawn, scene, camera, rng) if novel else None,
        )

    def close(self) -> None:
        """Nothing to stop."""


def intrinsics(camera: Camera) -> np.ndarray:
    """[3, 3] for pixels whose centres have whole coordinates."""
    return np.array(
        [
            [camera.focal, 0, camera.width / 2 - 0.5],
            [0, camera.focal, camera.height / 2 - 0.5],
            [0, 0, 1.0],
        ]
    )


def pose(camera: Camera) -> np.ndarray:
    """Camera to scene [4, 4]."""
    matrix = np.eye(4)
    matrix[:3, :3] = camera.rotation.T
    matrix[:3, 3] = camera.position
    return matrix


def grid_points(rng: np.random.Generator, count: int) -> np.ndarray:
    """About `count` points [n**3, 3] float32 in the scene's box: one in each cell of a regular grid."""
    side = max(1, round(count ** (1 / 3)))
    cells = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = BOUNDS[0] + (cells + rng.random(cells.shape)) / side * (BOUNDS[1] - BOUNDS[0])
    return points.astype(np.float32)


def instances_at(scene: Scene, points: np.ndarray) -> np.ndarray:
    """The instance that each point [N, 3] is inside of, -1 = free space: int32 [N].

    A point is inside what the first hit of a ray up or down leaves. (One is not enough where solids overlap.)
    """
    found = np.full(len(points), -1, np.int32)
    for way in (1.0, -1.0):
        rest = np.flatnonzero(found < 0)
        directions = np.broadcast_to(np.array([0, 0, way], np.float32), (len(rest), 3))
        _, face = scene.cast(points[rest], directions)
        leaves = (face >= 0) & (scene.normals[face, 2] * way > 0)
        found[rest[leaves]] = scene.mesh.instance[face[leaves]]
    return found


def _without_unseen(room: Room, camera: Camera, *, keep: int) -> Room:
    """The room without things that no pixel shows, but the first `keep`: nothing is hidden by chance."""
    scene = room.scene()
    _, face = scene.cast(camera.position, camera.rays().reshape(-1, 3))
    seen = {*(np.unique(scene.mesh.instance[face[face >= 0]]) - PLANES).tolist(), *range(keep)}
    kept = [number for number in range(len(room.things)) if number in seen]
    new = {old: number for number, old in enumerate(kept)} | {-1: -1}
    things = (room.things[number] for number in kept)
    return replace(room, things=tuple(replace(one, parent=new.get(one.parent, -1)) for one in things))


def _objects(room: Room) -> tuple[SceneObject, ...]:
    things = [
        SceneObject(one.name, one.thing.kind.material, (one.parent + _FIRST,) if one.parent >= 0 else ())
        for one in room.things
    ]
    return (SceneObject("empty"), SceneObject("unlabelled"), *things)


def _randomized(room: Room, scene: Scene, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """The same room with other planes, other light and other shades of its things."""
    materials = mini_rooms.plane_surfaces(*mini_rooms.draw_planes(rng, wild=1.0))
    for surface in scene.materials[PLANES:]:
        materials.append(_shaded(surface, rng.uniform(0.7, 1.3, 3).astype(np.float32)))
    changed = Scene(scene.mesh, materials)
    seen = changed.render(camera, mini_objects.draw_light(rng, wild=1.0), samples=2)
    return mini_objects.developed(seen.rgb)


def _shaded(surface: mini_objects.Material, shade: np.ndarray) -> mini_objects.Material:
    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return np.clip(surface(points, normals) * shade, 0, 1)

    return albedo
