"""What `scripts/bench.py` measures: ways of doing the same thing, side by side, and the ratio aimed at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Sides = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Target:
    """`side` should be at least `ratio` times as fast as `than`; 1 / 1.3 = at most 1.3 times slower; None: is
    shown.
    """

    side: str
    than: str
    ratio: float | None = None


@dataclass(frozen=True)
class Case:
    """One comparison.

    `make(quick)` builds the inputs and returns the sides: names and functions without arguments that do the
    whole work (`quick`: tiny inputs, for a test of the bench itself). `check` gets each side's output and
    raises AssertionError where they disagree; it returns a short remark on what agreed. `memory_limit`: bytes
    that the whole process of a side may have resident; `memory` measures peaks without a limit.
    """

    name: str
    about: str
    make: Callable[[bool], Sides]
    check: Callable[[Mapping[str, Any]], str]
    targets: tuple[Target, ...] = ()
    memory: bool = False
    memory_limit: Mapping[str, int] = field(default_factory=dict)
