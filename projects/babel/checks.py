"""Checks of the training settings' values, before anything is loaded or written."""

from collections.abc import Mapping
from typing import Any

from projects.babel import baseline, classifiers, head
from projects.babel.classification_losses import KINDS
from projects.babel.concepts import check_concepts
from projects.babel.expectations import are, expect, expect_share, expect_whole, is_number, is_whole, look_up
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
    expect_whole(settings, *COUNTS, least=1)
    expect_whole(settings, *NATURAL)
    expect_whole(settings, *OR_NULL, or_null=True)
    for key in NOT_NEGATIVE:
        found = look_up(settings, key)
        expect(key, is_number(found) and found >= 0, "a number, at least 0", found)
    for key in FLAGS:
        found = look_up(settings, key)
        expect(key, isinstance(found, bool), "true or false", found)
    expect_whole(settings, "workers", or_null=True)
    _check_data(settings)
    _check_model(settings)
    _check_optim(settings["optim"])
    _check_loss(settings["loss"], settings["model"])
    check_concepts(settings["data"]["concepts"])
    if settings["resume_from"] and settings["init_from"]:
        raise InputError("resume_from and init_from: expected one of them, found both")


def _check_data(settings: Mapping[str, Any]) -> None:
    expect_whole(settings, "data.size", least=16)
    expect_whole(settings, "data.graph_threshold", least=1)
    expect_share(
        settings, "data.scale_from", "data.scale_to", "data.mirrored", "data.coloured", "data.labelled"
    )


def _check_model(settings: Mapping[str, Any]) -> None:
    expect_whole(settings, "model.width", "model.head_width", "model.skip_width", least=1)
    expect_whole(settings, "model.output_stride", least=1, or_null=True)
    expect_share(settings, "model.dropout", "model.last_dropout", "model.gate_alpha", below_one=True)
    for key in ("model.focal_p", "model.focal_lambda", "model.bg_score"):
        expect(key, is_number(found := look_up(settings, key)), "a number", found)
    expect_whole(settings, "model.pamr.iterations")
    for key in ("model.dilations", "model.pamr.dilations"):
        found = look_up(settings, key)
        fits = are(found, is_whole) and len(found) > 0 and min(found) >= 1
        expect(key, fits, "a list of distances, e.g. [1,12,24,36]", found)


def _check_optim(optim: Mapping[str, Any]) -> None:
    expect("optim.kind", optim["kind"] in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}", optim["kind"])
    found = optim["milestones"]
    fits = isinstance(found, list) and all(is_whole(epoch) and epoch >= 0 for epoch in found)
    expect("optim.milestones", fits, "a list of epochs, e.g. [20, 25]", found)
    betas = optim["betas"]
    fits = isinstance(betas, list) and len(betas) == 2 and all(is_number(b) and 0 <= b < 1 for b in betas)
    expect("optim.betas", fits, "two numbers from 0 to below 1", betas)
    momentum = optim["momentum"]
    expect(
        "optim.momentum", is_number(momentum) and 0 <= momentum < 1, "a number from 0 to below 1", momentum
    )


def _check_loss(loss: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    kind = loss["classification"]
    expect("loss.classification", kind in KINDS, f"one of {', '.join(KINDS)}", kind)
    matching = loss["correspondence"]
    check_kind(matching["kind"])
    tau, negatives, layer = matching["tau"], matching["negatives"], matching["layer"]
    expect("loss.correspondence.tau", is_number(tau) and tau > 0, "a number above 0", tau)
    fits = is_whole(negatives) and negatives >= 2
    expect("loss.correspondence.negatives", fits, "a whole number, at least 2", negatives)
    layers = LAYERS.get(model["kind"], ())
    if matching["weight"] > 0 and layers:
        expect("loss.correspondence.layer", layer in layers, f"one of {', '.join(layers)}", layer)
