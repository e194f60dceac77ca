"""The embedded data: the released layout, true to the geometry, the same every time."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from projects.semabs import mini, mini_objects, mini_rooms, mini_shapes, mini_simulator, splits, vocabulary
from projects.semabs.geometry import back_project, in_bounds
from projects.semabs.mini_names import COLOURS, KINDS, NAMES, NOVEL_NAMES, PATTERNS, SYNONYMS, TRAIN_NAMES
from projects.semabs.mini_simulator import EMPTY, PLANE
from projects.semabs.scene_file import SceneFile
from shared.errors import InputError
from tests.semabs.conftest import MINI_SIZES

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = 6 + 3 + 6  # with those that hide something
TASKS = tuple(splits.SPLIT_FILES)


def files_of(root: Path, task: str) -> dict[str, list[str]]:
    return splits.read_splits(root / splits.SPLIT_FILES[task])


def test_the_words_of_the_rooms() -> None:
    assert (len(NAMES), len(TRAIN_NAMES), len(NOVEL_NAMES), len(SYNONYMS)) == (28, 22, 6, 11)
    assert not set(SYNONYMS) & set(NOVEL_NAMES)
    assert len(mini_shapes.SHAPES) == 23
    assert {kind.shape for kind in KINDS} == set(mini_shapes.SHAPES)
    assert {kind.pattern for kind in KINDS} == set(PATTERNS)
    assert {colour for kind in KINDS for colour in kind.colours} == set(COLOURS)
    looks = [(kind.shape, kind.pattern, frozenset(kind.colours)) for kind in KINDS]
    assert len({look[1:] for look in looks}) == len(looks), "names differ in pattern and colours"
    shapes = {kind.shape for kind in KINDS if kind.name in TRAIN_NAMES}
    assert sum(kind.shape in shapes for kind in KINDS if kind.name in NOVEL_NAMES) == 4


@pytest.mark.parametrize("shape", mini_shapes.SHAPES)
def test_shapes_are_closed_and_stand_on_the_ground(shape: str) -> None:
    mesh = mini_shapes.build(shape)
    edges = np.sort(np.stack([mesh.faces, np.roll(mesh.faces, -1, 1)], -1).reshape(-1, 2), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts % 2 == 0).all(), "a hole"
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(float) for corner in range(3))
    assert np.einsum("nc,nc->", a, np.cross(b, c)) > 0, "faces point outwards"
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=0.021)
    assert mesh.vertices[:, 2].max() == pytest.approx(1, abs=0.021)


def test_splits_name_the_scenes_of_their_kind(mini_root: Path) -> None:
    there = {path.name for path in mini_root.glob("*.hdf5")}
    assert len(there) == ROOMS
    for task in TASKS:
        found = files_of(mini_root, task)
        counts = {"ovssc": (4, 2, 4), "vool": (6, 3, 6)}[task]
        assert tuple(len(found[split]) for split in ("train", "val", "unseen_instances")) == counts
        assert found["unseen_instances_dr"] == found["unseen_instances"]
        assert {name for files in found.values() for name in files} <= there
        rooms = {name.split("|")[1].removesuffix(".hdf5") for name in found["unseen_instances"]}
        assert rooms <= set(vocabulary.read_test_rooms(mini_root / vocabulary.TEST_ROOMS_FILE))
        assert not rooms & {name.split("|")[1] for name in found["train"] + found["val"]}
        for split, names in found.items():
            for name in names:
                with SceneFile(mini_root / name) as scene:
                    visible = {scene.classes[i] for i in np.unique(scene.segmentation()) if i >= 0}
                if split in ("train", "val"):
                    assert not visible & set(NOVEL_NAMES)
                if split == "unseen_classes":
                    assert visible & set(NOVEL_NAMES)
                if split == "unseen_instances_synonyms":
                    assert visible & set(SYNONYMS)
    classes = vocabulary.read_novel_classes(mini_root / vocabulary.NOVEL_CLASSES_FILE)
    assert set(classes) == set(NOVEL_NAMES)


def test_stored_scenes_hold_what_was_asked_for(mini_root: Path) -> None:
    side = MINI_SIZES["image_size"]
    for name in files_of(mini_root, "ovssc")["unseen_instances"]:
        with SceneFile(mini_root / name) as scene:
            assert scene.rgb().shape == (side, side, 3)
            assert not np.array_equal(scene.rgb("domain_randomized_rgb"), scene.rgb())
            assert (scene.depth() > 0).all(), "walls all round"
            assert len(scene.points()) == MINI_SIZES["points"]
            assert scene.tsdf().size == MINI_SIZES["tsdf_voxels"] ** 3


@pytest.mark.parametrize("seed", range(2))
def test_rooms_are_true_to_the_geometry(seed: int) -> None:
    """What a pixel shows lies on its object: behind its surface are points of that object; the floor is at 0."""
    cells = 30
    view = mini_simulator.MiniRooms(side=112, points=cells**3).view("FloorPlan26_physics", seed)
    assert in_bounds(view.points, mini_simulator.BOUNDS).all()
    ids = view.segmentation.reshape(-1)
    surface = back_project(view.depth, view.intrinsics, view.pose)
    floor = (ids == PLANE) & (surface[:, 2] < 0.05) & (np.abs(surface[:, :2]) < 0.9).all(1)
    assert floor.any()
    assert np.abs(surface[floor, 2]).max() < 1e-4
    away = surface - view.pose[:3, 3].astype(np.float32)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    inner = surface + 0.03 * away
    hits = tried = 0
    for number in np.unique(ids):
        mine = view.points[view.object_ids == number]
        if number not in (EMPTY, PLANE) and len(mine) > 20:
            nearest = np.linalg.norm(inner[ids == number][:, None] - mine[None], axis=2).min(1)
            tried += len(nearest)
            hits += int((nearest < 2 / cells * np.sqrt(3)).sum())  # the diagonal of a cell
    assert tried > 100
    assert hits > 0.97 * tried


def test_the_cloud_agrees_with_the_solids() -> None:
    """Points in two overlapping boxes, between them, and under a table top; by definition, not by rays."""
    from shared.scene_meshes import box, join
    from shared.scenes import Scene

    boxes = [((0, 0, 0), (1, 1, 1)), ((0.5, 0.2, 0.5), (1.5, 0.8, 2)), ((-1, -1, 3), (1, 1, 3.2))]
    mesh = join([box(*corners).labelled(instance=n // 2) for n, corners in enumerate(boxes)])
    points = np.random.default_rng(0).uniform(-1.2, 3.4, (4000, 3)).astype(np.float32)
    found = mini_simulator.instances_at(Scene(mesh, []), points)
    inside = [((points > low) & (points < high)).all(1) for low, high in boxes]
    expected = np.where(inside[0] | inside[1], 0, np.where(inside[2], 1, -1))
    np.testing.assert_array_equal(found, expected)


def test_what_stands_on_the_floor_is_as_solid_as_alone() -> None:
    """Faces that coincide with the floor would hide each other from the rays that ask what a point is in."""
    from shared.scenes import Scene

    for seed in range(4):
        rng = np.random.default_rng(seed)
        room = mini_rooms.draw(rng)
        points = mini_simulator.grid_points(rng, 20**3)
        found = mini_simulator.instances_at(room.scene(), points)
        for number, one in enumerate(room.things, mini_rooms.PLANES):
            alone = mini_simulator.instances_at(Scene(one.mesh(), []), points) >= 0
            np.testing.assert_array_equal(found == number, alone, err_msg=f"room {seed}, {one.name}")


def test_hidden_things_are_out_of_sight_and_described(mini_root: Path) -> None:
    ovssc, vool = (files_of(mini_root, task) for task in TASKS)
    found = set()
    for split in ("train", "val", "unseen_instances"):
        for name in set(vool[split]) - set(ovssc[split]):
            with SceneFile(mini_root / name) as scene:
                told, visible = scene.descriptions(), set(np.unique(scene.segmentation()).astype(int))
                hidden = [row for row, number in enumerate(told.target_ids) if number not in visible]
                for row in hidden:
                    found.add(told.relations[row])
                    assert (scene.object_ids() == told.target_ids[row]).any(), "its places are marked"
    assert found == {"in", "behind"}
    for name in ovssc["train"] + ovssc["unseen_instances"]:
        with SceneFile(mini_root / name) as scene:
            shown = set(np.unique(scene.segmentation()).astype(int))
            assert shown >= set(range(2, len(scene.classes))), "nothing is hidden by chance"


def test_rooms_hold_pairs_and_laden_tables() -> None:
    rooms = [mini_rooms.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert all(4 <= len(room.things) <= 9 for room in rooms)
    pairs = [room for room in rooms if len({one.name for one in room.things}) < len(room.things)]
    laden = [room for room in rooms if any(one.parent >= 0 for one in room.things)]
    assert len(pairs) >= 16
    assert len(laden) >= 12
    for room in laden:
        for one in room.things:
            if one.parent >= 0:
                below = room.things[one.parent].footprint()
                assert room.things[one.parent].name == "dining table"
                assert one.footprint()[0][2] == pytest.approx(below[1][2], abs=0.01)
    for room in rooms:  # things on the floor do not overlap
        boxes = [one.footprint() for one in room.things if one.parent < 0]
        for n, first in enumerate(boxes):
            for second in boxes[n + 1 :]:
                assert not ((first[0] < second[1]) & (first[1] > second[0])).all()


def test_pictures_for_the_stand_in() -> None:
    image = mini_objects.sprite("mug", np.random.default_rng(0), 32)
    assert image.shape == (32, 32, 4)
    rows, columns = np.nonzero(image[..., 3])
    assert max(np.ptp(rows), np.ptp(columns)) >= 28, "it fills the picture"
    rgb, ids = mini_rooms.picture(np.random.default_rng(1), names=TRAIN_NAMES, side=48)
    again = mini_rooms.picture(np.random.default_rng(1), names=TRAIN_NAMES, side=48)
    assert (rgb.shape, ids.shape, rgb.dtype, ids.dtype) == ((48, 48, 3), (48, 48), np.uint8, np.int16)
    np.testing.assert_array_equal(rgb, again[0])
    assert {NAMES[i] for i in np.unique(ids[ids >= 0])} <= set(TRAIN_NAMES)
    assert (ids >= 0).any()
    assert (mini_rooms.picture(np.random.default_rng(2), objects=0, side=24)[1] == -1).all()


def test_the_same_settings_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    sizes = {
        "train_rooms": 2,
        "val_rooms": 0,
        "test_rooms": 1,
        "image_size": 24,
        "points": 512,
        "tsdf_voxels": 8,
    }
    mini.make(tmp_path / "a", **sizes)
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "projects.semabs.mini", "--root", str(tmp_path / "b"), *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "b")

    def arrays(root: Path) -> dict[str, str]:
        found = {}
        for path in sorted(root.iterdir()):
            if path.suffix == ".hdf5":
                with SceneFile(path) as scene:
                    parts = (scene.rgb(), scene.depth(), scene.points(), scene.object_ids())
                    data = b"".join(part.tobytes() for part in parts) + repr(scene.descriptions()).encode()
            else:
                data = path.read_bytes()
            found[path.name] = hashlib.sha256(data).hexdigest()
        return found

    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")
    assert mini.make(tmp_path / "a", train_rooms=2) == tmp_path / "a"
    with pytest.raises(InputError, match="train_rooms is 2, expected 3"):
        mini.make(tmp_path / "a", train_rooms=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_rooms": 0}, "train_rooms: expected a whole number, at least 1, found 0"),
        ({"points": 1.5}, "points: expected a whole number, at least 1, found 1.5"),
        ({"hiding": 2}, "hiding: expected 0 to 1, found 2"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        mini.make(tmp_path / "set", **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir()), "nothing half-written"
