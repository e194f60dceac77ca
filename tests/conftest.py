"""Fixtures of the whole test suite."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# A shell ignores Ctrl-C for what it starts in the background, and processes inherit that: those that the tests
# start and interrupt must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def author_data() -> Callable[[str], Path]:
    """`author_data("paper/file")`: a real file that the authors publish, kept beside the checkout; skips without it."""

    def find(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"the authors' file {name} is not beside this checkout (../shared/data)")
        return path

    return find
