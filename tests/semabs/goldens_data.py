"""Golden calls of the scene data: geometry, the voxel grid, sampling, the HDF5 layout, dataset items."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import torch

from projects.semabs import (
    geometry,
    ovssc_items,
    sampling,
    tsdf,
    vocabulary,
    vool_items,
)
from projects.semabs.item_points import ItemRequest
from projects.semabs.item_settings import ItemSettings
from projects.semabs.scene_file import Relevancies, SceneFile, add_saliencies, write_scene
from projects.semabs.voxel_grid import VoxelGrid
from tests.goldens.case import Case

MAKERS = {"ovssc": ovssc_items.make_item, "vool": vool_items.make_item}


def check_geometry(case: Case) -> None:
    """Back-projection, bounds, frustum, the TSDF of one view and of two."""
    golden, data = case.npz(), case.data
    depth, intrinsics, pose = golden["depth"], golden["cam_intr"], golden["cam_pose"]
    bounds, size = np.array(data["bounds"]), data["voxel_size"]
    points = geometry.back_project(depth, intrinsics, pose)
    case.close(points, golden["xyz"], what="points")
    some = np.arange(0, len(points), 7)
    found = geometry.back_project_pixels(depth, some, intrinsics, pose)
    case.close(found, golden["xyz"][some], what="points of pixels")
    inside = geometry.in_bounds(golden["xyz"], bounds)
    assert (inside != golden["in_bounds"]).sum() <= data["boundary"]
    seen = geometry.in_frustum(golden["query"], depth.shape, intrinsics, pose)
    assert (seen != golden["query_in_frustum"]).sum() <= data["boundary"]
    first = tsdf.View(depth, intrinsics, pose)
    second = tsdf.View(depth * np.float32(data["second_depth"]), intrinsics, pose)
    case.close(tsdf.fuse([first], bounds, voxel_size=size), golden["tsdf1"], what="one view")
    case.close(tsdf.fuse([first, second], bounds, voxel_size=size), golden["tsdf2"], what="two views")
    side = golden["tsdf1"].shape[0]
    case.close(tsdf.fuse([first], bounds, voxels=side), golden["tsdf1"], what="by the number of voxels")
    places = tsdf.tsdf_points(bounds, voxel_size=size)[[0, 1, side, side**2, -1]]
    case.close(places, golden["tsdf_xyz_first_last"], what="places of voxels")


def check_grid(case: Case) -> None:
    """Indices, flat numbers, pooling, places of voxels; of arrays and of tensors."""
    golden = case.npz()
    grid = VoxelGrid(case.data["bounds"], case.data["shape"])
    for kind in (np.asarray, torch.from_numpy):
        points = kind(golden["points"])
        case.close(grid.positions(points), golden["idx_float"], what="positions")
        index = grid.indices(points)
        assert np.array_equal(np.asarray(index), golden["idx_int"])
        assert np.array_equal(np.asarray(grid.flat(index)), golden["flat"])
        case.close(grid.coordinates(index), golden["idx_to_pts"], what="coordinates")
    case.close(grid.points(), golden["grid_points"], what="grid points")
    points, features = torch.from_numpy(golden["points"]), torch.from_numpy(golden["feat"])
    case.close(grid.scatter(points, features), golden["scatter_default"], what="mean")
    case.close(grid.scatter(points, features, "max"), golden["scatter_max"], what="max")


def check_sampling(case: Case) -> None:
    """The augmentation's matrix, the bounds filter and the weighted draws, number for number."""
    golden, data = case.npz(), case.data
    count, bounds = data["points"], np.array(data["bounds"])
    uniform = case.input("samp_xyz", (count, 3), kind="uniform").astype(np.float64)
    points = (uniform * data["stretch"] + data["shift"]).astype(np.float32)
    positive = case.input("samp_lab", (count,), kind="uniform") < data["positive"]
    weights = sampling.balancing_weights(positive)
    case.close([weights[positive][0], weights[~positive][0]], golden["balanced_p_pos_neg"], what="weights")
    parts = (golden[f"affine_{name}"] for name in ("T", "euler_sxyz", "Z"))
    affine = sampling.affine_matrix(*parts)
    case.close(affine, golden["affine_M"], what="matrix")
    for tag, options in data["draws"].items():
        moved = sampling.transformed(points, affine if options["moved"] else None)
        kept = np.flatnonzero(geometry.in_bounds(moved, bounds))
        if options["count"] == -1:
            drawn = kept
        else:
            rng = np.random.RandomState(0)
            drawn = kept[
                sampling.draw_points(
                    rng, len(kept), options["count"], weights=weights[kept], replace=options["replace"],
                    method="choice",
                )
            ]  # fmt: skip
        expected = golden[f"{tag}_indices"]
        if options["count"] != -1:
            assert np.array_equal(drawn[: len(expected)], expected), tag
            case.close(moved[drawn[:100]], golden[f"{tag}_xyz_first100"], what=tag)
        else:  # all points; the release shuffles them
            assert set(expected) <= set(drawn)
        assert len(drawn) == golden[f"{tag}_n"]
        assert positive[drawn].sum() == golden[f"{tag}_n_positive"]


