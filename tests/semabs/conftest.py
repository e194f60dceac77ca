"""Fixtures of the tests of semabs."""

from pathlib import Path

import pytest

from projects.semabs import mini
from tests.semabs.tiny_rooms import with_relevancies

MINI_SIZES = {
    "train_rooms": 4,
    "val_rooms": 2,
    "test_rooms": 4,
    "hiding": 0.5,
    "image_size": 56,
    "points": 4096,
    "tsdf_voxels": 16,
}


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedded set: 4 train, 2 val, 4 test rooms (half as many more for VOOL), 56 pixels. Not to be changed."""
    return mini.make(tmp_path_factory.mktemp("semabs") / "mini-rooms", **MINI_SIZES)


@pytest.fixture(scope="session")
def rooms_root(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with made-up relevancies (see tiny_rooms.py; no CLIP). Not to be changed."""
    return with_relevancies(mini_root, tmp_path_factory.mktemp("semabs") / "rooms")
