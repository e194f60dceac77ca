"""The vocabulary tool, run as a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects.vseinfty import vocabulary
from shared.files import read_json
from tests.vseinfty.sets import write_captions

PROJECT = Path(__file__).parents[2] / "projects" / "vseinfty"


def build(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "build_vocab.py"), f"hydra.run.dir={tmp_path / 'run'}", *overrides],
        env={**os.environ, "WORDSIGHT_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "f30k" / "precomp"
    folder.mkdir(parents=True)
    write_captions(
        folder, "train", ["Two Dogs run.", "two cats, two dogs", "", "Dogs and cats . a tree", "dogs run"]
    )
    write_captions(folder, "dev", ["a tree", "cats run", "cats run far", "the sea", "the sea"])
    return folder


def test_build_from_train_and_dev(tmp_path: Path, captions: Path) -> None:
    done = build(tmp_path, "data=f30k", "min_count=3")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "data" / "vocab" / "f30k_precomp_vocab.json"
    assert done.stdout.startswith(f"{path}: 8 words of 10 captions (train, dev)")
    assert vocabulary.read(path).words == [*vocabulary.SPECIAL_WORDS, "two", "dogs", "run", "cats", "<mask>"]
    assert read_json(path)["idx"] == 8

    other = build(tmp_path, "data=f30k", "min_count=2")
    assert other.returncode == 2
    error = other.stderr.splitlines()[-1]  # before it: which sentence splitter is used
    assert error.startswith(f"error: {path}: holds another vocabulary than the 13 words")
    assert read_json(path)["idx"] == 8

    forced = build(tmp_path, "data=f30k", "min_count=2", "overwrite=true")
    assert forced.returncode == 0, forced.stderr
    assert vocabulary.read(path).words[4:-1] == ["two", "dogs", "run", ".", "cats", "a", "tree", "the", "sea"]


def test_embedded_vocabulary_is_what_the_tool_builds(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is already this vocabulary" in done.stdout


def test_missing_captions(tmp_path: Path, captions: Path) -> None:
    (captions / "dev_caps.txt").unlink()
    done = build(tmp_path, "data=f30k")
    assert done.returncode == 2
    assert done.stderr == f"error: {captions / 'dev_caps.txt'}: no such captions file\n"
    assert not (tmp_path / "data" / "vocab").exists()
