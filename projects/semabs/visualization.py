"""From a scene and a trained network to files: relevancies, completed meshes, places of described objects.

L: labels   P: descriptions   N: observed points   M: query points   H, W: picture
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.semabs import completion_post as post
from projects.semabs import item_points, vocabulary
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.item_points import ItemRequest, View
from projects.semabs.item_settings import ItemSettings
from projects.semabs.scene_pickle import Description, Scene
from shared.errors import InputError
from shared.runtime import Runtime

_AT_ONCE = 4  # descriptions whose volumes are in memory


@dataclass(frozen=True)
class LabelMaps:
    """Relevancies of a picture: maps [L, H, W] float32 less their mean over all labels, of `labels`."""

    labels: tuple[str, ...]
    maps: np.ndarray

    def of(self, names: Sequence[str]) -> np.ndarray:
        """Maps [n, H, W] of these labels."""
        return self.maps[[self.labels.index(name) for name in names]]


def label_maps(
    picture: np.ndarray,
    labels: Sequence[str],
    extractor: RelevancyExtractor,
    prompts: Sequence[str],
    *,
    extra: Sequence[str] = (),
    seed: int = 0,
) -> LabelMaps:
    """Relevancies of labels, sorted and each once, less their mean.

    extra: labels that only go into the mean. seed: of the colour jitter. InputError with one label only: nothing
    would be left of it.
    """
    names = tuple(sorted({*labels, *extra}))
    if len(names) < 2:
        raise InputError(
            f"labels: expected at least two, whose mean is subtracted from each, found {', '.join(names) or 'none'}"
        )
    maps = np.asarray(extractor.maps(picture, names, prompts, seed=seed), np.float32)
    maps = maps - maps.mean(0)
    kept = [place for place, name in enumerate(names) if name in set(labels)]
    return LabelMaps(tuple(names[place] for place in kept), maps[kept])


@dataclass(frozen=True)
class Observed:
    """What the network sees of a scene: `points` [N, 3] of `pixels` [N], drawn once, and the rest of an item.

    request: how maps become features; it carries the items' settings and the network's inputs.
    """

    scene: Scene
    request: ItemRequest
    task: str
    pixels: np.ndarray
    points: np.ndarray

    @classmethod
    def draw(
        cls, scene: Scene, request: ItemRequest, task: str, *, count: int, rng: np.random.Generator
    ) -> "Observed":
        """Draw `count` of the points in the bounds, with replacement, as released; InputError without any."""
        view = View(scene.depth, scene.intrinsics, scene.pose)
        pixels, points = view.observed(request.settings.bounds)
        if not len(pixels):
            low, high = request.settings.bounds.tolist()
            raise InputError(
                f"scene {scene.name}: no point with depth lies in the bounds {low} to {high}: is the pose camera to "
                "scene, in metres, with z up?"
            )
        chosen = post.subsample(len(pixels), count, rng)
        return cls(scene, request, task, pixels[chosen], points[chosen])

    @cached_property
    def tsdf(self) -> Tensor | None:
        """The scene's TSDF [1, X, Y, Z] where it is an input."""
        if "tsdf" not in self.request.network_inputs:
            return None
        view = View(self.scene.depth, self.scene.intrinsics, self.scene.pose)
        return torch.as_tensor(item_points.tsdf_input(view, self.request, None))[None]

    def features(self, maps: np.ndarray) -> np.ndarray:
        """What points carry of maps [P, H, W]: [P, N, F], in the order patch_masks, saliency."""
        settings, inputs = self.request.settings, self.request.network_inputs
        values = maps.reshape(len(maps), -1)[:, self.pixels]
        values = item_points.raised(values, settings.saliency_vmin)
        scaled = values * np.float32(settings.relevancy_scale)
        parts: list[np.ndarray] = []
        if "patch_masks" in inputs:  # VOOL compares after the factor, OVSSC before, as released
            masks = (scaled if self.task == "vool" else values) > settings.patch_mask_cutoff
            parts.append(masks * 2 - 1 if settings.offset_patch_mask and self.task == "ovssc" else masks)
        if "saliency" in inputs or not parts:
            parts.append(scaled)
        return np.stack(parts, axis=-1).astype(np.float32)

    def colours(self) -> np.ndarray:
        """Their colours [1, N, 3] in [0, 1]."""
        return self.scene.rgb.reshape(-1, 3)[self.pixels][None].astype(np.float32) / 255


class Completion:
    """Logits of classes at points: the U-Net runs once for each class (once for all that share a volume)."""

    def __init__(
        self,
        network: Any,
        observed: Observed,
        relevancies: LabelMaps,
        runtime: Runtime,
        *,
        text_features: Tensor | None = None,
    ) -> None:
        """text_features [L, D] of the labels, for networks that point with them (semantic_aware)."""
        self.network, self.observed, self.relevancies, self.runtime = network, observed, relevancies, runtime
        self.text_features = text_features
        self.by_colour = "rgb" in observed.request.network_inputs
        self.passes = 0
        self._kept: tuple[int, Any] = (-1, None)

    def logits(self, index: int, points: np.ndarray) -> np.ndarray:
        """Logits [M] float32 of label `index` at points [M, 3]."""
        device = self.runtime.device
        with torch.inference_mode(), self.runtime.autocast():
            encoded = self._encoded(0 if self.by_colour else index)
            extra = {}
            if self.text_features is not None:
                extra["semantic_class_features"] = self.text_features[None, index : index + 1].to(device)

            def decode(block: Tensor) -> Tensor:
                found: Tensor = self.network.decode(encoded, output_xyz_pts=block[None, None], **extra)
                return found[0, 0]

            return post.decoded_in_blocks(decode, points, device=device)

    def _encoded(self, index: int) -> Any:
        if self._kept[0] != index:
            self._kept = (-1, None)  # frees the last one's volume first
            observed = self.observed
            features = (
                observed.colours()
                if self.by_colour
                else observed.features(self.relevancies.maps[index][None])
            )
            device = self.runtime.device
            found = self.network.encode(
                input_xyz_pts=torch.from_numpy(observed.points)[None].to(device),
                input_feature_pts=torch.from_numpy(features)[None].to(device),
                tsdf_vol=None if observed.tsdf is None else observed.tsdf.to(device),
            )
            self.passes += 1
            self._kept = (index, found)
        return self._kept[1]


