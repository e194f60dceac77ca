"""From views to scenes: hidden targets, what is behind something, the subsample of points."""

from dataclasses import replace

import numpy as np
import pytest

from projects.semabs import receptacles
from projects.semabs.mini_simulator import MiniRooms
from projects.semabs.scene_generation import BOUNDS, make_scene
from projects.semabs.simulator import SceneObject, View
from projects.semabs.tsdf import tsdf_volume, value_at

SIDE = 40
FOCAL = 24.0
POSE = np.array([[0, 0, 1.0, -1.5], [-1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]])  # looks along x, z is up
INTRINSICS = np.array([[FOCAL, 0, 19.5], [0, FOCAL, 19.5], [0, 0, 1]])


def view() -> View:
    """A fridge in the middle with a pot in it, a chair to its left, a mug behind it; a wall at x = 1."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-1.05, -1, -0.1], [1.05, 1, 1.1], (6000, 3))

    def within(low: tuple[float, float, float], high: tuple[float, float, float]) -> np.ndarray:
        found: np.ndarray = np.all((points > low) & (points < high), axis=1)
        return found

    ids = np.zeros(len(points), int)
    boxes = {
        1: ((0, -0.3, 0), (0.4, 0.2, 1)),
        2: ((0, 0.4, 0), (0.3, 0.7, 0.6)),
        4: ((0.5, -0.15, 0), (0.7, 0.05, 0.2)),
    }
    for number, corners in boxes.items():
        ids[within(*corners)] = number
    ids[within((0.1, -0.1, 0.4), (0.3, 0.1, 0.6))] = 3
    depth, segmentation = np.full((SIDE, SIDE), 2.5, np.float32), np.zeros((SIDE, SIDE), int)
    columns = 19.5 - FOCAL * np.array([[0.2, -0.3], [0.7, 0.4]]) / 1.5  # front faces at x = 0
    for number, (left, right) in zip((1, 2), columns, strict=True):
        top = int(19.5 - FOCAL * ((1.0, 0.6)[number - 1] - 0.5) / 1.5)
        area = slice(top, 28), slice(int(left) + 1, int(right) + 1)
        depth[area], segmentation[area] = 1.5, number
    objects = (
        SceneObject("empty"),
        SceneObject("fridge", "Metal", region=within(*boxes[1])),
        SceneObject("chair", "Wood"),
        SceneObject("pot", "Metal", receptacles=(1,)),
        SceneObject("mug", "Ceramic"),
    )
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    return View("room", rgb, depth, segmentation, INTRINSICS, POSE, points, ids, objects)


def rows(scene: object) -> list[tuple[object, ...]]:
    told = scene.descriptions  # type: ignore[attr-defined]
    return list(zip(told.targets, told.relations, told.references, told.target_ids.tolist(), strict=True))


def test_what_is_hidden_is_put_where_it_could_be() -> None:
    given = view()
    before = given.object_ids.copy()
    scene = make_scene(given, rng=np.random.default_rng(0), points=None)
    assert ("pot", "in", "fridge", 3) in rows(scene)
    assert ("banana", "in", "fridge", 5) in rows(scene)
    assert ("mug", "behind", "fridge", 4) in rows(scene)
    assert ("chair", "on the left of", "fridge", 2) in rows(scene)
    assert not [row for row in rows(scene) if row[1:3] == ("behind", "fridge") and row[0] == "pot"], (
        "it is in it"
    )
    assert scene.class_names[5] == "banana"
    np.testing.assert_array_equal(given.object_ids, before)

    inside = ((given.points >= BOUNDS[0].astype(np.float32)) & (given.points <= BOUNDS[1])).all(1)
    volume = tsdf_volume(given.depth, INTRINSICS, POSE, BOUNDS, voxels=64)
    seen = value_at(given.points[inside], volume, BOUNDS) > 0
    box = given.objects[1].region[inside]  # type: ignore[index]
    found = scene.object_ids
    hidden_behind = found == 4
    assert (found[box & ~seen & ~hidden_behind] == 3).all(), "all that is unseen in the fridge may be the pot"
    assert (found[seen] == before[inside][seen]).all(), "what is seen stays"
    assert (hidden_behind & (before[inside] != 4)).any(), "the mug may be anywhere behind the fridge"
    assert (scene.points[hidden_behind, 0] > 0).all()

    plain = make_scene(given, rng=np.random.default_rng(0), points=None, fictitious=None)
    assert "banana" not in plain.class_names


def test_materials_of_pairs() -> None:
    told = make_scene(view(), rng=np.random.default_rng(0), points=None).descriptions
    pairs = {
        (told.targets[n], told.relations[n], told.references[n]): (
            told.target_materials[n],
            told.reference_materials[n],
        )
        for n in range(len(told))
    }
    assert pairs["pot", "in", "fridge"] == ("Metal", "Metal")
    assert pairs["banana", "in", "fridge"] == ("", "Metal")
    assert pairs["chair", "on the left of", "fridge"] == ("", "Metal"), "as in the released scenes"


@pytest.mark.parametrize("seed", range(3))
def test_behind_is_deeper_in_the_same_strip(seed: int) -> None:
    """Against the definition, point by point."""
    rng = np.random.default_rng(seed)
    given = view()
    segmentation = np.where(rng.random((SIDE, SIDE)) < 0.05, 2, 0)
    segmentation[: 5 + seed], segmentation[:, : 3 * seed] = 0, 0
    given = replace(
        given, segmentation=segmentation, depth=rng.uniform(1, 3, (SIDE, SIDE)).astype(np.float32)
    )
    points = rng.uniform(-1.5, 1.5, (600, 3))
    found = receptacles.behind(given, 2, points)
    rows_, columns = np.nonzero(segmentation == 2)
    expected = []
    for point in points:
        z = point[0] + 1.5
        u, v = -point[1] / z * FOCAL + 19.5, (0.5 - point[2]) / z * FOCAL + 19.5
        u, v = round(u), round(v)
        strip = (columns - columns.min()) // 10 == (u - columns.min()) // 10
        depths = given.depth[rows_[strip], columns[strip]]
        in_picture = z > 0 and 0 <= u < SIDE and 0 <= v < SIDE
        expected.append(bool(in_picture and v > rows_.min() + 10 and len(depths) and z > depths.max()))
    np.testing.assert_array_equal(found, expected)
    assert 5 < found.sum() < 590
    assert not receptacles.behind(given, 9, points).any(), "nothing is behind what is not in the picture"


def test_points_are_drawn_from_the_box() -> None:
    given = view()
    scene = make_scene(given, rng=np.random.RandomState(1), points=500, tsdf_voxels=16)
    inside = np.flatnonzero(((given.points >= BOUNDS[0]) & (given.points <= BOUNDS[1])).all(1))
    chosen = inside[np.random.RandomState(1).choice(len(inside), 500, replace=False)]
    np.testing.assert_array_equal(scene.points, given.points[chosen].astype(np.float32))
    assert (scene.points.dtype, scene.object_ids.dtype, scene.tsdf_values.shape) == (
        np.float32,
        np.int32,
        (16**3,),
    )
    assert len(make_scene(given, rng=np.random.RandomState(1), points=10**6).points) == len(inside)


def test_a_procedural_room_is_a_view() -> None:
    simulator = MiniRooms(side=24, points=1000)
    first, again, other = (simulator.view("FloorPlan1_physics", seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert not np.array_equal(first.rgb, other.rgb)
    assert first.randomized_rgb is None
    novel = simulator.view("FloorPlan26_physics", 3)
    assert novel.randomized_rgb is not None
    assert novel.randomized_rgb.shape == (24, 24, 3)
    assert len(simulator.rooms) == 120
