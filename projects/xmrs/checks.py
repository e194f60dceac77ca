"""Checks of the training settings' values, before anything is loaded or written."""

from collections.abc import Mapping
from typing import Any

from projects.xmrs.text_draws import parse_augmentation, parse_parts
from shared.errors import InputError

COUNTS = (
    "optim.epochs",
    "optim.batch_size",
    "validation.medr",
    "validation.every",
    "log_every",
    "save_every",
)  # 1 or more
NOT_NEGATIVE = ("loss.margin", "optim.learning_rate", "optim.weight_decay")
EPOCHS = ("optim.warmup", "optim.decay_lr")  # lists of epochs, counted from 1


def check_training(settings: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for a value that no run can have."""
    for key in COUNTS:
        value = _look_up(settings, key)
        if not _is_whole(value) or value < 1:
            raise InputError(f"{key}: expected a whole number, at least 1, found {value!r}")
    for key in NOT_NEGATIVE:
        value = _look_up(settings, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise InputError(f"{key}: expected a number, at least 0, found {value!r}")
    for key in EPOCHS:
        value = _look_up(settings, key)
        if not isinstance(value, list) or not all(_is_whole(epoch) and epoch >= 1 for epoch in value):
            raise InputError(f"{key}: expected a list of epochs from 1 on, e.g. [1], found {value!r}")
    seed, query = settings["seed"], settings["validation"]["query"]
    if not _is_whole(seed) or seed < 0:
        raise InputError(f"seed: expected a whole number, at least 0, found {seed!r}")
    if query not in ("image", "recipe"):
        raise InputError(f"validation.query: expected image or recipe, found {query!r}")
    if settings["optim"]["batch_size"] < 2:
        raise InputError(
            "optim.batch_size: expected at least 2, found 1: a pair needs another as its negative"
        )
    if settings["resume_from"] and settings["init_from"]:
        raise InputError("resume_from and init_from: expected one of them, found both")
    parse_parts(settings["data"]["text_inputs"])
    parse_augmentation(settings["data"]["text_augmentation"])
    tokens, positions = settings["data"]["max_tokens"], settings["model"]["text"]["max_tokens"]
    if settings["model"]["text"]["kind"] == "transformer" and tokens > positions:
        raise InputError(
            f"data.max_tokens: expected at most model.text.max_tokens = {positions}, found {tokens}"
        )


def check_split_sizes(sizes: Mapping[str, int], medr: int) -> None:
    """Raise InputError for a split with fewer pairs than the subsets that are drawn from it."""
    for name, size in sizes.items():
        if size < medr:
            raise InputError(
                f"validation.medr: subsets of {medr} pairs asked for, but the split {name} has {size}"
            )


def vocabulary_size(wanted: int | None, entries: int) -> int:
    """Rows of the word table: as many as wanted, else one for each entry of the set's vocabulary.

    Raises:
        InputError: fewer rows than entries.
    """
    if wanted is not None and (not _is_whole(wanted) or wanted < entries):
        raise InputError(
            f"model.text.vocab_size: expected null or at least {entries}, the vocabulary's entries, found {wanted!r}"
        )
    return entries if wanted is None else wanted


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _look_up(settings: Mapping[str, Any], key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node
