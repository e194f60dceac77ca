"""A view of AI2-THOR as it comes from the simulator, and the room's ground truth -> a `View` in scene coordinates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from projects.semabs import thor_geometry
from projects.semabs.geometry import back_project
from projects.semabs.scene_arrays import NOT_AN_OBJECT
from projects.semabs.scene_generation import Generator
from projects.semabs.simulator import SceneObject, View

_VOTERS = 1000  # points of an object at most that are compared with an unknown one


@dataclass(frozen=True)
class RoomTruth:
    """A room as points (world coordinates of THOR): points [N, 3], object_ids [N] into names and classes [M].

    names: THOR's object ids; receptacles: by name, bool [N], the points in the box of a container.
    """

    points: np.ndarray
    object_ids: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    receptacles: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class RawView:
    """What the simulator returns for one pose: position, rotation [3] (metres, degrees); rgb uint8 [H, H, 3];
    depth [H, H]; instance uint8 [H, H, 3] with colours: {colour: object id}; objects: its metadata."""

    position: np.ndarray
    rotation: np.ndarray
    rgb: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    colours: Mapping[tuple[int, int, int], str]
    objects: Sequence[Mapping[str, Any]]
    randomized_rgb: np.ndarray | None = None


def to_view(
    room: str, raw: RawView, truth: RoomTruth, *, rng: Generator, distance: float = thor_geometry.DISTANCE
) -> View:
    """The view in scene coordinates."""
    pose = thor_geometry.camera_pose(raw.position, raw.rotation)
    matrix = thor_geometry.to_scene(pose, distance)
    depth = thor_geometry.without_mirrors(raw.depth)
    intrinsics = thor_geometry.intrinsics(depth.shape[0])
    points = thor_geometry.transformed(matrix, truth.points)
    pixels = back_project(depth, intrinsics, matrix @ pose)
    return View(
        room=room,
        rgb=raw.rgb,
        depth=depth,
        segmentation=_segmentation(raw, truth, points, pixels, rng),
        intrinsics=intrinsics,
        pose=matrix @ pose,
        points=points,
        object_ids=truth.object_ids,
        objects=_objects(raw.objects, truth),
        randomized_rgb=raw.randomized_rgb,
    )


def _segmentation(
    raw: RawView, truth: RoomTruth, points: np.ndarray, pixels: np.ndarray, rng: Generator
) -> np.ndarray:
    """Object ids [H, W]; -1 where a colour means nothing.

    An object that is no part of the ground truth (THOR makes some while it runs) is taken for the one next to it.
    """
    number_of = {name: number for number, name in enumerate(truth.names)}
    code = raw.instance.astype(np.int64) @ [65536, 256, 1]
    found = np.full(code.shape, -1, np.int64)
    samples: list[tuple[int, np.ndarray]] = []
    for colour, name in raw.colours.items():
        mask = code == int(np.dot(colour, [65536, 256, 1]))
        if not mask.any():
            continue
        if name not in number_of and not samples:
            samples = _samples(points, truth, rng)
        found[mask] = number_of[name] if name in number_of else _nearest(pixels[mask.reshape(-1)], samples)
    return found


def _samples(points: np.ndarray, truth: RoomTruth, rng: Generator) -> list[tuple[int, np.ndarray]]:
    """Some points of every object of a room."""
    found = []
    for number, name in enumerate(truth.classes):
        mine = np.flatnonzero(truth.object_ids == number)
        if name not in NOT_AN_OBJECT and len(mine):
            found.append((number, points[rng.permutation(mine)[:_VOTERS]]))
    return found


def _nearest(pixels: np.ndarray, samples: list[tuple[int, np.ndarray]]) -> int:
    """The object that most of the points [P, 3] are nearest to, -1 where a room has none."""
    from scipy.spatial import cKDTree

    if not samples:
        return -1
    distances = [cKDTree(points).query(pixels)[0] for _, points in samples]
    return samples[int(np.bincount(np.argmin(distances, axis=0)).argmax())][0]


def _objects(metadata: Sequence[Mapping[str, Any]], truth: RoomTruth) -> tuple[SceneObject, ...]:
    told = {str(one["objectId"]): one for one in metadata}
    number_of = {name: number for number, name in enumerate(truth.names)}
    found = []
    for name, kind in zip(truth.names, truth.classes, strict=True):
        one = told.get(name, {})
        materials, parents = one.get("salientMaterials") or [""], one.get("parentReceptacles") or []
        receptacles = tuple(number_of[parent] for parent in parents if parent in number_of)
        found.append(SceneObject(kind, str(materials[0]), receptacles, truth.receptacles.get(name)))
    return tuple(found)
