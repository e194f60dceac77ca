"""A killed run continues with the same command to the same result, bit for bit (real SIGKILL, real processes)."""

import signal
import sys
from pathlib import Path

import pytest

from tests.babel.tiny_wikiscenes import make_set
from tests.babel.training_runs import TRAIN, assert_same_run, metrics, settings, train, trained
from tests.shared.runs import KILL_DRIVER, kill_after_lines

SCORES = (
    "projects.babel.validation:record"  # between the scores of a validation and what is written about them
)
SNAPSHOT = "projects.babel.snapshots:write"  # before a snapshot
SECOND = "projects.babel.snapshots:remove_old"  # between a snapshot and the removal of the one before


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of the training split is missing: its warning must be counted once, whatever is killed."""
    from projects.babel.splits import read_split

    made = make_set(tmp_path_factory.mktemp("set") / "tiny")
    (made / read_split(made / "train.txt", None)[3].path).unlink()
    return made


def options(root: Path, *more: str) -> list[str]:
    return settings(root, "data.skip_missing=true", *more)


@pytest.fixture(scope="module")
def uninterrupted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "whole", *options(root))


def assert_same(actual: Path, expected: Path) -> None:
    """The same run, and snapshots of the same bytes."""
    assert_same_run(actual, expected)
    snapshots = [
        {path.name: path.read_bytes() for path in (run / "snapshots").iterdir()} for run in (actual, expected)
    ]
    assert snapshots[0] == snapshots[1]


def kill_at(run_dir: Path, overrides: list[str], point: str, count: int) -> None:
    """Start or continue the run and let it die at a point (see kill_driver.py)."""
    finished = train(run_dir, *overrides, script=KILL_DRIVER, arguments=(str(TRAIN), point, str(count)))
    assert finished.returncode == -signal.SIGKILL, (point, count, finished.stderr[-2000:])
    assert not (run_dir / "results.json").exists()


# 2 epochs of 3 steps; a checkpoint after the first validation, every 2 steps and after each epoch. Each list is one
# run, killed again and again.
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([("step", 1), ("step", 2), ("scalars", 1), ("scalars", 3)], id="after steps"),
        pytest.param([(SCORES, 1), (SNAPSHOT, 1), (SECOND, 2), (SCORES, 1), (SNAPSHOT, 1), (SECOND, 1)],
                     id="in validation"),
        pytest.param([("write", 1), ("write", 2), ("fsync", 1), ("fsync", 2), ("renamed", 1)],
                     id="in a checkpoint write"),
    ],
)  # fmt: skip
def test_killed_run_continues_bit_for_bit(
    kills: list[tuple[str, int]], root: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir, overrides = tmp_path / "killed", options(root)
    for point, count in kills:
        kill_at(run_dir, overrides, point, count)
    trained(run_dir, *overrides)
    assert_same(run_dir, uninterrupted)
    assert not list(run_dir.rglob("*.tmp*")), "a temporary file of a killed write is left"


def test_killed_from_outside(root: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """The parent does not know where the child is: it kills as soon as some lines are written."""
    run_dir, overrides = tmp_path / "killed", options(root)
    kill_after_lines([sys.executable, str(TRAIN), f"hydra.run.dir={run_dir}", *overrides], run_dir, 4)
    trained(run_dir, *overrides)
    assert_same(run_dir, uninterrupted)


def test_workers_random_crops_and_bf16_continue_bit_for_bit(root: Path, tmp_path: Path) -> None:
    """Dropout and gate draw from the global generator: its state must survive, and no worker may move it."""
    more = ("workers=1", "runtime.precision=bf16", "validation.random_crops=true", "data.labelled=0.5")
    whole = trained(tmp_path / "whole", *options(root, *more))
    for point, count in (("step", 2), ("fsync", 2)):
        kill_at(tmp_path / "killed", options(root, *more), point, count)
    trained(tmp_path / "killed", *options(root, *more))
    assert_same(tmp_path / "killed", whole)


def test_two_identical_runs_are_identical_and_another_seed_is_not(
    root: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    again = trained(tmp_path / "again", *options(root))
    assert_same(again, uninterrupted)
    other = trained(tmp_path / "other", *options(root, "seed=1"))
    assert metrics(other)[1]["data/loss"] != metrics(uninterrupted)[1]["data/loss"]


def test_finished_run_is_left_as_it_is(root: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "last.pt").stat().st_mtime_ns, metrics(uninterrupted)
    trained(uninterrupted, *options(root))
    assert ((uninterrupted / "last.pt").stat().st_mtime_ns, metrics(uninterrupted)) == before
