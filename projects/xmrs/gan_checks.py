"""Checks of the values of the GAN's settings, before anything is loaded or written."""

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError

COUNTS = (
    "optim.epochs",
    "optim.auto_drop_after_epochs",
    "optim.auto_drop_times",
    "validation.medr",
    "validation.every",
    "keep_every",
    "eval_batch_size",
    "log_every",
    "save_every",
)  # 1 or more
NOT_NEGATIVE = (
    "loss.kl",
    "loss.image_cycle",
    "loss.recipe_cycle",
    "optim.learning_rate",
    "optim.weight_decay",
    "optim.drop_generator_epoch",
    "optim.drop_discriminator_epoch",
)


def check_gan_training(settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for a value that no run can have."""
    for key in COUNTS:
        value = _look_up(settings, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key}: expected a whole number, at least 1, found {value!r}")
    for key in NOT_NEGATIVE:
        value = _look_up(settings, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InputError(f"{key}: expected a number, at least 0, found {value!r}")
    batch_size = settings["optim"]["batch_size"]
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 2:
        raise InputError(f"optim.batch_size: batch norm needs at least 2 recipes, found {batch_size!r}")
    if not isinstance(settings["optim"]["auto_drop"], bool):
        raise InputError(f"optim.auto_drop: expected true or false, found {settings['optim']['auto_drop']!r}")
    classes = settings["num_classes"]
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
        raise InputError(f"num_classes: expected null or a whole number, at least 2, found {classes!r}")
    if settings["runtime"]["precision"] == "fp16":
        raise InputError("runtime.precision: the GAN trains in fp32 or bf16, found fp16")


def _look_up(settings: Mapping[str, Any], key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node
