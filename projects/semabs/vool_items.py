"""Items of visually obscured object localisation: descriptions, relevancies of target, reference and sentence."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from projects.semabs import item_points, vocabulary
from projects.semabs.item_points import Item, ItemRequest, View
from projects.semabs.sampling import Rng
from projects.semabs.scene_file import Descriptions, SceneFile
from projects.semabs.vocabulary import PAD
from shared.errors import InputError

PAD_ID = -2  # target of a padded description: no object has it


def make_item(scene: SceneFile, request: ItemRequest, rng: Rng) -> Item:
    """One scene as tensors and names under the released keys.

    input_xyz_pts [N, 3], input_{target,reference,description}_saliency_pts [P, N, 1], input_rgb_pts [1, N, 3]
    where colours are asked for, output_xyz_pts [P, M, 3], output_label_pts, out_of_bounds_pts,
    out_of_frustum_pts_mask [P, M] bool, tsdf_vol, spatial_relation_name, target_obj_name, reference_obj_name [P]
    ("[pad]" = padded), scene_id. Training pads to `num_descs`; an item has at least one, padded if need be.
    """
    view, points, ids = View.of(scene), scene.points(), scene.object_ids()
    stored = _described(scene, request)
    stored = stored.take(choose_descriptions(rng, stored.relations, request))
    described = _renamed(stored) if request.synonyms else stored
    padding = max(request.settings.num_descs if request.train else 1, len(described)) - len(described)
    pads = [PAD] * padding
    targets = [*described.target_ids.tolist(), *([PAD_ID] * padding)]
    item: Item = {
        "scene_id": scene.scene_id,
        "target_obj_name": [*described.targets, *pads],
        "reference_obj_name": [*described.references, *pads],
        "spatial_relation_name": [*described.relations, *pads],
    }
    wanted = [ids == number for number in targets]
    affine = request.settings.draw_affine(rng, "vool") if request.train else None
    maps = _maps(scene, request, described, described if request.settings.synonym_sentences else stored)
    item |= item_points.made_moved_or_not(
        scene, lambda moved: _points(rng, scene, view, request, points, maps, wanted, moved), affine
    )
    if request.visuals:
        item |= item_points.visual_arrays(scene, view, ids)
        item["rgb"] = torch.from_numpy(scene.rgb(request.image)).float() / 255
        item["vis_gt_objid_pts"] = torch.from_numpy(ids)
        item["vis_gt_xyz_pts"] = torch.from_numpy(points)
    return item


def choose_descriptions(rng: Rng, relations: Sequence[str], request: ItemRequest) -> np.ndarray:
    """Rows of the descriptions of an item, ascending: all, or in training `num_descs` without replacement.

    balance_spatial_relations: drawn by 1 / the number of descriptions with their relation.
    """
    most = request.settings.num_descs
    if not request.train or len(relations) <= most:
        return np.arange(len(relations))
    shares = None
    if request.settings.balance_spatial_relations:
        _, place, counts = np.unique(np.array(relations), return_inverse=True, return_counts=True)
        shares = 1 / counts[place]
        shares = shares / shares.sum()
    return np.sort(rng.choice(len(relations), most, replace=False, p=shares))


def _described(scene: SceneFile, request: ItemRequest) -> Descriptions:
    """The descriptions, checked; under synonyms only those with a name that has one."""
    found = scene.descriptions()
    vocabulary.check_relations(found.relations, f"{scene.path}: data/descriptions")
    for column, names in (("target_obj_name", found.targets), ("reference_obj_name", found.references)):
        if "" in names:
            row = names.index("")
            raise InputError(
                f"{scene.path}: data/descriptions/{column}: row {row}: expected a name, found none"
            )
    if not request.synonyms:
        return found
    rows = [
        row
        for row, words in enumerate(zip(found.targets, found.relations, found.references, strict=True))
        if any(name in vocabulary.sentence(*words) for name in vocabulary.SYNONYMS)  # also inside of words
    ]
    return found.take(rows)


def _renamed(found: Descriptions) -> Descriptions:
    """The descriptions with synonyms for the names that have one."""
    targets = tuple(vocabulary.synonym(name) for name in found.targets)
    references = tuple(vocabulary.synonym(name) for name in found.references)
    return replace(found, targets=targets, references=references)


def _maps(
    scene: SceneFile, request: ItemRequest, described: Descriptions, sentences: Descriptions
) -> dict[str, np.ndarray]:
    """Relevancy maps [P, h, w] of the targets and references of `described`, and of whole `sentences`."""
    rows = zip(sentences.targets, sentences.relations, sentences.references, strict=True)
    names = {
        "target": described.targets,
        "reference": described.references,
        "description": [vocabulary.sentence(*words) for words in rows],
    }
    maps = {}
    for part, texts in names.items():
        found = item_points.relative_maps(scene, request, item_points.places_of(scene, request, texts))
        maps[part] = item_points.raised(found, request.settings.saliency_vmin)
    return maps


def _points(
    rng: Rng,
    scene: SceneFile,
    view: View,
    request: ItemRequest,
    points: np.ndarray,
    maps: dict[str, np.ndarray],
    wanted: Sequence[np.ndarray],
    affine: np.ndarray | None,
) -> Item:
    pixels, observed = item_points.observed_points(rng, view, request, affine)
    queries = item_points.query_points(rng, view, points, wanted, request, affine)
    item: Item = {
        "input_xyz_pts": torch.from_numpy(observed),
        "output_xyz_pts": queries.points,
        "output_label_pts": queries.labels,
        "out_of_bounds_pts": queries.out_of_bounds,
        "out_of_frustum_pts_mask": queries.out_of_frustum,
        "tsdf_vol": item_points.tsdf_input(view, request, affine),
    }
    height, width = view.depth.shape
    for part, of_part in maps.items():
        values = np.zeros((len(wanted), len(pixels)), np.float32)
        values[: len(of_part)] = item_points.pixel_values(of_part, pixels, (height, width))
        item[f"input_{part}_saliency_pts"] = torch.from_numpy(_features(values, request))
    if request.colours:
        picture = scene.rgb(request.image).reshape(-1, 3)
        item["input_rgb_pts"] = torch.from_numpy(picture[pixels][None].astype(np.float32) / 255)
    return item


def _features(values: np.ndarray, request: ItemRequest) -> np.ndarray:
    """Map values [P, N] as features [P, N, F] in the order patch_masks (always 0 and 1, as released), saliency."""
    scaled = values * np.float32(request.settings.relevancy_scale)
    parts = []
    if "patch_masks" in request.network_inputs:
        compared = scaled if request.settings.scaled_masks else values
        parts.append((compared > request.settings.patch_mask_cutoff).astype(np.float32))
    if "saliency" in request.network_inputs or not parts:
        parts.append(scaled)
    return np.stack(parts, axis=-1)
