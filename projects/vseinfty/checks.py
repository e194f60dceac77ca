"""Checks of the training settings' values, before anything is loaded or written."""

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError

COUNTS = ("optim.epochs", "optim.batch_size", "eval_batch_size", "log_every", "save_every")  # 1 or more
OPTIONAL_COUNTS = ("micro_batch",)  # the same, or null
NOT_NEGATIVE = (
    "loss.margin",
    "loss.vse_mean_warmup_epochs",
    "optim.learning_rate",
    "optim.lr_update",
    "optim.backbone_lr_factor",
    "optim.gpo_lr_factor",
    "optim.embedding_warmup_epochs",
    "optim.backbone_warmup_epochs",
)


def check_training(settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for a number that no run can have."""
    for key in (*COUNTS, *OPTIONAL_COUNTS):
        value = _look_up(settings, key)
        if value is None and key in OPTIONAL_COUNTS:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key}: expected a whole number, at least 1, found {value!r}")
    for key in NOT_NEGATIVE:
        value = _look_up(settings, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise InputError(f"{key}: expected a number, at least 0, found {value!r}")
    seed = settings["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: expected a whole number, at least 0, found {seed!r}")
    if settings["sync_batchnorm"] and settings["micro_batch"]:
        raise InputError("sync_batchnorm: needs the whole batch in one pass; set micro_batch=null")


def _look_up(settings: Mapping[str, Any], key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node
