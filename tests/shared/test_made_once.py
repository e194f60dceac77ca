"""Data sets made on first use: once, whole or not at all, never over something else."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shared.errors import InputError
from shared.files import read_json
from shared.made_once import MARKER, make_once

DEFAULTS = {"seed": 0, "size": 3}


def write(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "data").write_text("x" * settings["size"])


def make(root: Path, **asked: Any) -> Path:
    return make_once(root, {"format": 1, "seed": None, "size": None, **asked}, DEFAULTS, write)


def test_it_is_made_once_with_defaults_for_what_is_not_asked(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "set"
    root.mkdir(parents=True)  # empty: as if it were not there
    assert make(root, size=5) == root
    assert (root / "sub" / "data").read_text() == "xxxxx"
    assert read_json(root / MARKER) == {"format": 1, "seed": 0, "size": 5}
    assert root.stat().st_mode & 0o777 == 0o755
    before = (root / MARKER).stat().st_mtime_ns
    assert make(root) == make(root, seed=0, size=5) == root
    assert (root / MARKER).stat().st_mtime_ns == before
    assert os.listdir(tmp_path / "deep") == ["set"]


def test_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    with pytest.raises(
        InputError, match=r"mini\.json: made with other settings \(size is 3, expected 4\); remove"
    ):
        make(root, size=4)
    with pytest.raises(InputError, match="format is 1, expected 2"):
        make(root, format=2)
    (root / MARKER).unlink()
    with pytest.raises(InputError, match=r"found no mini\.json"):
        make(root)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"found no mini\.json"):
        make(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path, settings: dict[str, Any]) -> None:
        write(folder, settings)
        raise OSError(28, "No space left")

    with pytest.raises(OSError, match="No space"):
        make_once(tmp_path / "set", {"size": 1}, {}, fail)
    assert not list(tmp_path.iterdir())


def killed_half_way(folder: Path, settings: dict[str, Any]) -> None:
    write(folder, settings)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_leaves_no_half_set(tmp_path: Path) -> None:
    root = tmp_path / "set"
    child = multiprocessing.get_context("fork").Process(
        target=make_once, args=(root, {"size": 1}, {}, killed_half_way)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not root.exists()
    assert make(root, size=2) == root


def test_the_loser_of_a_race_takes_the_winners(tmp_path: Path) -> None:
    root = tmp_path / "set"

    def overtaken(folder: Path, settings: dict[str, Any]) -> None:
        write(folder, settings)
        make(root)

    asked = {"format": 1, "seed": None, "size": None}
    assert make_once(root, asked, DEFAULTS, overtaken) == root
    assert os.listdir(tmp_path) == ["set"]
    other = tmp_path / "other"

    def overtaken_by_another(folder: Path, settings: dict[str, Any]) -> None:
        make(other, size=9)

    with pytest.raises(InputError, match="size is 9, expected 1"):
        make_once(other, {"size": 1}, {}, overtaken_by_another)
