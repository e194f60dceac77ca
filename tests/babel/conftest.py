"""Fixtures of the tests of babel."""

from pathlib import Path

import pytest

from projects.babel import mini

MINI_SIZES = {"train": 3, "dev": 1, "test": 1, "views": 8, "side": 64, "points": 600}


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedded set: 3 train landmarks, 1 dev, 1 test, 8 photos each of at most 64 pixels. Not to be changed."""
    return mini.make(tmp_path_factory.mktemp("babel") / "mini", **MINI_SIZES)
