"""Items: what a network gets of a scene, beside plain restatements; every fault of a scene is one line."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from projects.semabs import geometry, item_points, ovssc_items, sampling, splits, vocabulary, vool_items
from projects.semabs.item_points import Item, ItemRequest, View
from projects.semabs.item_settings import ItemSettings
from projects.semabs.scene_file import SceneFile
from shared.data import item_generator
from shared.errors import InputError

MAKERS = {"ovssc": ovssc_items.make_item, "vool": vool_items.make_item}
GOLDEN = Path(__file__).parents[1] / "goldens" / "semabs" / "00000|FloorPlan26_physics.hdf5"
SMALL: dict[str, Any] = {"num_input_pts": 200, "num_output_pts": 150}


def make(path: Path, task: str = "ovssc", *, rng: int = 0, settings: Any = None, **request: Any) -> Item:
    given = ItemSettings(**{**SMALL, **(settings or {})})
    with SceneFile(path) as scene:
        return MAKERS[task](scene, ItemRequest(settings=given, **request), item_generator(0, 0, rng))


@pytest.fixture(scope="session")
def path(rooms_root: Path) -> Path:
    """A VOOL scene of the tiny rooms; it has descriptions."""
    return splits.scene_paths(rooms_root, "vool", "train")[0]


@pytest.mark.parametrize(("cells", "shape"), [((4, 4), (13, 9)), ((16, 16), (56, 56)), ((7, 5), (5, 7))])
def test_values_at_pixels_are_those_of_stretched_maps(cells: tuple[int, int], shape: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).standard_normal((3, *cells)).astype(np.float32)
    stretched = F.interpolate(torch.from_numpy(maps)[None], size=shape, mode="bilinear", align_corners=False)
    pixels = np.random.default_rng(1).permutation(shape[0] * shape[1])[:30]
    found = item_points.pixel_values(maps, pixels, shape)
    np.testing.assert_allclose(found, stretched[0].reshape(3, -1)[:, pixels].numpy(), atol=1e-5)
    assert item_points.pixel_values(maps[:0], pixels, shape).shape == (0, 30)


@pytest.mark.parametrize("task", ["ovssc", "vool"])
def test_a_training_item_is_padded_and_its_points_are_the_rooms(path: Path, task: str) -> None:
    settings = {"augmentation": "none", "num_patches": 9, "num_descs": 40}
    item = make(path, task, settings=settings, train=True)
    names = item["patch_labels" if task == "ovssc" else "target_obj_name"]
    count, pad = {"ovssc": (9, ""), "vool": (40, "[pad]")}[task]
    assert len(names) == count
    real = names.index(pad)
    assert 0 < real < count
    assert names[real:] == [pad] * (count - real)
    for name in ("output_label_pts", "out_of_bounds_pts", "out_of_frustum_pts_mask"):
        assert item[name].shape == (count, 150)
        assert item[name].dtype == torch.bool
    with SceneFile(path) as scene:
        points, ids, view, classes = scene.points(), scene.object_ids(), View.of(scene), scene.classes
        targets = scene.descriptions().target_ids
    at = {point.tobytes(): number for number, point in enumerate(points)}
    observed = {p.tobytes() for p in geometry.back_project(view.depth, view.intrinsics, view.pose)}
    assert {p.tobytes() for p in item["input_xyz_pts"].numpy()} <= observed
    assert len(item["input_xyz_pts"]) == 200
    for row, name in enumerate(names):
        rows = [at[point.tobytes()] for point in item["output_xyz_pts"][row].numpy()]
        assert len(set(rows)) == 150
        if task == "ovssc":
            inside = [classes[int(ids[number])] == name for number in rows]
        else:
            inside = [row < real and ids[number] == targets[row] for number in rows]
        assert item["output_label_pts"][row].tolist() == inside
        hidden = ~view.in_frustum(points[rows])
        np.testing.assert_array_equal(item["out_of_frustum_pts_mask"][row], hidden)
    assert not item["output_label_pts"][real:].any()
    features = item["input_feature_pts" if task == "ovssc" else "input_target_saliency_pts"]
    assert features.shape == (count, 200, 1)
    assert not features[real:].any()
    assert features[:real].any()
    if task == "ovssc":
        assert item["semantic_class_features"][real:].std() > 0.8  # unit normal noise


def test_few_labels_are_drawn_and_stay_in_order(path: Path) -> None:
    drawn = {
        tuple(make(path, settings={"num_patches": 2}, train=True, rng=i)["patch_labels"]) for i in range(12)
    }
    assert len(drawn) > 1
    assert all(list(labels) == sorted(set(labels)) for labels in drawn)


def test_rare_relations_are_drawn_as_often_as_common_ones() -> None:
    relations = ["on"] * 18 + ["in", "behind"]
    request = ItemRequest(settings=ItemSettings(num_descs=1), train=True)
    rng = np.random.default_rng(0)
    drawn = [relations[int(vool_items.choose_descriptions(rng, relations, request)[0])] for _ in range(600)]
    assert min(drawn.count(relation) for relation in set(relations)) > 150
    plain = replace(request, settings=ItemSettings(num_descs=1, balance_spatial_relations=False))
    drawn = [relations[int(vool_items.choose_descriptions(rng, relations, plain)[0])] for _ in range(600)]
    assert drawn.count("on") > 480


def test_a_whole_scene_shares_its_query_points(path: Path) -> None:
    item = make(path, settings={"num_patches": 2})
    with SceneFile(path) as scene:
        points, view = scene.points(), View.of(scene)
        kept = geometry.in_bounds(points, ItemSettings().bounds)
        pixels, observed = view.observed(ItemSettings().bounds)
    assert len(item["patch_labels"]) > 2
    assert item["output_xyz_pts"].stride(0) == 0
    np.testing.assert_array_equal(item["output_xyz_pts"][1], points[kept])
    np.testing.assert_array_equal(item["input_xyz_pts"], observed)
    assert len(make(path, settings={"eval_input_pts": 77})["input_xyz_pts"]) == 77
    assert len(pixels) > 200


@pytest.mark.parametrize("augmentation", ["released", "rooms"])
def test_points_and_queries_are_moved_alike_and_masks_are_not(path: Path, augmentation: str) -> None:
    """Everything moved, then filtered; the frustum is that of the camera as stored."""
    request = ItemRequest(settings=ItemSettings(**SMALL, augmentation=augmentation), train=False)
    affine = request.settings.draw_affine(np.random.default_rng(3), "vool")
    assert affine is not None
    bounds = request.settings.bounds
    with SceneFile(path) as scene:
        view, points, ids = View.of(scene), scene.points(), scene.object_ids()
    still = geometry.back_project(view.depth, view.intrinsics, view.pose)[view.depth.reshape(-1) > 0]
    moved = sampling.transformed(still, affine)
    _, observed = item_points.observed_points(np.random.default_rng(), view, request, affine)
    expected = moved[geometry.in_bounds(moved, bounds)]
    assert abs(len(expected) - len(observed)) <= 2
    assert np.abs(observed.mean(axis=0) - expected.mean(axis=0)).max() < 1e-3
    assert np.abs(observed.mean(axis=0) - still.mean(axis=0)).max() > 1e-2
    queries = item_points.query_points(np.random.default_rng(), view, points, [ids == 2], request, affine)
    everything = sampling.transformed(points, affine)
    kept = geometry.in_bounds(everything, bounds)
    np.testing.assert_array_equal(queries.points[0], everything[kept])
    np.testing.assert_array_equal(queries.labels[0], ids[kept] == 2)
    np.testing.assert_array_equal(queries.out_of_frustum[0], ~view.in_frustum(everything[kept]))
    with_it = replace(request, settings=replace(request.settings, moved_frustum=True))
    queries = item_points.query_points(np.random.default_rng(), view, points, [ids == 2], with_it, affine)
    apart = queries.out_of_frustum[0].numpy() != ~view.in_frustum(points[kept])
    assert apart.mean() < 0.002  # the camera sees the same points of a moved scene, but for ties of rounding


def test_an_item_moved_out_of_the_box_is_made_without_moving(path: Path) -> None:
    item = make(path, "vool", settings={"dr_pos": 1000.0, "augmentation": "released"}, train=True)
    assert geometry.in_bounds(item["input_xyz_pts"].numpy(), ItemSettings().bounds).all()
    nowhere = [[50, 50, 50], [51, 51, 51]]
    for task in MAKERS:
        with pytest.raises(InputError, match=r"no observed points in items.scene_bounds"):
            make(path, task, settings={"scene_bounds": nowhere}, train=True)


def test_fixed_ranges_move_ovssc_and_the_flags_vool() -> None:
    still = ItemSettings(dr_pos=0, dr_orn=0, dr_scale=0)
    np.testing.assert_array_equal(still.draw_affine(np.random.default_rng(0), "vool"), np.eye(4))
    fixed = still.draw_affine(np.random.default_rng(0), "ovssc")
    assert fixed is not None
    assert np.abs(fixed - np.eye(4)).max() > 1e-3
    for off in (ItemSettings(augmentation="none"), ItemSettings(domain_randomization=False)):
        assert off.draw_affine(np.random.default_rng(0), "vool") is None
    for name in ("augmentation", "mean_of", "sampling"):
        with pytest.raises(ValueError, match=f"items.{name}: expected one of"):
            replace(ItemSettings(), **{name: "wrong"})  # type: ignore[arg-type]


def test_noise_moves_points_and_some_leave_the_box(path: Path) -> None:
    settings = {"xyz_pts_noise": 0.2, "augmentation": "none"}
    noisy = make(path, settings=settings, train=True)
    outside = ~geometry.in_bounds(noisy["output_xyz_pts"].numpy(), ItemSettings().bounds)
    np.testing.assert_array_equal(noisy["out_of_bounds_pts"], outside)
    assert outside.any()
    assert not make(path, settings=settings)["out_of_bounds_pts"].any()  # none in evaluation


def test_features_are_maps_minus_their_mean_times_the_scale(path: Path) -> None:
    settings = {"saliency_config": "chefer_et_al", "relevancy_scale": 3.0}
    with SceneFile(path) as scene:
        labels = scene.text_labels("rgb", "chefer_et_al")
        own = scene.saliency("rgb", "chefer_et_al", released_mean=False)
        ours = scene.saliency("rgb", "ours", released_mean=False)
        pixels, _ = View.of(scene).observed(ItemSettings().bounds)
        height, width = scene.depth().shape
    for mean_of, mean in (("own", own.mean), ("rgb_ours", ours.mean)):
        item = make(path, settings={**settings, "mean_of": mean_of})
        rows = [labels.index(name) for name in item["patch_labels"]]
        expected = 3 * item_points.pixel_values(own.maps[rows] - mean, pixels, (height, width))
        np.testing.assert_allclose(item["input_feature_pts"][..., 0], expected, atol=1e-6)
    both = make(path, settings=settings, network_inputs=["patch_masks", "saliency"])["input_feature_pts"]
    np.testing.assert_allclose(both[..., 1], make(path, settings=settings)["input_feature_pts"][..., 0])
    np.testing.assert_array_equal(both[..., 0], (both[..., 1] / 3 > 0.004).float())
    vool = make(path, "vool", settings=settings, network_inputs=["patch_masks", "saliency"])
    masks, values = vool["input_target_saliency_pts"].unbind(-1)
    np.testing.assert_array_equal(masks, (values > 0.004).float())  # after the scale, as released
    before = make(path, "vool", settings={**settings, "scaled_masks": False}, network_inputs=["patch_masks"])
    np.testing.assert_array_equal(before["input_target_saliency_pts"][..., 0], (values / 3 > 0.004).float())


def test_colours_and_tsdf_are_there_where_asked_for(path: Path) -> None:
    item = make(path, network_inputs=["rgb", "tsdf"], voxel_shape=(8, 8, 8))
    assert item["input_feature_pts"].shape == (1, len(item["input_xyz_pts"]), 3)
    assert 0 <= item["input_feature_pts"].min() < item["input_feature_pts"].max() <= 1
    assert item["tsdf_vol"].shape == (8, 8, 8)
    assert "input_rgb_pts" not in make(path, "vool")
    assert make(path, "vool", network_inputs=["rgb"])["input_rgb_pts"].shape[::2] == (1, 3)
    with pytest.raises(InputError, match=r"voxel_shape: expected .8, 8, 8., cubic voxels"):
        make(path, network_inputs=["saliency", "tsdf"], voxel_shape=(8, 8, 4))


def test_computer_may_be_all_that_is_called_so() -> None:
    """As released it is the laptop alone, so that a desktop has no point."""
    for all_synonyms, ids in ((False, "7"), (True, "6|7")):
        item = make(GOLDEN, settings={"all_synonyms": all_synonyms}, synonyms=True, visuals=True)
        assert item["patch_objmatches"][item["patch_labels"].index("computer")] == ids


def test_sentences_may_be_renamed_too() -> None:
    items = [
        make(GOLDEN, "vool", settings={"synonym_sentences": renamed}, synonyms=True)
        for renamed in (False, True)
    ]
    key = "input_description_saliency_pts"
    same = [torch.equal(a, b) for a, b in zip(items[0][key], items[1][key], strict=True)]
    assert not any(same)  # each has a name with a synonym
    assert torch.equal(items[0]["input_target_saliency_pts"], items[1]["input_target_saliency_pts"])


def change_texts(field: str, row: int, text: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[field][()]
        values[row] = text.encode()
        file[field][...] = values

    return change


def rename_visible(name: bytes) -> Callable[[h5py.File], None]:
    """The class of an object that is seen goes by another name."""

    def change(file: h5py.File) -> None:
        names = file["data/objid_to_class"][()]
        seen = [n for n in np.unique(file["seg"][0]) if n >= 0]
        number = next(int(n) for n in seen if names[n].split(b"[")[0] not in (b"unlabelled", b"empty"))
        names[number] = name + f"[{number}]".encode()
        file["data/objid_to_class"][...] = names

    return change


def an_id_too_high(file: h5py.File) -> None:
    seg = file["seg"][0]
    seg[0, 0] = 4000
    file["seg"][0] = seg


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (
            "ovssc",
            rename_visible(b"zebra"),
            "saliency_text_labels: no label 'zebra'; [0-9]+ labels have maps",
        ),
        ("ovssc", rename_visible(b""), "data/objid_to_class: expected a name for id [0-9]+, found none"),
        ("ovssc", an_id_too_high, "data/objid_to_class: expected a class for each id, .* object 4000"),
        (
            "vool",
            change_texts("data/descriptions/spatial_relation_name", 0, "under"),
            "data/descriptions: spatial_relation_name: expected one of in, .*, found 'under'",
        ),
        (
            "vool",
            change_texts("data/descriptions/target_obj_name", 0, "zebra"),
            "saliency_text_labels: no label 'zebra'",
        ),
        (
            "vool",
            change_texts("data/descriptions/reference_obj_name", 0, ""),
            "data/descriptions/reference_obj_name: row 0: expected a name, found none",
        ),
    ],
)
def test_a_fault_of_a_scene_is_one_line(
    path: Path, tmp_path: Path, task: str, change: Callable[[h5py.File], None], message: str
) -> None:
    copy = Path(shutil.copy(path, tmp_path))
    with h5py.File(copy, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=message) as caught:
        make(copy, task)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("task", ["ovssc", "vool"])
def test_a_scene_without_a_label_gives_padding(path: Path, tmp_path: Path, task: str, train: bool) -> None:
    copy = Path(shutil.copy(path, tmp_path))
    with h5py.File(copy, "r+") as file:
        file["seg"][0] = np.full(file["seg"].shape[1:], -1)
        for name in [*file["data/descriptions"]]:
            column = file[f"data/descriptions/{name}"][:0]
            del file[f"data/descriptions/{name}"]
            kind = np.int64 if name == "target_obj_id" else h5py.string_dtype()
            file["data/descriptions"].create_dataset(name, data=column, dtype=kind)
    item = make(copy, task, train=train)
    names, pad = {
        "ovssc": (item.get("patch_labels"), ""),
        "vool": (item.get("spatial_relation_name"), vocabulary.PAD),
    }[task]
    assert names == [pad] * (4 if train else 1)
    assert not item["output_label_pts"].any()
