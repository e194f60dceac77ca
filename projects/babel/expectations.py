"""What single settings must be: one line for the user where a value cannot be meant, before anything is loaded."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import InputError


def expect(key: str, fits: bool, expected: str, found: Any) -> None:
    """InputError with the setting's name unless it fits."""
    if not fits:
        raise InputError(f"{key}: expected {expected}, found {found!r}")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are(values: Any, kind: Callable[[Any], bool]) -> bool:
    """Whether it is a list of nothing but such values."""
    return isinstance(values, list | tuple) and all(map(kind, values))


def expect_whole(settings: Mapping[str, Any], *keys: str, least: int = 0, or_null: bool = False) -> None:
    """InputError unless the settings of these (dotted) keys are whole numbers of at least `least`."""
    for key in keys:
        found = look_up(settings, key)
        fits = (is_whole(found) and found >= least) or (or_null and found is None)
        expect(key, fits, f"a whole number, at least {least}" + ", or null" * or_null, found)


def expect_share(settings: Mapping[str, Any], *keys: str, below_one: bool = False) -> None:
    """InputError unless the settings of these (dotted) keys are from 0 to 1 (`below_one`: without the 1)."""
    for key in keys:
        found = look_up(settings, key)
        fits = is_number(found) and 0 <= found <= 1 and not (below_one and found == 1)
        expect(key, fits, "a number from 0 to below 1" if below_one else "a number from 0 to 1", found)


def expect_positive(key: str, found: Any) -> None:
    """InputError unless it is a number above 0."""
    expect(key, is_number(found) and found > 0, "a positive number", found)


def listed(given: Any) -> list[Any]:
    """A list as it is; a single value (`lists=val` on the command line) as a list of one."""
    return list(given) if isinstance(given, list | tuple) else [given]


def paths(given: Any) -> list[Path]:
    """The paths of a setting, one or several; a name of digits comes from the command line as a number."""
    return [Path(str(one)).expanduser() for one in listed(given)]


def look_up(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    node: Any = settings
    for part in key.split("."):
        node = node[part]
    return node
