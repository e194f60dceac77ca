"""From a view of a simulator to the arrays of a scene file: relations, hidden targets, TSDF, a subsample of points."""

from dataclasses import dataclass

import numpy as np

from projects.semabs import receptacles, relations
from projects.semabs.geometry import in_bounds
from projects.semabs.relations import Extents, Relation
from projects.semabs.scene_arrays import NOT_AN_OBJECT, Descriptions, SceneArrays
from projects.semabs.simulator import SceneObject, View
from projects.semabs.tsdf import tsdf_points, tsdf_volume, value_at

BOUNDS = np.array([[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]])
_SEEN_VOXELS = 64  # along x, of the TSDF that says which points the camera sees
Generator = np.random.Generator | np.random.RandomState


@dataclass(frozen=True)
class Described:
    """The objects with the fictitious ones, their relations, the object of every point [N]."""

    objects: tuple[SceneObject, ...]
    relations: list[Relation]
    object_ids: np.ndarray


def make_scene(
    view: View,
    *,
    rng: Generator,
    bounds: np.ndarray = BOUNDS,
    points: int | None = 1_000_000,
    tsdf_voxels: int = 64,
    fictitious: str | None = "banana",
) -> SceneArrays:
    """What a scene file holds of a view.

    Args:
        view: of a simulator.
        rng: draws the points that are kept.
        bounds: box [2, 3] of the scene.
        points: how many are kept of those in the box (all where there are fewer); None = all.
        tsdf_voxels: of the stored TSDF, along x.
        fictitious: what is said to be hidden in every visible container; None: nothing.
    """
    inside = np.flatnonzero(in_bounds(view.points, bounds))
    camera = view.depth, view.intrinsics, view.pose
    volume = tsdf_volume(*camera, bounds, voxels=_SEEN_VOXELS)
    seen = value_at(view.points[inside], volume, bounds) > 0
    described = describe(view, inside, seen, fictitious=fictitious)
    if tsdf_voxels != _SEEN_VOXELS:
        volume = tsdf_volume(*camera, bounds, voxels=tsdf_voxels)
    kept = np.arange(len(inside))
    if points is not None and points < len(inside):
        kept = rng.choice(len(inside), points, replace=False)
    names = [one.name for one in described.objects]
    materials = [one.material for one in described.objects]
    rows = described.relations
    return SceneArrays(
        rgb=view.rgb,
        depth=view.depth,
        segmentation=view.segmentation.astype(np.int32),
        intrinsics=view.intrinsics,
        pose=view.pose,
        bounds=bounds,
        points=view.points[inside[kept]].astype(np.float32),
        object_ids=described.object_ids[kept].astype(np.int32),
        class_names=names,
        descriptions=Descriptions(
            targets=tuple(names[row.target] for row in rows),
            relations=tuple(row.name for row in rows),
            references=tuple(names[row.reference] for row in rows),
            target_ids=np.array([row.target for row in rows], np.int64),
            target_materials=tuple("" if row.lateral else materials[row.target] for row in rows),
            reference_materials=tuple(materials[row.reference] for row in rows),
        ),
        tsdf_points=tsdf_points(bounds, voxels=tsdf_voxels),
        tsdf_values=volume.reshape(-1),
        randomized_rgb=view.randomized_rgb,
    )


def describe(view: View, inside: np.ndarray, seen: np.ndarray, *, fictitious: str | None) -> Described:
    """All relations of a view, and its points `inside` [N] (rows) with hidden targets where they may be.

    `seen` [N]: which of these the camera sees. A target that it does not see is put where it could be: into the
    unseen points of what it is in or on, or behind.
    """
    visible = set(np.unique(view.segmentation).tolist()) - {-1}
    objects = list(view.objects)
    ids = view.object_ids[inside].copy()
    points = view.points[inside]
    names = [one.name for one in objects]
    found: list[Relation] = []
    for number, one in enumerate(view.objects):
        for parent in one.receptacles:
            if parent in visible and relations.describable(one.name, names[parent]):
                found.append(Relation(number, relations.receptacle_relation(names[parent]), parent))
        if fictitious and number in visible and one.name in relations.CONTAINERS:
            found.append(Relation(len(objects), "in", number))
            objects.append(SceneObject(fictitious))
    joined = [(row.target, row.reference) for row in found]
    for row in found:
        if row.target not in visible:
            region = view.objects[row.reference].region
            hidden = view.object_ids[inside] == row.reference if region is None else region[inside]
            ids[hidden & ~seen] = row.target
    real = [number for number, one in enumerate(view.objects) if one.name not in NOT_AN_OBJECT]
    extents = Extents.of(
        points, ids, len(view.objects)
    )  # of a container, what is seen: hidden things fill it
    lateral = relations.mine_lateral(extents, names, visible, targets=real, apart_from=joined)
    for row in lateral:
        if row.name == "behind" and row.target not in visible:
            there = receptacles.behind(view, row.reference, points)
            ids[there & ~seen] = row.target
    return Described(tuple(objects), _unique(found, objects) + lateral, ids)


def _unique(rows: list[Relation], objects: list[SceneObject]) -> list[Relation]:
    """Without those that read the same."""
    told: dict[tuple[str, str, str], Relation] = {}
    for row in rows:
        told.setdefault((objects[row.target].name, row.name, objects[row.reference].name), row)
    return list(told.values())
