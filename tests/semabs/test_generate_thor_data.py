"""generate_thor_data.py as a command, on the embedded rooms and on a stand-in for AI2-THOR."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from projects.semabs import scene_export, splits, thor_geometry, thor_truth
from projects.semabs.scene_export import Job, export
from projects.semabs.scene_file import SceneFile
from projects.semabs.thor_simulator import ThorSimulator
from shared.errors import InputError
from tests.semabs import fake_thor
from tests.semabs.training_runs import PROJECT, train

SMALL = ("mini.side=24", "mini.points=1000", "scenes.tsdf_voxels=8", "scenes.gzip=null")
ROOMS = "rooms=[FloorPlan1_physics,FloorPlan26_physics]"


def generate(run_dir: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return train(run_dir, *overrides, script=PROJECT / "generate_thor_data.py")


def test_views_are_made_once_and_divided(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    first = generate(
        tmp_path / "run", *SMALL, ROOMS, "num_pts=3", "start_seed=7", f"dataset_dir_path={folder}"
    )
    assert first.returncode == 0, first.stderr
    assert f"{folder}: 3 views written, 0 there already" in first.stdout
    names = {f"{seed:05d}|FloorPlan{(1, 26)[seed % 2]}_physics.hdf5" for seed in (7, 8, 9)}
    assert {path.name for path in folder.glob("*.hdf5")} == names
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.hdf5")}

    more = ("num_pts=5", "start_seed=7", "local=false", "num_processes=1", f"dataset_dir_path={folder}")
    second = generate(tmp_path / "run", *SMALL, ROOMS, *more)
    assert second.returncode == 0, second.stderr
    assert "2 views written, 3 there already" in second.stdout
    assert {name: (folder / name).stat().st_mtime_ns for name in names} == times
    for task in splits.SPLIT_FILES:
        found = splits.read_splits(folder / splits.SPLIT_FILES[task])
        assert all("FloorPlan1_" in name for name in found["train"])
        assert len(found["train"]) == 2
        assert len(found["unseen_instances"]) == 3
    with SceneFile(folder / found["unseen_instances"][0]) as scene:
        assert scene.rgb("domain_randomized_rgb").shape == (24, 24, 3)
        assert scene.tsdf().size == 8**3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["simulator=unity"], "simulator: expected one of mini, thor, found 'unity'"),
        (["num_pts=0"], "num_pts: expected a whole number, at least 1, found 0"),
        (["rooms=[Kitchen]"], "rooms: Kitchen: expected names like FloorPlan1_physics"),
        (["simulator=thor"], "path_to_exported_scenes: simulator=thor expects the folder"),
        (
            ["simulator=thor", "path_to_exported_scenes={}"],
            "expected exported rooms (FloorPlan*.npz or .pkl), found none",
        ),
    ],
)
def test_faults_are_one_line(tmp_path: Path, overrides: list[str], said: str) -> None:
    given = [one.format(tmp_path) for one in overrides]
    done = generate(tmp_path / "run", *SMALL, f"dataset_dir_path={tmp_path / 'out'}", *given)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    exported = fake_thor.export_room(tmp_path, "FloorPlan1_physics")
    with pytest.raises(InputError, match="pip install ai2thor"):
        ThorSimulator(exported=exported)


def test_the_whole_way_through_a_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_thor.install(monkeypatch)
    for room in ("FloorPlan1_physics", "FloorPlan26_physics"):
        fake_thor.export_room(tmp_path / "rooms", room)
    size = 100.0
    box = f"(1,0,0,0)(0,1,0,0)(0,0,1,0)(0,0,0,1)|({size},{size},{size})|(0,0,0)"
    (tmp_path / "rooms" / "FloorPlan1_physics_receptacles.txt").write_text(f"Fridge|1|{box}\n")
    unity = tmp_path / "thor.x86_64"
    unity.touch()
    job = Job(tmp_path / "out", points=1000, tsdf_voxels=8, gzip=None)

    def start() -> ThorSimulator:
        return ThorSimulator(exported=tmp_path / "rooms", unity=unity, side=fake_thor.SIDE)

    planned = [(0, "FloorPlan1_physics"), (1, "FloorPlan26_physics")]
    assert [written for _, written in export(start, planned, job)] == [True, True]
    told = fake_thor.Controller.told
    assert told[0]["fieldOfView"] == 80
    assert told[0]["local_executable_path"] == str(unity)
    assert told[-1] == {"stopped": True}
    assert sum(one.get("action") == "Teleport" for one in told) == 3, "the first look showed only a wall"
    with SceneFile(tmp_path / "out" / "00000|FloorPlan1_physics.hdf5") as scene:
        assert scene.classes[5] == "banana"
        rows = scene.descriptions()
        assert ("mug", "in", "fridge") in zip(rows.targets, rows.relations, rows.references, strict=True)
        intrinsics, pose = scene.camera()
        assert intrinsics[0, 2] == fake_thor.SIDE / 2
        np.testing.assert_allclose(pose[:3, 3], [-1.5, 0, 0.8], atol=1e-9)
        ids = scene.segmentation()
        assert set(np.unique(ids)) <= {0, 1, 2, 3}
        assert (ids[-1] != -1).all(), "an object that the room's points do not know is the one next to it"
        assert not scene.has_randomized()
    with SceneFile(tmp_path / "out" / "00001|FloorPlan26_physics.hdf5") as scene:
        assert (scene.rgb("domain_randomized_rgb") == 200).all()
    fake_thor.Controller.bad_looks, kept = 99, fake_thor.Controller.bad_looks
    try:
        assert [written for _, written in export(start, [(5, "FloorPlan1_physics")], job)] == [None]
    finally:
        fake_thor.Controller.bad_looks = kept


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objids": None}, "objids: expected, found only"),
        ({"full_objid_pts": np.full(3000, 5)}, r"full_objid_pts: expected 0 to 4 \(objids\), found 5"),
        ({"full_xyz_pts": np.zeros((3000, 2))}, r"expected \[N, 3\] and \[N\], found \[3000, 2\], \[3000\]"),
        ({"objid_to_class": np.array(["fridge"])}, "objid_to_class: expected 5 names, found 1"),
    ],
)
def test_wrong_ground_truth_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    fake_thor.export_room(tmp_path, "FloorPlan1_physics", **changes)
    with pytest.raises(InputError, match=said):
        thor_truth.read_truth(tmp_path, "FloorPlan1_physics")


def test_a_scene_files_name_holds_seed_and_room() -> None:
    assert scene_export.room_of(scene_export.scene_file_name(7, "FloorPlan3_physics")) == "FloorPlan3_physics"
    with pytest.raises(InputError, match="expected a name like"):
        scene_export.room_of("FloorPlan3_physics.hdf5")


def test_mirrors_and_bad_views() -> None:
    depth = np.array([[1.0, 20, 30], [4, 5, 50]], np.float32)
    np.testing.assert_allclose(thor_geometry.without_mirrors(depth), [[1, 2, 3], [4, 5, 5]])
    names = ["wall", "chair", "mug", "sofa"]
    classes = np.tile(np.arange(4), (4, 4))
    depth = np.full((4, 16), 3.0)
    assert thor_geometry.is_good(depth, classes, names)
    assert not thor_geometry.is_good(depth + 2, classes, names), "too far away"
    assert not thor_geometry.is_good(depth, np.minimum(classes, 2), names), "three classes"
    walls = np.zeros((4, 16), int)
    walls[0, :4] = np.arange(4)
    assert not thor_geometry.is_good(depth, walls, names), "a wall"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Fridge|(1,2)", "expected name"),
        ("Fridge|(a)(b)(c)(d)|(1,1,1)|(0,0,0)", "expected numbers in brackets"),
        ("Fridge|(1,0)|(1,1,1)|(0,0,0)", "expected 16, 3 and 3 numbers"),
        ("Fridge|(0,0,0,0)(0,0,0,0)(0,0,0,0)(0,0,0,0)|(1,1,1)|(0,0,0)", "expected a matrix with an inverse"),
    ],
)
def test_wrong_receptacles_are_named(line: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        thor_geometry.read_receptacle(line)
