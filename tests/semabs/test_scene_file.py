"""Scene files: what is written is read, relevancies are added and removed through a copy, faults are one line."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from projects.semabs import scene_writer, tsdf
from projects.semabs.scene_file import (
    Descriptions,
    Relevancies,
    SceneArrays,
    SceneFile,
    add_saliencies,
    has_saliencies,
    remove_saliencies,
    write_scene,
)
from shared.errors import InputError

NAME = "00003|FloorPlan7_physics.hdf5"
BOUNDS = np.array([[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]])


def a_scene(side: int = 12) -> SceneArrays:
    rng = np.random.default_rng(0)
    return SceneArrays(
        rgb=rng.integers(0, 255, (side, side + 4, 3)).astype(np.uint8),
        depth=rng.uniform(0, 3, (side, side + 4)).astype(np.float32),
        segmentation=rng.integers(-1, 3, (side, side + 4)).astype(np.int32),
        intrinsics=np.array([[10.0, 0, 8], [0, 10, 6], [0, 0, 1]]),
        pose=np.array([[0.0, 0, 1, -1], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]),
        bounds=BOUNDS,
        points=rng.uniform(-1, 1, (50, 3)).astype(np.float32),
        object_ids=rng.integers(0, 3, 50).astype(np.int32),
        class_names=["empty", "Küche", "teddy bear"],
        descriptions=Descriptions(("teddy bear",), ("on",), ("Küche",), np.array([2]), ("Wood",), ("",)),
        tsdf_points=tsdf.tsdf_points(BOUNDS, voxels=3),
        tsdf_values=rng.uniform(-1, 1, 27).astype(np.float32),
        randomized_rgb=rng.integers(0, 255, (side, side + 4, 3)).astype(np.uint8),
    )


def relevancies(image: str = "rgb", config: str = "ours", seed: int = 0) -> Relevancies:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((2, 6)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    maps = rng.random((2, 5, 5)).astype(np.float32)
    return Relevancies(image, config, ["Küche", "teddy bear"], maps, features)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_scene(tmp_path / NAME, a_scene())
    return tmp_path / NAME


@pytest.mark.parametrize("gzip", [9, None])
def test_what_is_written_is_read(tmp_path: Path, gzip: int | None) -> None:
    scene, path = a_scene(), tmp_path / NAME
    write_scene(path, scene, gzip=gzip)
    with SceneFile(path) as found:
        assert found.scene_id == "00003|FloorPlan7_physics"
        arrays = found.arrays()
        assert found.classes == {0: "empty", 1: "Küche", 2: "teddy bear"}
        assert found.labels_of_ids()[2] == "teddy bear[2]"
        np.testing.assert_array_equal(found.tsdf(), scene.tsdf_values.reshape(3, 3, 3))
        assert not found.has_saliencies()
        assert found.visible_labels() is None
    for name in SceneArrays.__dataclass_fields__:
        expected, read = getattr(scene, name), getattr(arrays, name)
        if name == "descriptions":
            assert read.targets == expected.targets
            assert read.reference_materials == expected.reference_materials
            np.testing.assert_array_equal(read.target_ids, expected.target_ids)
        else:
            np.testing.assert_array_equal(read, expected)
            assert not isinstance(expected, np.ndarray) or read.dtype == expected.dtype
    with h5py.File(path) as file:
        assert file["rgb"].compression == ("gzip" if gzip else None)


def test_a_room_may_have_no_description_and_one_picture(tmp_path: Path) -> None:
    scene = replace(a_scene(), descriptions=Descriptions(), randomized_rgb=None)
    write_scene(tmp_path / NAME, scene)
    with SceneFile(tmp_path / NAME) as found:
        assert len(found.descriptions()) == 0
        assert not found.has_randomized()
        with pytest.raises(InputError, match="data/domain_randomized_rgb: expected a picture"):
            found.rgb("domain_randomized_rgb")
    with h5py.File(tmp_path / NAME) as file:
        assert file["data/domain_randomized_rgb"].shape == (1, 1)


def test_relevancies_are_added_with_their_mean_in_the_released_order(path: Path) -> None:
    given = [
        relevancies(image, config, seed)
        for seed, (image, config) in enumerate(
            [("domain_randomized_rgb", "ours"), ("rgb", "chefer_et_al"), ("rgb", "ours")]
        )
    ]
    add_saliencies(path, given, ["Küche"])
    assert has_saliencies(path)
    with SceneFile(path) as found:
        assert found.visible_labels() == ["Küche"]
        assert found.saliency_sets() == [
            ("rgb", "ours"),
            ("rgb", "chefer_et_al"),
            ("domain_randomized_rgb", "ours"),
        ]
        for one in given:
            read = found.saliency(one.image, one.config, released_mean=False)
            np.testing.assert_array_equal(read.maps, one.maps)
            np.testing.assert_allclose(read.mean, one.maps.mean(axis=0), rtol=1e-6)
            assert list(read.labels) == one.labels
            np.testing.assert_array_equal(read.text_features, one.text_features)
            assert np.linalg.norm(read.mean_text_feature) == pytest.approx(1)
            # the released code takes the mean of rgb|ours for all of them
            np.testing.assert_allclose(
                found.saliency(one.image, one.config).mean, given[2].maps.mean(axis=0), rtol=1e-6
            )
        np.testing.assert_array_equal(found.maps("rgb", "ours", [1]), given[2].maps[1:])
        np.testing.assert_array_equal(found.maps("rgb", "ours", [1, 0]), given[2].maps[::-1])


def test_relevancies_can_be_taken_out_and_made_anew(path: Path) -> None:
    before = path.read_bytes()
    assert not remove_saliencies(path)
    assert path.read_bytes() == before
    add_saliencies(path, [relevancies()], ["Küche"])
    with SceneFile(path) as found:
        whole = found.arrays()
    assert remove_saliencies(path)
    assert not has_saliencies(path)
    with SceneFile(path) as found:
        np.testing.assert_array_equal(found.arrays().rgb, whole.rgb)
        np.testing.assert_array_equal(found.arrays().points, whole.points)
        assert found.visible_labels() is None
    add_saliencies(path, [relevancies(seed=1)], ["teddy bear"])
    with SceneFile(path) as found:
        np.testing.assert_array_equal(found.saliency().maps, relevancies(seed=1).maps)


def test_relevancies_that_do_not_fit_leave_the_file_as_it_was(path: Path) -> None:
    before, good = path.read_bytes(), relevancies()
    wrong = {
        "expected different names": replace(good, labels=["a", "a"]),
        "none 'mean'": replace(good, labels=["a", "mean"]),
        "2 labels, 1 maps": replace(good, maps=good.maps[:1]),
    }
    for message, one in wrong.items():
        with pytest.raises(InputError, match=message):
            add_saliencies(path, [good, replace(one, config="chefer_et_al")], ["a"])
        assert path.read_bytes() == before
    add_saliencies(path, [good], ["a"])
    with pytest.raises(InputError, match="data/saliencies: there already"):
        add_saliencies(path, [good], ["a"])
    with pytest.raises(InputError, match="no such HDF5 file"):
        add_saliencies(path.with_name("none.hdf5"), [good], ["a"])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("moment", ["_put_relevancies", "_copy"])
def test_a_kill_while_relevancies_are_added_leaves_the_old_file(path: Path, moment: str) -> None:
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        original = getattr(scene_writer, moment)

        def killed(*given: object) -> None:
            original(*given)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(scene_writer, moment, killed)
        add_saliencies(path, [relevancies()], ["a"])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_bytes() == before
    assert list(path.parent.glob("*.hdf5")) == [path]  # what is left over is not taken for a scene
    add_saliencies(path, [relevancies()], ["a"])
    assert has_saliencies(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": np.zeros((3, 3))}, "rgb: expected shape .3, 3, 3., found .12, 16, 3."),
        ({"points": np.zeros((4, 3))}, "full_xyz_pts: expected shape .50, 3."),
        ({"class_names": ["empty", "a"]}, "object id 2 has no class name .2 are given."),
        ({"descriptions": Descriptions(("a",), ("on",))}, "descriptions: columns of unequal length"),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_scene(tmp_path / NAME, replace(a_scene(), **change))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def without(field: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[field]

    return change


def with_array(field: str, array: np.ndarray) -> Callable[[h5py.File], None]:
    """The row that a field refers to, or the field itself, holds something else."""

    def change(file: h5py.File) -> None:
        if field in file:
            del file[field]
            file.create_dataset(field, data=array[None])
            reference = np.empty(1, h5py.regionref_dtype)
            reference[0] = file[field].regionref[0, ...]
            del file[f"data/{field}"]
            file["data"].create_dataset(field, data=reference, dtype=h5py.regionref_dtype)
        else:
            del file[f"data/{field}"]
            file[f"data/{field}"] = array

    return change


def null_reference(file: h5py.File) -> None:
    del file["data/depth"]
    file["data"].create_dataset("depth", (1,), h5py.regionref_dtype)


def no_reference(file: h5py.File) -> None:
    del file["data/depth"]
    file["data/depth"] = file["depth"][()]


def half_a_row(file: h5py.File) -> None:
    reference = np.empty(1, h5py.regionref_dtype)
    reference[0] = file["depth"].regionref[0, :3]
    file["data/depth"][...] = reference


def read_all(path: Path) -> None:
    with SceneFile(path) as found:
        found.arrays()
        found.saliency()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("data/depth"), "data/depth: no such field"),
        (without("data/cam_pose"), "data/cam_pose: no such field"),
        (without("data/descriptions/target_obj_name"), "data/descriptions/target_obj_name: no such field"),
        (without("depth"), "data/depth: .*(cannot be read|points to no array)"),
        (null_reference, "data/depth: expected a region reference, found none"),
        (no_reference, "data/depth: expected a region reference, found none"),
        (half_a_row, "data/depth: expected a region of one row of /depth"),
        (with_array("depth", np.full((12, 16), 1700, "f")), "data/depth|depth: .*in millimetres"),
        (with_array("depth", np.full((12, 16), np.nan, "f")), "depth: expected finite metres"),
        (with_array("rgb", np.zeros((4, 4, 3), "u1")), "data/rgb: expected the size of depth, .12, 16."),
        (with_array("rgb", np.zeros((12, 16), "u1")), "data/rgb: expected a picture"),
        (with_array("full_objid_pts", np.zeros(7, "i4")), "data/full_objid_pts: expected 50 points"),
        (with_array("tsdf_xyz_pts", np.zeros(7, "f4")), "data/tsdf_xyz_pts: expected 2 dimensions"),
        (
            with_array("cam_intr", np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])),
            "cam_intr: the principal point .32, 24. is not near the middle",
        ),
        (with_array("scene_bounds", np.zeros(3)), "data/scene_bounds: expected .2, 3."),
        (without("data/saliencies"), r"saliency_text_labels: no such field \(run generate_relevancy.py\)"),
        (without("data/saliencies/rgb|ours"), "data/saliencies/rgb.ours: no such field"),
        (without("saliencies"), "saliencies: expected the mean map in row 2, found no such row"),
    ],
)
def test_a_faulty_file_is_one_line_that_names_the_field(
    path: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    add_saliencies(path, [relevancies()], ["Küche"])
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_short_or_none_is_one_line(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for share in (0.3, 0.7, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(
            InputError, match=r"cannot be opened as an HDF5 file|cannot be read|no such field"
        ):
            SceneFile(path).arrays()
        with pytest.raises(InputError, match=r"\.hdf5"):
            add_saliencies(path, [relevancies()], ["a"])
    path.write_text("no HDF5")
    uses: list[Callable[[Path], object]] = [SceneFile, remove_saliencies, has_saliencies]
    for use in uses:
        with pytest.raises(InputError, match="cannot be opened as an HDF5 file"):
            use(path)
    with pytest.raises(InputError, match="no such HDF5 file"):
        SceneFile(tmp_path / "none.hdf5")


def test_damaged_numbers_are_one_line(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["full_xyz_pts"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[place.byte_offset : place.byte_offset + 40] = bytes(40)
    path.write_bytes(damaged)
    with SceneFile(path) as found, pytest.raises(InputError, match="data/full_xyz_pts: cannot be read"):
        found.points()


def test_reading_does_not_change_the_file(path: Path) -> None:
    copy = shutil.copy(path, path.with_suffix(".copy"))
    with SceneFile(path) as found:
        found.arrays()
    assert path.read_bytes() == Path(copy).read_bytes()
