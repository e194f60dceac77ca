"""Writing scene files (see `scene_file`): scenes, and the relevancy maps that are added to them later."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from projects.semabs.scene_arrays import CONFIGS, IMAGES, MEAN, Descriptions, Relevancies, SceneArrays
from shared.atomic import first_line
from shared.errors import InputError
from shared.files import atomic_path

_GZIP = 9  # the release's


def write_scene(path: str | Path, scene: SceneArrays, *, gzip: int | None = _GZIP) -> None:
    """Write one scene as `<seed>|FloorPlan<n>_physics.hdf5`. gzip: 0-9, None = uncompressed (quick to read)."""
    _check(scene, path)
    arrays: dict[str, np.ndarray] = {
        "rgb": np.asarray(scene.rgb, np.uint8),
        "depth": np.asarray(scene.depth, np.float32),
        "seg": np.asarray(scene.segmentation, np.int32),
        "tsdf_value_pts": np.asarray(scene.tsdf_values, np.float32),
        "tsdf_xyz_pts": np.asarray(scene.tsdf_points, np.float32),
        "full_xyz_pts": np.asarray(scene.points, np.float32),
        "full_objid_pts": np.asarray(scene.object_ids, np.int32),
    }
    randomized = np.zeros((1, 1)) if scene.randomized_rgb is None else scene.randomized_rgb[None]
    labels = [f"{name}[{number}]".encode() for number, name in enumerate(scene.class_names)]
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        for name, array in arrays.items():
            _put_rows(file, data, name, array[None], gzip)
        _put(data, "cam_intr", np.asarray(scene.intrinsics, np.float64), gzip)
        _put(data, "cam_pose", np.asarray(scene.pose, np.float64), gzip)
        _put(data, "scene_bounds", np.asarray(scene.bounds, np.float64), gzip)
        _put(data, "domain_randomized_rgb", randomized, gzip)
        _put(data, "objid_to_class", np.array(labels, "S"), gzip)
        _put_descriptions(data.create_group("descriptions"), scene.descriptions, gzip)


def add_saliencies(
    path: str | Path,
    relevancies: Sequence[Relevancies],
    visible_labels: Sequence[str],
    *,
    gzip: int | None = _GZIP,
) -> None:
    """Add relevancy maps to a scene file: a copy beside it gets them and replaces it.

    For each (image, config) the mean over labels is appended as the label "mean", with the normalised mean of
    the text features. The sets are written in the release's order (images outer, configs inner), because the
    released code reads the mean map of the first. InputError: maps are there already, or two labels are equal.
    """
    order = [(image, config) for image in IMAGES for config in CONFIGS]
    ordered = sorted(relevancies, key=lambda one: order.index((one.image, one.config)))
    with atomic_path(path) as temporary:
        _copy(path, temporary)
        with _opened(temporary, path) as file:
            data = file["data"]
            if "saliencies" in data:
                raise InputError(f"{path}: data/saliencies: there already")
            group = data.create_group("saliencies")
            for one in ordered:
                _put_relevancies(file, group, one, path, gzip)
            _put(data, "visible_scene_obj_labels", np.array([n.encode() for n in visible_labels], "S"), gzip)


def remove_saliencies(path: str | Path) -> bool:
    """Take all relevancy maps out of a scene file: it is copied without them. False if there were none."""
    with _opened(path, path, "r") as file:
        if "saliencies" not in file["data"]:
            return False
        with atomic_path(path) as temporary, h5py.File(temporary, "w") as new:
            for name in file:
                if name not in ("data", "saliencies"):
                    file.copy(name, new)
            data = new.create_group("data")
            for name, entry in file["data"].items():
                if isinstance(entry, h5py.Dataset) and h5py.check_ref_dtype(entry.dtype):
                    references = np.empty(entry.shape, h5py.regionref_dtype)
                    for row in range(len(references)):  # references hold places in the file they were made in
                        references[row] = new[name].regionref[row, ...]
                    data.create_dataset(name, data=references, dtype=h5py.regionref_dtype)
                elif name not in ("saliencies", "visible_scene_obj_labels"):
                    file.copy(entry, data)
    return True


def _put_relevancies(
    file: h5py.File, group: h5py.Group, one: Relevancies, path: str | Path, gzip: int | None
) -> None:
    labels = list(one.labels)
    if len(set(labels)) != len(labels) or MEAN in labels:
        raise InputError(f"{path}: labels: expected different names, none {MEAN!r}, found {labels}")
    if not labels or len(one.maps) != len(labels) or len(one.text_features) != len(labels):
        found = f"{len(labels)} labels, {len(one.maps)} maps, {len(one.text_features)} text features"
        raise InputError(f"{path}: expected a map and a text feature for each label, found {found}")
    maps = np.asarray(one.maps, np.float32)
    features = np.asarray(one.text_features)
    mean = features.astype(np.float32).mean(axis=0)
    mean = (mean / np.linalg.norm(mean)).astype(features.dtype)
    name = f"{one.image}|{one.config}"
    whole = np.concatenate([maps, maps.mean(axis=0, keepdims=True)])
    _put_rows(file, group, name, whole, gzip, root="saliencies")
    texts = np.array([label.encode() for label in [*labels, MEAN]], "S")
    _put(group, f"{name}|saliency_text_labels", texts, gzip)
    _put(group, f"{name}|saliency_text_label_features", np.concatenate([features, mean[None]]), gzip)


def _put_rows(
    file: h5py.File, group: h5py.Group, name: str, rows: np.ndarray, gzip: int | None, root: str | None = None
) -> None:
    """Append `rows` to the root dataset and put region references to each of them into the group."""
    root = root or name
    if root not in file:
        file.create_dataset(
            root, (0, *rows.shape[1:]), rows.dtype, chunks=(1, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]),
            **_filters(gzip),
        )  # fmt: skip
    dataset = file[root]
    start = len(dataset)
    dataset.resize(start + len(rows), axis=0)
    dataset[start:] = rows
    references = np.empty(len(rows), h5py.regionref_dtype)
    for row in range(len(rows)):
        references[row] = dataset.regionref[start + row, ...]
    group.create_dataset(name, data=references, dtype=h5py.regionref_dtype, **_filters(gzip))


def _put_descriptions(group: h5py.Group, descriptions: Descriptions, gzip: int | None) -> None:
    count = len(descriptions)
    texts = {
        "target_obj_name": descriptions.targets,
        "target_obj_material": descriptions.target_materials or ("",) * count,
        "reference_obj_name": descriptions.references,
        "reference_obj_material": descriptions.reference_materials or ("",) * count,
        "spatial_relation_name": descriptions.relations,
    }
    kind = h5py.string_dtype("utf-8")
    for name, column in texts.items():
        filters = _filters(gzip) if count else {}  # an empty array has no chunks
        group.create_dataset(name, data=np.array(column, object), dtype=kind, **filters)
    _put(group, "target_obj_id", np.asarray(descriptions.target_ids, np.int64), gzip)


def _put(group: h5py.Group, name: str, array: np.ndarray, gzip: int | None) -> None:
    group.create_dataset(name, data=array, **(_filters(gzip) if array.size else {}))


def _filters(gzip: int | None) -> dict[str, Any]:
    return {} if gzip is None else {"compression": "gzip", "compression_opts": gzip}


def _copy(path: str | Path, temporary: Path) -> None:
    try:
        shutil.copyfile(path, temporary)
    except FileNotFoundError:
        raise InputError(f"{path}: no such HDF5 file") from None


def _opened(file: str | Path, path: str | Path, mode: str = "r+") -> h5py.File:
    try:
        return h5py.File(file, mode)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened as an HDF5 file: {first_line(error)}") from None


def _check(scene: SceneArrays, path: str | Path) -> None:
    size = tuple(scene.depth.shape)
    shapes = {
        "rgb": (scene.rgb.shape, (*size, 3)),
        "seg": (scene.segmentation.shape, size),
        "cam_intr": (scene.intrinsics.shape, (3, 3)),
        "cam_pose": (scene.pose.shape, (4, 4)),
        "scene_bounds": (np.shape(scene.bounds), (2, 3)),
        "full_xyz_pts": (scene.points.shape, (len(scene.object_ids), 3)),
        "tsdf_xyz_pts": (scene.tsdf_points.shape, (len(scene.tsdf_values), 3)),
    }
    if scene.randomized_rgb is not None:
        shapes["domain_randomized_rgb"] = (scene.randomized_rgb.shape, (*size, 3))
    for field, (found, expected) in shapes.items():
        if tuple(found) != expected:
            raise InputError(f"{path}: {field}: expected shape {list(expected)}, found {list(found)}")
    highest = max(int(scene.segmentation.max(initial=-1)), int(scene.object_ids.max(initial=-1)))
    if highest >= len(scene.class_names):
        raise InputError(
            f"{path}: object id {highest} has no class name ({len(scene.class_names)} are given)"
        )
    columns = (scene.descriptions.relations, scene.descriptions.references, scene.descriptions.target_ids)
    if any(len(column) != len(scene.descriptions) for column in columns):
        raise InputError(f"{path}: descriptions: columns of unequal length")