def check_layout(case: Case) -> None:
    """The authors' file is read, and written anew it has the same tree, types, chunks, filters and values."""
    golden, source = case.npz(), case.path(case.data["scene"])
    with SceneFile(source) as scene, TemporaryDirectory() as folder:
        seen = vocabulary.visible_names(np.unique(scene.segmentation()), scene.classes)
        assert seen == golden["visible_scene_obj_labels"].tolist() == scene.visible_labels()
        labels = vocabulary.labels_of_scene(seen, scene.descriptions())
        assert labels == golden["clip_text_labels"].tolist() == scene.text_labels()
        case.close(scene.text_features()[-1], golden["text_feature_mean_row"], what="mean feature")
        sets = []
        for image, config in scene.saliency_sets():
            found = scene.saliency(image, config, released_mean=False)
            sets.append(Relevancies(image, config, found.labels, found.maps, found.text_features))
        path = Path(folder) / source.name
        write_scene(path, scene.arrays())
        add_saliencies(path, sets[::-1], seen)
        with h5py.File(path) as ours, h5py.File(source) as theirs:
            assert tree(ours) == tree(theirs) == golden["tree"].tolist()
            assert ours["saliencies"].shape == tuple(golden["saliencies_shape"])
            same_values(ours, theirs, case)


def tree(file: h5py.File) -> list[str]:
    """Listing of groups, and of data sets as name|type|reference|text|shape|chunks|maxshape|filter:level."""
    rows: list[str] = []

    def add(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Group):
            rows.append(f"{name}/")
            return
        text = h5py.check_string_dtype(entry.dtype)
        kind = f"|S{entry.dtype.itemsize}" if entry.dtype.kind == "S" else entry.dtype.name
        words = [
            name,
            kind,
            h5py.check_ref_dtype(entry.dtype),
            str if text is not None and text.length is None else None,
            entry.shape,
            entry.chunks,
            entry.maxshape,
            f"{entry.compression}:{entry.compression_opts}",
        ]
        rows.append("|".join(str(word) for word in words))

    file.visititems(add)
    return rows


def same_values(ours: h5py.File, theirs: h5py.File, case: Case) -> None:
    """Every data set holds the same; region references lead to the same."""

    def compare(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Group):
            return
        other = theirs[name]
        if h5py.check_ref_dtype(entry.dtype):
            for mine, its in zip(entry[:], other[:], strict=True):
                assert ours[mine].name == theirs[its].name
                case.close(ours[mine][mine], theirs[its][its], what=name)
        elif entry.dtype.kind in "SO":
            assert np.array_equal(entry[()], other[()]), name
        else:
            case.close(entry[()], other[()], what=name)

    ours.visititems(compare)


def check_items(case: Case) -> None:
    """A scene's items of both tasks under one setting, key by key."""
    data = case.data
    golden = case.npz()
    for task, make in MAKERS.items():
        settings = ItemSettings(sampling="choice", domain_randomization=False, **data.get("settings", {}))
        request = ItemRequest(settings=settings, visuals=True, **data.get("request", {}))
        with SceneFile(case.path(data["scene"])) as scene:
            item = make(scene, request, np.random.RandomState(0))
        prefix = f"{task}_{data['tag']}/"
        keys = sorted({key.split("/")[1] for key in golden if key.startswith(prefix)})
        assert len(keys) > 8
        for key in keys:
            expected = {k.split("/")[2]: v for k, v in golden.items() if k.startswith(f"{prefix}{key}/")}
            check_entry(case, f"{prefix}{key}", item[key], expected)


def check_entry(case: Case, name: str, found: Any, expected: dict[str, np.ndarray]) -> None:
    """Texts are equal; of an array the shape, sums and some elements agree."""
    if "value" in expected:
        assert np.array_equal(found, expected["value"]), name
        return
    shape = tuple(expected["shape"])
    array = np.asarray(found, np.float64)
    if name.endswith("out_of_bounds_pts") and array.shape != shape:
        array = array[0] if len(shape) == 1 else array[:, None]  # ours are [P, M] for both tasks
    array = np.broadcast_to(array, shape)  # colours are not repeated for every description
    case.close(array.ravel()[:: max(1, array.size // 400)], expected["every"], of_max=True, what=name)
    sums = np.array([array.sum(), np.abs(array).sum()])
    size = expected["sum_abs_sum"][1]
    case.close(sums, expected["sum_abs_sum"], rtol=0, atol=1e-9 + 1e-6 * size, what=f"{name} sums")
    if "row_sums" in expected:
        rows, size = array.reshape(shape[0], -1).sum(1), np.abs(array).sum() / shape[0]
        case.close(rows, expected["row_sums"], rtol=0, atol=1e-6 + 1e-5 * size, what=f"{name} rows")


def check_descriptions(case: Case) -> None:
    """Which descriptions are drawn, by seed, and how they are padded."""
    golden = case.npz()
    with SceneFile(case.path(case.data["scene"])) as scene:
        everything = scene.descriptions()
        for tag, options in case.data["draws"].items():
            count = options["count"]
            settings = ItemSettings(num_descs=count)
            request = ItemRequest(settings=settings, train=True)
            rng = np.random.RandomState(options["seed"])
            rows = vool_items.choose_descriptions(rng, everything.relations, request)
            chosen = everything.take(rows)
            words = zip(chosen.targets, chosen.relations, chosen.references, chosen.target_ids, strict=True)
            found = ["|".join(map(str, row)) for row in words]
            found += ["[pad]|[pad]|[pad]|-2"] * (count - len(found))
            assert found == golden[tag].tolist(), tag
        pad = (vocabulary.PAD, vocabulary.PAD, vocabulary.PAD, vool_items.PAD_ID)
        assert "|".join(map(str, pad)) == golden["desc_padded"][-1]


CALLS: dict[str, Callable[[Case], None]] = {
    "geometry": check_geometry,
    "grid": check_grid,
    "sampling": check_sampling,
    "scene_layout": check_layout,
    "items": check_items,
    "descriptions": check_descriptions,
}
