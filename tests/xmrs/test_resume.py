"""A killed run continues with the same command to the same result, bit for bit (real SIGKILL, real processes)."""

import signal
import sys
from pathlib import Path

import pytest

from tests.shared.runs import KILL_DRIVER, kill_after_lines
from tests.xmrs.sets import make_set
from tests.xmrs.training_runs import (
    TRAIN,
    assert_same_run,
    metrics,
    settings,
    train,
    trained,
)

VALIDATE = "projects.xmrs.retrieval:rank"  # a point between the encodings and the metrics of a validation
LOWEST = "projects.xmrs.run_state:Saved._name_lowest_medr"  # before lowest_medr.pt may get its name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photo of the training split cannot be read: its warning must be counted once, whatever is killed."""
    from projects.xmrs.data import open_split

    made = make_set(tmp_path_factory.mktemp("set") / "tiny")
    split = open_split(image_root=made / "images", data_root=made / "loader_data", split="train")
    photo = split.picture(0)
    assert photo is not None
    photo.write_bytes(b"not an image")
    return made


@pytest.fixture(scope="module")
def uninterrupted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "whole", *settings(root))


def kill_at(run_dir: Path, overrides: list[str], point: str, count: int) -> None:
    """Start or continue the run and let it die at a point (see kill_driver.py)."""
    finished = train(run_dir, *overrides, script=KILL_DRIVER, arguments=(str(TRAIN), point, str(count)))
    assert finished.returncode == -signal.SIGKILL, (point, count, finished.stderr[-2000:])
    assert not (run_dir / "results.json").exists()


# 2 epochs of 5 steps, a checkpoint every 2 steps and after each epoch. Each list is one run, killed again and again.
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([("step", 1), ("step", 3), ("scalars", 2), ("step", 4)], id="after steps"),
        pytest.param([(VALIDATE, 1), (VALIDATE, 2)], id="in validation"),
        pytest.param([("write", 1), ("write", 2), ("fsync", 3), ("fsync", 1)], id="in a checkpoint write"),
        pytest.param(
            [("renamed", 1), ("best", 1), (LOWEST, 1), (LOWEST, 3)],
            id="between the files of a checkpoint",
        ),
    ],
)
def test_killed_run_continues_bit_for_bit(
    kills: list[tuple[str, int]], root: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir, overrides = tmp_path / "killed", settings(root)
    for point, count in kills:
        kill_at(run_dir, overrides, point, count)
    trained(run_dir, *overrides)
    assert_same_run(run_dir, uninterrupted)
    assert not list(run_dir.glob("*.tmp*")), "a temporary file of a killed write is left"


def test_killed_from_outside(root: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """The parent does not know where the child is: it kills as soon as some lines are written."""
    run_dir, overrides = tmp_path / "killed", settings(root)
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={run_dir}", *overrides]
    kill_after_lines(command, run_dir, 4)
    trained(run_dir, *overrides)
    assert_same_run(run_dir, uninterrupted)


def test_workers_and_bf16_continue_bit_for_bit(root: Path, tmp_path: Path) -> None:
    """Dropout draws from the global generator: its state must survive, and no worker may move it."""
    overrides = settings(root, "workers=1", "runtime.precision=bf16", "compact_word_table=false")
    whole = trained(tmp_path / "whole", *overrides)
    for point, count in (("step", 3), ("fsync", 2)):
        kill_at(tmp_path / "killed", overrides, point, count)
    trained(tmp_path / "killed", *overrides)
    assert_same_run(tmp_path / "killed", whole)


def test_two_identical_runs_are_identical_and_another_seed_is_not(
    root: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    again = trained(tmp_path / "again", *settings(root))
    assert_same_run(again, uninterrupted)
    other = trained(tmp_path / "other", *settings(root, "seed=1"))
    assert metrics(other)[0]["loss"] != metrics(uninterrupted)[0]["loss"]


def test_finished_run_is_left_as_it_is(root: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "last.pt").stat().st_mtime_ns, metrics(uninterrupted)
    trained(uninterrupted, *settings(root))
    assert ((uninterrupted / "last.pt").stat().st_mtime_ns, metrics(uninterrupted)) == before