def completed(completion: Completion, scene: Scene, *, side: int, cutoff: float = post.CUTOFF) -> np.ndarray:
    """The class of each point of a grid [side, side, side] int16; EMPTY where nothing is, unseen or carved away."""
    bounds = completion.observed.request.settings.bounds
    points = post.grid_points(bounds, side)
    filled = post.may_be_filled(points, scene.depth, scene.intrinsics, scene.pose, bounds, side)
    found = post.complete(
        completion.logits, len(completion.relevancies.labels), points, filled, cutoff=cutoff
    )
    return found.reshape(side, side, side)


@dataclass(frozen=True)
class Place:
    """Where a described object may be: points [K, 3] with the largest logits [K]."""

    description: Description
    points: np.ndarray
    logits: np.ndarray

    @property
    def title(self) -> str:
        """`the {target} {relation} the {reference}`."""
        target, relation, reference = self.description
        return f"the {target} {relation} the {reference}"


def described_labels(descriptions: Sequence[Description], *, sentences: bool) -> list[str]:
    """What relevancies are needed for: targets and references, or whole sentences (clip_spatial)."""
    if sentences:
        return [vocabulary.sentence(*words) for words in descriptions]
    return [name for target, _, reference in descriptions for name in (target, reference)]


def places(
    network: Any,
    observed: Observed,
    relevancies: LabelMaps,
    descriptions: Sequence[Description],
    runtime: Runtime,
    *,
    sentences: bool = False,
    text_features: dict[str, Tensor] | None = None,
    side: int = 240,
    margin: float = post.VOOL_MARGIN,
) -> Iterator[Place]:
    """The place of each description, over a grid of side^3 points; each different map is encoded once per few.

    relevancies: of `described_labels`. sentences: clip_spatial.
    text_features: of names, for semantic_aware.
    """
    points = post.grid_points(observed.request.settings.bounds, side)
    for start in range(0, len(descriptions), _AT_ONCE):
        some = descriptions[start : start + _AT_ONCE]
        with torch.inference_mode(), runtime.autocast():
            item = _vool_item(observed, relevancies, some, runtime, sentences, text_features)
            encoded = network.encode(**item)
            for index, description in enumerate(some):
                logits = _vool_logits(network, encoded, item, index, points, runtime)
                best = post.close_to_best(logits, margin=margin)
                yield Place(description, points[best], logits[best])


def _vool_item(
    observed: Observed,
    relevancies: LabelMaps,
    descriptions: Sequence[Description],
    runtime: Runtime,
    sentences: bool,
    text_features: dict[str, Tensor] | None,
) -> dict[str, Any]:
    targets, relations, references = (list(column) for column in zip(*descriptions, strict=True))
    named = {"target": targets, "reference": references}
    if sentences:
        named = {"description": [vocabulary.sentence(*words) for words in descriptions]}
    item: dict[str, Any] = {"input_xyz_pts": torch.from_numpy(observed.points)[None]}
    if "rgb" in observed.request.network_inputs:
        item["input_rgb_pts"] = torch.from_numpy(observed.colours())[None]
    else:
        for part, names in named.items():
            features = observed.features(relevancies.of(names))
            item[f"input_{part}_saliency_pts"] = torch.from_numpy(features)[None]
    if observed.tsdf is not None:
        item["tsdf_vol"] = observed.tsdf
    if text_features is not None:
        for part, names in (("target", targets), ("reference", references)):
            item[f"{part}_text_features"] = torch.stack([text_features[name] for name in names])[None]
    item = {name: value.to(runtime.device) for name, value in item.items()}
    return {
        **item,
        "spatial_relation_name": [relations],
        "target_obj_name": [targets],
        "reference_obj_name": [references],
    }


def _vool_logits(
    network: Any, encoded: Any, item: dict[str, Any], index: int, points: np.ndarray, runtime: Runtime
) -> np.ndarray:
    """Logits [M] of one of the descriptions of an item."""
    row = min(index, encoded.rows.shape[1] - 1)  # one volume for all where the network sees colours
    one = replace(encoded, rows=encoded.rows[:, row : row + 1])
    names = {
        name: [[item[name][0][index]]]
        for name in ("spatial_relation_name", "target_obj_name", "reference_obj_name")
    }
    texts = {
        name: item[name][:, index : index + 1]
        for name in ("target_text_features", "reference_text_features")
        if name in item
    }

    def decode(block: Tensor) -> Tensor:
        found: Tensor = network.decode(one, output_xyz_pts=block[None, None], **names, **texts)
        return found[0, 0]

    return post.decoded_in_blocks(decode, points, device=runtime.device)


def item_request(settings: dict[str, Any], approach: str) -> ItemRequest:
    """How a trained network's items are made, from the settings of its run."""
    model = settings.get("model", {})
    inputs = ["rgb"] if approach == "semantic_aware" else list(model.get("network_inputs", ["saliency"]))
    known = {
        name: value
        for name, value in settings.get("items", {}).items()
        if name in ItemSettings.__dataclass_fields__
    }
    return ItemRequest(
        ItemSettings(**known),
        network_inputs=inputs,
        voxel_shape=tuple(model.get("voxel_shape", (128, 128, 128))),
    )
