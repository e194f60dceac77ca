"""Checks of the training settings' values, before anything is loaded or written."""

import math
from collections.abc import Mapping
from typing import Any

from projects.babel import baseline, classifiers, head
from projects.babel.classification_losses import KINDS
from projects.babel.concepts import check_concepts
from projects.babel.matches import check_kind
from projects.babel.optim import KINDS as OPTIMIZERS
from shared.errors import InputError

COUNTS = ("optim.epochs", "optim.batch_size", "validation.every", "log_every", "save_every")  # 1 or more
NATURAL = ("seed", "optim.pretrain", "data.picture_cache")  # 0 or more
OR_NULL = ("loss.correspondence.until_epoch", "snapshots", "data.max_items")  # the same, or null
NOT_NEGATIVE = (
    "optim.lr",
    "optim.weight_decay",
    "loss.mask_weight",
    "loss.correspondence.weight",
    "loss.correspondence.margin",
)
LAYERS = {"ae": head.LAYERS, "bsl": baseline.LAYERS, "cls": (classifiers.FEATURE,)}
FLAGS = ("optim.inclusive_epochs", "validation.initial", "validation.random_crops", "sync_batchnorm")


def check_training(settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for a value that no run can have."""
    for key in COUNTS:
        _check(
            key,
            _is_whole(found := look_up(settings, key)) and found >= 1,
            "a whole number, at least 1",
            found,
        )
    for key in (*NATURAL, *OR_NULL):
        found = look_up(settings, key)
        fits = (_is_whole(found) and found >= 0) or (key in OR_NULL and found is None)
        _check(key, fits, "a whole number, at least 0" + ", or null" * (key in OR_NULL), found)
    for key in NOT_NEGATIVE:
        found = look_up(settings, key)
        _check(key, _is_number(found) and found >= 0, "a number, at least 0", found)
    for key in FLAGS:
        found = look_up(settings, key)
        _check(key, isinstance(found, bool), "true or false", found)
    _check_optim(settings["optim"])
    _check_loss(settings["loss"], settings["model"])
    check_concepts(settings["data"]["concepts"])
    if settings["resume_from"] and settings["init_from"]:
        raise InputError("resume_from and init_from: expected one of them, found both")


def look_up(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node


def _check_optim(optim: Mapping[str, Any]) -> None:
    _check("optim.kind", optim["kind"] in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}", optim["kind"])
    found = optim["milestones"]
    fits = isinstance(found, list) and all(_is_whole(epoch) and epoch >= 0 for epoch in found)
    _check("optim.milestones", fits, "a list of epochs, e.g. [20, 25]", found)
    betas = optim["betas"]
    fits = isinstance(betas, list) and len(betas) == 2 and all(_is_number(b) and 0 <= b < 1 for b in betas)
    _check("optim.betas", fits, "two numbers from 0 to below 1", betas)
    momentum = optim["momentum"]
    _check(
        "optim.momentum", _is_number(momentum) and 0 <= momentum < 1, "a number from 0 to below 1", momentum
    )


def _check_loss(loss: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    kind = loss["classification"]
    _check("loss.classification", kind in KINDS, f"one of {', '.join(KINDS)}", kind)
    matching = loss["correspondence"]
    check_kind(matching["kind"])
    tau, negatives, layer = matching["tau"], matching["negatives"], matching["layer"]
    _check("loss.correspondence.tau", _is_number(tau) and tau > 0, "a number above 0", tau)
    fits = _is_whole(negatives) and negatives >= 2
    _check("loss.correspondence.negatives", fits, "a whole number, at least 2", negatives)
    layers = LAYERS.get(model["kind"], ())
    if matching["weight"] > 0 and layers:
        _check("loss.correspondence.layer", layer in layers, f"one of {', '.join(layers)}", layer)


def _check(key: str, fits: bool, expected: str, found: Any) -> None:
    if not fits:
        raise InputError(f"{key}: expected {expected}, found {found!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
