"""Splits as batches: which scenes, what items of them, and their draws, which depend on seed, epoch and scene only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.semabs import geometry, ovssc_items, splits, vool_items
from projects.semabs.item_points import Item, ItemRequest
from projects.semabs.item_settings import INPUTS, TASKS, ItemSettings
from projects.semabs.scene_arrays import NOT_AN_OBJECT
from projects.semabs.scene_file import SceneFile
from shared.data import BatchPlan, item_generator
from shared.errors import InputError

Batch = dict[str, Any]
_MAKERS = {"ovssc": ovssc_items.make_item, "vool": vool_items.make_item}


@dataclass(frozen=True)
class Split:
    """The scenes of a split; batches by plans of `shared.data` (`load(split.fetch_train, plans)`)."""

    name: str
    task: str
    paths: tuple[Path, ...]
    settings: ItemSettings
    network_inputs: tuple[str, ...]
    voxel_shape: tuple[int, int, int]
    seed: int

    def __len__(self) -> int:
        return len(self.paths)

    def fetch_train(self, plan: BatchPlan) -> Batch:
        """B training items, padded and drawn alike, as one batch; names as lists [B][P]."""
        request = self.request(train=True)
        return collate([self._item(int(index), request, plan.epoch) for index in plan.indices])

    def fetch_eval(self, plan: BatchPlan) -> Batch:
        """Whole scenes as a batch; of equal numbers of labels and points, so usually one at a time."""
        request = self.request(train=False)
        return collate([self._item(int(index), request, 0) for index in plan.indices])

    def item(self, index: int, *, visuals: bool = False) -> Item:
        """One whole scene, without a batch's dimension."""
        return self._item(index, self.request(train=False, visuals=visuals), 0)

    def request(self, *, train: bool, visuals: bool = False) -> ItemRequest:
        """What this split asks of a scene."""
        return ItemRequest(
            settings=self.settings,
            train=train,
            image="domain_randomized_rgb" if splits.uses_randomized_images(self.name) else "rgb",
            synonyms=splits.uses_synonyms(self.name),
            network_inputs=self.network_inputs,
            voxel_shape=self.voxel_shape,
            visuals=visuals,
        )

    def _item(self, index: int, request: ItemRequest, epoch: int) -> Item:
        with SceneFile(self.paths[index]) as scene:
            return _MAKERS[self.task](scene, request, item_generator(self.seed, epoch, index))


def open_split(
    *,
    root: str | Path,
    split: str,
    task: str,
    items: Mapping[str, Any] | ItemSettings,
    splits_file: str | Path | None = None,
    network_inputs: Sequence[str] = ("saliency",),
    voxel_shape: Sequence[int] = (128, 128, 128),
    seed: int = 0,
    max_items: int | None = None,
) -> Split:
    """The scenes of a split of a task, "ovssc" or "vool".

    Args:
        root: folder that the names in the split file start from.
        split: its name; one that ends with _dr shows domain-randomised pictures, one with "synonyms" in its name
            calls classes by their synonyms.
        task: ovssc or vool.
        items: settings of the items (keyword arguments of ItemSettings).
        splits_file: the pickle of splits; the task's file in `root` by default.
        network_inputs: what the network sees, of patch_masks, saliency, rgb, tsdf.
        voxel_shape: of the TSDF, where it is an input.
        seed: of all draws.
        max_items: only the first so many scenes.

    Raises:
        InputError: no such split, scene files that are not there, an unknown input, a first scene with z down.
    """
    if task not in TASKS:
        raise InputError(f"task: expected one of {', '.join(TASKS)}, found {task!r}")
    unknown = [name for name in network_inputs if name not in INPUTS]
    if unknown or not set(network_inputs) & {"patch_masks", "saliency", "rgb"}:
        raise InputError(
            f"network_inputs: expected some of {', '.join(INPUTS)}, found {list(network_inputs)}"
        )
    settings = items if isinstance(items, ItemSettings) else ItemSettings(**items)
    paths = splits.scene_paths(root, task, split, splits_file)[:max_items]
    if paths and settings.check_upright:
        _check_upright(paths[0])
    x, y, z = (int(count) for count in voxel_shape)
    return Split(split, task, tuple(paths), settings, tuple(network_inputs), (x, y, z), seed)


def _check_upright(path: Path) -> None:
    with SceneFile(path) as scene:
        names = scene.classes
        if "floor" not in names.values():
            return
        points, ids = scene.points(), scene.object_ids()
    floor = np.isin(ids, [number for number, name in names.items() if name == "floor"])
    nothing = np.isin(ids, [number for number, name in names.items() if name in NOT_AN_OBJECT])
    geometry.check_upright(points, floor, ~floor & ~nothing, str(path))


def collate(items: Sequence[Item]) -> Batch:
    """Items of equal shapes as a batch: tensors [B, ...], texts [B], lists of texts [B][P].

    One item alone stays a view of its arrays (in evaluation all labels share their query points). InputError where
    shapes differ.
    """
    batch: Batch = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if not isinstance(first, Tensor):
            batch[name] = values
        elif len(items) == 1:
            batch[name] = first.unsqueeze(0)
        else:
            shapes = {tuple(value.shape) for value in values}
            if len(shapes) > 1:
                scenes = ", ".join(str(item["scene_id"]) for item in items)
                raise InputError(
                    f"{name}: scenes {scenes} differ in shape {sorted(shapes)}: use batches of one"
                )
            batch[name] = torch.stack(values)
    return batch
