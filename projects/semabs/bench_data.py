"""Bench cases of the scene data: a TSDF volume, and a training item, beside plain restatements of the released way."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from projects.semabs import ovssc_items, sampling, tsdf, vocabulary
from projects.semabs.item_points import Item, ItemRequest
from projects.semabs.item_settings import ItemSettings
from projects.semabs.scene_arrays import NOT_AN_OBJECT, Descriptions, Relevancies, SceneArrays
from projects.semabs.scene_file import SceneFile, add_saliencies, write_scene
from shared.bench import Case, Sides, Target
from shared.data import item_generator

BOUNDS = np.array([[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]])
_OBJECTS = 20
_SCENES: list[tempfile.TemporaryDirectory[str]] = []  # kept until the process ends


def view(side: int) -> tsdf.View:
    """A wavy surface seen from outside of the box by a camera that looks a little down; side x side pixels."""
    u, v = np.meshgrid(np.arange(side) / side, np.arange(side) / side)
    depth = (1.9 + 0.5 * np.sin(9 * u) + 0.4 * np.cos(11 * v)).astype(np.float32)
    depth[u + v > 1.9] = 0
    focal = side / 2 / np.tan(np.radians(40))
    intrinsics = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    cos, sin = np.cos(0.3), np.sin(0.3)
    pose = np.array([[0, -sin, cos, -1.5], [-1, 0, 0, 0], [0, -cos, -sin, 1.2], [0, 0, 0, 1]])
    return tsdf.View(depth, intrinsics, pose)


def volumes(quick: bool) -> Sides:
    """TSDF of an 896 x 896 view in 240^3 voxels, as `visualize` carves completions."""
    seen, voxels = view(64 if quick else 896), 24 if quick else 240
    return {
        "released": partial(released_tsdf, seen, voxels),
        "ours": partial(tsdf.fuse, [seen], BOUNDS, voxels=voxels),
    }


def released_tsdf(seen: tsdf.View, voxels: int) -> np.ndarray:
    """All voxels at once: places, homogeneous camera coordinates, rounded pixels, masks, look-up, running mean."""
    size = 2.0 / voxels
    axes = np.meshgrid(*[np.arange(voxels)] * 3, indexing="ij")
    index = np.stack([axis.reshape(-1) for axis in axes], axis=1)
    places = (BOUNDS[0].astype(np.float32) + index.astype(np.float32) * np.float32(size)).astype(np.float32)
    homogeneous = np.concatenate([places, np.ones((len(places), 1), np.float32)], axis=1)
    camera = (np.linalg.inv(seen.pose) @ homogeneous.T).T[:, :3]
    intrinsics, z = seen.intrinsics, camera[:, 2]
    u = np.round(camera[:, 0] * intrinsics[0, 0] / z + intrinsics[0, 2]).astype(np.int64)
    v = np.round(camera[:, 1] * intrinsics[1, 1] / z + intrinsics[1, 2]).astype(np.int64)
    height, width = seen.depth.shape
    valid = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (z > 0)
    depth = np.zeros(len(places))
    depth[valid] = seen.depth[v[valid], u[valid]]
    distance = depth - z
    observed = (depth > 0) & (distance >= -5 * size)
    found = np.clip(distance / (5 * size), -1, 1)[observed]
    values, weights = np.full(len(places), -1.0, np.float32), np.zeros(len(places), np.float32)
    values[observed] = (weights[observed] * values[observed] + found) / (weights[observed] + 1)
    weights[observed] += 1
    return values.reshape(voxels, voxels, voxels)


def check_volumes(outputs: Mapping[str, np.ndarray]) -> str:
    """Volumes agree, but for voxels whose pixel is a tie of rounding."""
    apart = np.abs(outputs["released"] - outputs["ours"]) > 1e-5
    assert apart.mean() < 1e-6, f"{apart.mean():.1e} of the voxels differ"
    return f"volumes agree to 1e-5 but for {apart.sum()} of {apart.size} voxels"


@cache
def scene_path(quick: bool) -> Path:
    """A scene file of the released size: 896 x 896 pixels, 10^6 points, 128^2 maps, compressed."""
    side, count = (64, 20_000) if quick else (896, 1_000_000)
    rng = np.random.default_rng(0)
    seen = view(side)
    points = (rng.random((count, 3)) * 2 + BOUNDS[0]).astype(np.float32)
    blocks = np.clip((points - BOUNDS[0]) * 2, 0, 3).astype(int) @ [16, 4, 1]
    ids = np.where(rng.random(count) < 0.1, blocks % _OBJECTS + 1, 0)
    u, v = np.meshgrid(np.arange(side) * 8 // side, np.arange(side) * 8 // side)
    names = ["empty", *(f"thing {number}" for number in range(_OBJECTS))]
    descriptions = Descriptions(("thing 1",), ("on",), ("thing 2",), np.array([2]))
    volume = tsdf.fuse([seen], BOUNDS, voxels=64)
    scene = SceneArrays(
        rgb=rng.integers(0, 64, (side, side, 3)).astype(np.uint8) + (4 * u[..., None]).astype(np.uint8),
        depth=seen.depth,
        segmentation=(u + 8 * v) % _OBJECTS + 1,
        intrinsics=seen.intrinsics,
        pose=seen.pose,
        bounds=BOUNDS,
        points=points,
        object_ids=ids,
        class_names=names,
        descriptions=descriptions,
        tsdf_points=tsdf.tsdf_points(BOUNDS, voxels=64),
        tsdf_values=volume.reshape(-1),
    )
    labels = vocabulary.labels_of_scene(names, descriptions)
    maps = rng.random((len(labels), 128, 128)).astype(np.float32) * 0.02
    features = rng.standard_normal((len(labels), 512)).astype(np.float32)
    _SCENES.append(tempfile.TemporaryDirectory())
    path = Path(_SCENES[-1].name) / "00000|FloorPlan1_physics.hdf5"
    write_scene(path, scene)
    add_saliencies(path, [Relevancies("rgb", "ours", labels, maps, features)], names[1:])
    return path


def items(quick: bool) -> Sides:
    """A training item of OVSSC: 4 labels, 80,000 observed points, 400,000 query points for each label."""
    path = scene_path(quick)
    quickly = ItemSettings(num_input_pts=500, num_output_pts=2000) if quick else ItemSettings()
    exactly = replace(quickly, sampling="choice")
    return {
        "released": lambda: released_item(path, exactly, np.random.RandomState(0)),
        "ours, released draws": lambda: our_item(path, exactly, np.random.RandomState(0)),
        "ours": lambda: our_item(path, quickly, item_generator(0, 0, 0)),
    }


def our_item(path: Path, settings: ItemSettings, rng: sampling.Rng) -> Item:
    """The item as training reads it."""
    with SceneFile(path) as scene:
        return ovssc_items.make_item(scene, ItemRequest(settings=settings, train=True), rng)


def released_item(path: Path, settings: ItemSettings, rng: np.random.RandomState) -> Item:
    """Everything read, all pixels and all points carried along to the end, weighted draws by `choice`."""
    with h5py.File(path) as file:
        data = file["data"]
        names = [name for name in data if h5py.check_ref_dtype(getattr(data[name], "dtype", None) or "f4")]
        arrays = {name: file[data[name][0]][data[name][0]][0].astype(np.float32) for name in names}
        classes = [entry.decode().split("[")[0] for entry in data["objid_to_class"]]
        labels = [entry.decode() for entry in data["saliencies/rgb|ours|saliency_text_labels"]]
        references = data["saliencies/rgb|ours"][:]
        every_map = np.stack([file[reference][reference][0] for reference in references])
        features = data["saliencies/rgb|ours|saliency_text_label_features"][:]
        intrinsics, pose = data["cam_intr"][:], data["cam_pose"][:]
    ids, points, depth = arrays["full_objid_pts"], arrays["full_xyz_pts"], arrays["depth"]
    inside = _in_frustum(points, depth.shape, intrinsics, pose)
    seen = {classes[int(number)] for number in set(np.unique(ids[inside])) & set(np.unique(arrays["seg"]))}
    chosen = np.array(sorted(labels.index(name) for name in seen - NOT_AN_OBJECT))
    chosen = np.sort(rng.choice(chosen, settings.num_patches, replace=False))
    maps = torch.from_numpy(every_map - every_map[labels.index("mean")])[chosen]
    stretched = F.interpolate(maps[:, None], size=depth.shape, mode="bilinear", align_corners=False)[:, 0]
    values = stretched.numpy().reshape(len(chosen), -1) * settings.relevancy_scale
    inside_of = np.stack([np.isin(ids, [i for i, n in enumerate(classes) if n == labels[c]]) for c in chosen])
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    x = (u - intrinsics[0, 2]) * depth / intrinsics[0, 0]
    y = (v - intrinsics[1, 2]) * depth / intrinsics[1, 1]
    observed = np.stack([x, y, depth], axis=-1).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]
    kept = depth.reshape(-1) != 0
    affine = settings.draw_affine(rng, "ovssc")
    assert affine is not None
    observed = observed[kept] @ affine[:3, :3].T + affine[:3, 3]
    index = _subsample(observed, np.full(len(observed), 1.0), settings.num_input_pts, rng)
    moved = points @ affine[:3, :3].T.astype(np.float32) + affine[:3, 3].astype(np.float32)
    rows = []
    for mask in inside_of:
        weights = np.where(mask, 1 / mask.sum(), 1 / (~mask).sum())
        rows.append(_subsample(moved, weights / weights.sum(), settings.num_output_pts, rng))
    queries = np.stack([moved[row] for row in rows])
    hidden = np.stack([~_in_frustum(query, depth.shape, intrinsics, pose) for query in queries])
    return {
        "input_xyz_pts": observed[index],
        "input_feature_pts": values[:, kept][:, index, None],
        "output_xyz_pts": queries,
        "output_label_pts": np.stack([mask[row] for mask, row in zip(inside_of, rows, strict=True)]),
        "out_of_frustum_pts_mask": hidden,
        "semantic_class_features": features[chosen],
        "patch_labels": [labels[place] for place in chosen],
    }


def _in_frustum(
    points: np.ndarray, shape: tuple[int, ...], intrinsics: np.ndarray, pose: np.ndarray
) -> np.ndarray:
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    camera = (np.linalg.inv(pose) @ homogeneous.T).T[:, :3]
    projected = (intrinsics @ camera.T).T
    with np.errstate(all="ignore"):
        u, v = projected[:, 0] / projected[:, 2], projected[:, 1] / projected[:, 2]
    return (camera[:, 2] > 0) & (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0])


def _subsample(points: np.ndarray, weights: np.ndarray, count: int, rng: np.random.RandomState) -> np.ndarray:
    low, high = BOUNDS.astype(np.float32)
    kept = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    shares = weights[kept] / weights[kept].sum()
    return np.asarray(kept[rng.choice(len(kept), count, replace=False, p=shares)])


def check_items(outputs: Mapping[str, Item]) -> str:
    """With the released draws the item is the released one; the quick draws have the same shares."""
    released, same, quick = (outputs[name] for name in ("released", "ours, released draws", "ours"))
    assert released["patch_labels"] == same["patch_labels"], "other labels"
    for name, expected in released.items():
        if name == "patch_labels":
            continue
        found = np.asarray(same[name], np.float64)
        assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
        apart = np.abs(found - expected) > 1e-4
        assert apart.mean() < 1e-5, f"{name}: {apart.mean():.1e} of the elements differ"
    positive = [np.asarray(item["output_label_pts"]).sum() for item in (released, quick)]
    expected = float(np.mean(positive))  # of other labels, of about the same size
    assert abs(positive[0] - positive[1]) < 6 * expected**0.5 + 0.1 * expected, f"positive points {positive}"
    return f"items agree; {positive[0]} and {positive[1]} positive query points"


CASES = [
    Case(
        "tsdf",
        "TSDF of one 896 x 896 view, 240^3 voxels",
        volumes,
        check_volumes,
        (Target("ours", "released", 8.0),),
    ),
    Case(
        "dataset_item",
        "training item: 896 x 896 pixels, 10^6 points, 4 labels x 400,000 query points",
        items,
        check_items,
        (Target("ours", "released", 3.0), Target("ours, released draws", "released")),
    ),
]
