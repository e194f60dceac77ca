"""What single settings must be: one line for the user where a value cannot be meant, before anything is loaded."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from shared.errors import InputError


def expect(key: str, fits: bool, expected: str, found: Any) -> None:
    """InputError with the setting's name unless it fits."""
    if not fits:
        raise InputError(f"{key}: expected {expected}, found {found!r}")


def expect_one_of(settings: Mapping[str, Any], key: str, options: tuple[str, ...]) -> None:
    """InputError unless the setting is one of these words."""
    found = look_up(settings, key)
    expect(key, found in options, f"one of {', '.join(options)}", found)


def expect_flag(settings: Mapping[str, Any], *keys: str) -> None:
    """InputError unless the settings of these (dotted) keys are true or false."""
    for key in keys:
        found = look_up(settings, key)
        expect(key, isinstance(found, bool), "true or false", found)


def expect_whole(settings: Mapping[str, Any], *keys: str, least: int = 0, or_null: bool = False) -> None:
    """InputError unless the settings of these (dotted) keys are whole numbers of at least `least`."""
    for key in keys:
        found = look_up(settings, key)
        fits = (is_whole(found) and found >= least) or (or_null and found is None)
        expect(key, fits, f"a whole number, at least {least}" + ", or null" * or_null, found)


def expect_not_negative(settings: Mapping[str, Any], *keys: str) -> None:
    """InputError unless the settings of these (dotted) keys are finite numbers of at least 0."""
    for key in keys:
        found = look_up(settings, key)
        expect(key, is_number(found) and found >= 0, "a number, at least 0", found)


def expect_positive(settings: Mapping[str, Any], *keys: str, or_null: bool = False) -> None:
    """InputError unless the settings of these (dotted) keys are finite numbers above 0."""
    for key in keys:
        found = look_up(settings, key)
        fits = (is_number(found) and found > 0) or (or_null and found is None)
        expect(key, fits, "a number above 0" + ", or null" * or_null, found)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are(values: Any, kind: Callable[[Any], bool]) -> bool:
    """Whether it is a list of nothing but such values."""
    return isinstance(values, list | tuple) and all(map(kind, values))


def look_up(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node
