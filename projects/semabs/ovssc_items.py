"""Items of open-vocabulary semantic scene completion: labels of what a view shows, their relevancies, occupancy."""

from collections.abc import Sequence

import numpy as np
import torch

from projects.semabs import item_points, vocabulary
from projects.semabs.item_points import Item, ItemRequest, View
from projects.semabs.sampling import Rng
from projects.semabs.scene_arrays import NOT_AN_OBJECT
from projects.semabs.scene_file import SceneFile
from shared.errors import InputError


def make_item(scene: SceneFile, request: ItemRequest, rng: Rng) -> Item:
    """One scene as tensors and names under the released keys.

    input_xyz_pts [N, 3], input_feature_pts [P, N, F] (colours: [1, N, 3]), output_xyz_pts [P, M, 3],
    output_label_pts, out_of_bounds_pts, out_of_frustum_pts_mask [P, M] bool, semantic_class_features [P, D],
    tsdf_vol, patch_labels [P] ("" = padded), scene_id. Training pads to `num_patches` labels; an item has at least
    one, padded if need be.
    """
    view, points, ids = View.of(scene), scene.points(), scene.object_ids()
    ids_of = visible_classes(scene, view, points, ids, request)
    places = np.sort(item_points.places_of(scene, request, ids_of))
    places = places[_choose(rng, len(places), request)]
    labels = scene.text_labels(request.image, request.settings.saliency_config)
    names, maps = [labels[place] for place in places], item_points.relative_maps(scene, request, places)
    padding = max(request.settings.num_patches if request.train else 1, len(names)) - len(names)
    features = scene.text_features(request.image, request.settings.saliency_config)
    pads = rng.standard_normal((padding, features.shape[1])).astype(np.float32)
    item: Item = {
        "scene_id": scene.scene_id,
        "patch_labels": names + [""] * padding,
        "semantic_class_features": torch.from_numpy(np.concatenate([features[places], pads])),
    }
    wanted = [np.isin(ids, ids_of[name]) for name in names] + [np.zeros(len(ids), bool)] * padding
    affine = request.settings.draw_affine(rng, "ovssc") if request.train else None
    item |= item_points.made_moved_or_not(
        scene, lambda moved: _points(rng, scene, view, request, points, maps, wanted, moved), affine
    )
    if request.visuals:
        item |= _visuals(scene, view, request, points, ids, maps)
        item["patch_objmatches"] = ["|".join(str(number) for number in ids_of[name]) for name in names]
    return item


def visible_classes(
    scene: SceneFile, view: View, points: np.ndarray, ids: np.ndarray, request: ItemRequest
) -> dict[str, list[int]]:
    """Object ids of each name that the view shows: names of ids both in the segmentation and among the points of
    the frustum. Under synonyms a name is a synonym, and its ids are those of the class that it stands for.
    """
    classes, segmentation = scene.classes, scene.segmentation()
    highest = max(int(segmentation.max(initial=-1)), int(ids.max(initial=-1)))
    if highest >= len(classes):
        found = f"{len(classes)} classes, but an object {highest}"
        raise InputError(f"{scene.path}: data/objid_to_class: expected a class for each id, found {found}")
    seen = _present(segmentation, len(classes)) & _present(ids[view.in_frustum(points)], len(classes))
    ids_of: dict[str, list[int]] = {}
    for number, name in classes.items():
        ids_of.setdefault(name, []).append(number)
    shown = sorted({name for number, name in classes.items() if seen[number]} - NOT_AN_OBJECT)
    if "" in shown:
        raise InputError(
            f"{scene.path}: data/objid_to_class: expected a name for id {ids_of[''][0]}, found none"
        )
    if not request.synonyms:
        return {name: ids_of[name] for name in shown}
    renamed: dict[str, list[int]] = {}
    for name in shown:
        called = vocabulary.synonym(name)
        if request.settings.all_synonyms:
            renamed[called] = sorted({*renamed.get(called, []), *ids_of[name]})
        else:
            renamed[called] = ids_of.get(vocabulary.CLASS_OF_SYNONYM.get(called, called), [])
    return renamed


def _present(ids: np.ndarray, count: int) -> np.ndarray:
    """Which of the ids 0 .. count - 1 occur, bool [count]; -1 = none."""
    return np.bincount(ids.reshape(-1) + 1, minlength=count + 1)[1:] > 0


def _choose(rng: Rng, count: int, request: ItemRequest) -> np.ndarray:
    most = request.settings.num_patches
    if not request.train or count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def _points(
    rng: Rng,
    scene: SceneFile,
    view: View,
    request: ItemRequest,
    points: np.ndarray,
    maps: np.ndarray,
    wanted: Sequence[np.ndarray],
    affine: np.ndarray | None,
) -> Item:
    pixels, observed = item_points.observed_points(rng, view, request, affine)
    queries = item_points.query_points(rng, view, points, wanted, request, affine)
    features = _features(scene, view, request, maps, pixels)
    if features.shape[0] < len(wanted) and "rgb" not in request.network_inputs:
        padding = np.zeros((len(wanted) - len(features), *features.shape[1:]), np.float32)
        features = np.concatenate([features, padding])
    return {
        "input_xyz_pts": torch.from_numpy(observed),
        "input_feature_pts": torch.from_numpy(features),
        "output_xyz_pts": queries.points,
        "output_label_pts": queries.labels,
        "out_of_bounds_pts": queries.out_of_bounds,
        "out_of_frustum_pts_mask": queries.out_of_frustum,
        "tsdf_vol": item_points.tsdf_input(view, request, affine),
    }


def _features(
    scene: SceneFile, view: View, request: ItemRequest, maps: np.ndarray, pixels: np.ndarray
) -> np.ndarray:
    """What observed points carry: [P, N, F] in the order patch_masks, saliency; colours [1, N, 3]."""
    settings = request.settings
    if "rgb" in request.network_inputs:
        picture = scene.rgb(request.image).reshape(-1, 3)
        return picture[pixels][None].astype(np.float32) / 255
    height, width = view.depth.shape
    values = item_points.pixel_values(maps, pixels, (height, width))
    values = item_points.raised(values, settings.saliency_vmin)
    parts = []
    if "patch_masks" in request.network_inputs:
        masks = (values > settings.patch_mask_cutoff).astype(np.float32)
        parts.append(masks * 2 - 1 if settings.offset_patch_mask else masks)
    if "saliency" in request.network_inputs:
        parts.append(values * np.float32(settings.relevancy_scale))
    return np.stack(parts, axis=-1)


def _visuals(
    scene: SceneFile,
    view: View,
    request: ItemRequest,
    points: np.ndarray,
    ids: np.ndarray,
    maps: np.ndarray,
) -> Item:
    height, width = view.depth.shape
    values = item_points.pixel_values(maps, np.arange(height * width), (height, width))
    values = item_points.raised(values, request.settings.saliency_vmin)
    segmentation = scene.segmentation()
    classes = scene.classes
    present = _present(segmentation, len(classes))
    named = NOT_AN_OBJECT | {classes[number] for number in range(len(classes)) if present[number]}
    shown = np.array([classes[number] in named for number in range(len(classes))])[ids]
    return {
        **item_points.visual_arrays(scene, view, ids),
        "rgb": torch.from_numpy(scene.rgb(request.image)),
        "seg": torch.from_numpy(segmentation),
        "vis_gt_objid_pts": torch.from_numpy(ids[shown]),
        "vis_gt_xyz_pts": torch.from_numpy(points[shown]),
        "patch_saliencies": torch.from_numpy(values.reshape(-1, height, width)),
    }
