"""Checks of the training settings' values, before anything is loaded or written."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from projects.semabs import item_settings, sampling
from projects.semabs.expectations import (
    are,
    expect,
    expect_flag,
    expect_not_negative,
    expect_one_of,
    expect_positive,
    expect_whole,
    is_number,
    is_whole,
    look_up,
)
from projects.semabs.losses import REDUCTIONS
from projects.semabs.optim import KINDS as OPTIMIZERS
from projects.semabs.scene_arrays import CONFIGS
from projects.semabs.schedule import KINDS as SCHEDULES
from shared.errors import InputError

APPROACHES = {
    "ovssc": ("semantic_abstraction", "semantic_aware"),
    "vool": ("semantic_abstraction", "semantic_aware", "clip_spatial"),
}
COUNTS = ("items.num_patches", "items.num_descs", "items.num_input_pts", "items.num_output_pts")
POSITIVE = ("optim.epochs", "optim.batch_size", "log_every", "save_every", "snapshots.every")  # 1 or more
NATURAL = ("seed", "optim.warmup", "validation.every", "data.augmentations")  # 0 or more
OR_NULL = ("workers", "snapshots.keep", "data.max_items")  # 0 or more, or null
FLAGS = (
    "loss.balance_positive_negative",
    "items.subtract_mean_relevancy",
    "items.offset_patch_mask",
    "items.balance_spatial_sampling",
    "items.balance_spatial_relations",
    "items.always_replace_subsample_pts",
    "items.check_upright",
    "items.all_synonyms",
    "items.synonym_sentences",
    "items.moved_frustum",
    "items.scaled_masks",
    "items.domain_randomization",
)
NOT_NEGATIVE = (
    "optim.weight_decay",
    "items.xyz_pts_noise",
    "items.dr_pos",
    "items.dr_orn",
    "items.dr_scale",
)


def check_training(task: str, settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for a value that no run of this task (ovssc, vool) can have."""
    expect_whole(settings, *POSITIVE, least=1)
    expect_whole(settings, *NATURAL)
    expect_whole(settings, *OR_NULL, or_null=True)
    expect_whole(settings, "optim.steps", "optim.schedule_batch", least=1, or_null=True)
    expect_flag(settings, *(flag for flag in FLAGS if not flag.startswith("items.")))
    expect_not_negative(settings, "optim.weight_decay")
    expect_positive(settings, "optim.lr")
    expect_positive(settings, "optim.clip", or_null=True)
    expect_one_of(settings, "optim.kind", OPTIMIZERS)
    expect_one_of(settings, "optim.schedule", SCHEDULES)
    expect_one_of(settings, "loss.mean_over", REDUCTIONS)
    expect_one_of(settings, "model.approach", APPROACHES[task])
    check_items(settings)
    _check_inputs(settings)
    _check_shapes(settings)
    cutoffs(settings["validation"]["cutoffs"], "validation.cutoffs")
    if settings["resume_from"] and settings["init_from"]:
        raise InputError("resume_from and init_from: expected one of them, found both")


def check_items(settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for an unknown key of the section `items` or a value that it cannot have."""
    known = [field.name for field in dataclasses.fields(item_settings.ItemSettings)]
    for name in settings["items"]:
        if name not in known:
            raise InputError(f"items.{name}: no such setting; there are {', '.join(known)}")
    expect_whole(settings, *COUNTS, least=1)
    expect_flag(settings, *(flag for flag in FLAGS if flag.startswith("items.")))
    expect_not_negative(settings, *(name for name in NOT_NEGATIVE if name.startswith("items.")))
    expect_positive(settings, "items.relevancy_scale")
    points = look_up(settings, "items.eval_input_pts")
    fits = is_whole(points) and (points == -1 or points >= 1)
    expect("items.eval_input_pts", fits, "a whole number, at least 1, or -1 for all", points)
    expect_one_of(settings, "items.saliency_config", CONFIGS)
    expect_one_of(settings, "items.augmentation", item_settings.AUGMENTATIONS)
    expect_one_of(settings, "items.mean_of", item_settings.MEANS)
    expect_one_of(settings, "items.sampling", sampling.METHODS)
    bounds = look_up(settings, "items.scene_bounds")
    fits = are(bounds, lambda row: are(row, is_number) and len(row) == 3) and len(bounds) == 2
    fits = fits and all(low < high for low, high in zip(*bounds, strict=True))
    expect("items.scene_bounds", fits, "two corners, e.g. [[-1,-1,-0.1],[1,1,1.9]]", bounds)


def cutoffs(given: Mapping[str, Any], key: str = "cutoffs") -> list[float]:
    """The cutoffs of a {start, stop, step}, as numpy.arange makes them; InputError when there are none."""
    numbers = {name: given[name] for name in ("start", "stop", "step")}
    for name, found in numbers.items():
        expect(f"{key}.{name}", is_number(found), "a number", found)
    expect(f"{key}.step", numbers["step"] > 0, "a number above 0", numbers["step"])
    found = np.arange(numbers["start"], numbers["stop"], numbers["step"]).tolist()
    expect(f"{key}.stop", len(found) > 0, f"a number above {key}.start", numbers["stop"])
    return [float(value) for value in found]


def _check_inputs(settings: Mapping[str, Any]) -> None:
    found = settings["model"]["network_inputs"]
    fits = isinstance(found, list) and len(found) > 0 and set(found) <= set(item_settings.INPUTS)
    expect("model.network_inputs", fits, f"a list of {', '.join(item_settings.INPUTS)}", found)


def _check_shapes(settings: Mapping[str, Any]) -> None:
    shape = look_up(settings, "model.voxel_shape")
    fits = are(shape, is_whole) and len(shape) == 3 and min(shape) >= 2
    expect("model.voxel_shape", fits, "three whole numbers, e.g. [128,128,128]", shape)
