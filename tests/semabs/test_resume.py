"""A killed run continues with the same command to the same result, bit for bit (real SIGKILL, real processes)."""

import signal
from pathlib import Path

import pytest

from tests.semabs.training_runs import assert_same_run, entry, metrics, settings, train, trained
from tests.shared.runs import KILL_DRIVER

LAMB = "projects.semabs.lamb:Lamb.step"
ROWS = "projects.semabs.closing:summary"  # between the rows of a validation and what is written about them
SNAPSHOT = "projects.semabs.snapshots:write"  # before latest.pth, or before ckpt_<epoch>.pth
OLD = "projects.semabs.snapshots:remove_old"  # between a snapshot and the removal of the one before
STATS = "projects.semabs.stats:Stats.write"


@pytest.fixture(scope="module")
def uninterrupted(rooms_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "whole", *settings(rooms_root))


def kill_at(run_dir: Path, overrides: list[str], point: str, count: int, task: str = "ovssc") -> None:
    """Start or continue the run and let it die at a point (see kill_driver.py)."""
    arguments = (str(entry(task)), point, str(count))
    finished = train(run_dir, *overrides, script=KILL_DRIVER, arguments=arguments)
    assert finished.returncode == -signal.SIGKILL, (point, count, finished.stderr[-2000:])
    assert not (run_dir / "results.json").exists()


# 2 epochs of 2 steps; a checkpoint after every step and epoch. Each list is one run, killed again and again.
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([("step", 1), ("scalars", 2), ("step", 1), ("write", 1)], id="after steps, in a write"),
        pytest.param([(ROWS, 1), (STATS, 2), (SNAPSHOT, 2), ("fsync", 2), (OLD, 1), ("renamed", 1)],
                     id="between epochs"),
    ],
)  # fmt: skip
def test_killed_run_continues_bit_for_bit(
    kills: list[tuple[str, int]], rooms_root: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir, overrides = tmp_path / "killed", settings(rooms_root)
    for point, count in kills:
        kill_at(run_dir, overrides, point, count)
    trained(run_dir, *overrides)
    assert_same_run(run_dir, uninterrupted)
    assert not list(run_dir.rglob("*.tmp*")), "a temporary file of a killed write is left"


def test_lamb_and_its_schedule_a_worker_and_vool_continue_bit_for_bit(
    rooms_root: Path, tmp_path: Path
) -> None:
    """The released code starts the warm-up anew when it is resumed."""
    more = ("optim.kind=lamb", "optim.schedule=cosine_with_restarts", "optim.warmup=3", "workers=1")
    overrides = settings(rooms_root, "data.max_items=4", *more)
    whole = trained(tmp_path / "whole", *overrides, task="vool")
    kill_at(tmp_path / "killed", overrides, LAMB, 3, task="vool")
    trained(tmp_path / "killed", *overrides, task="vool")
    assert_same_run(tmp_path / "killed", whole)
    rates = [line["lr"] for line in metrics(whole) if "lr" in line]
    assert rates == pytest.approx([0, 1e-3, 2e-3, 3e-3])


def test_another_seed_is_another_run(rooms_root: Path, uninterrupted: Path, tmp_path: Path) -> None:
    again = trained(tmp_path / "again", *settings(rooms_root))
    assert_same_run(again, uninterrupted)
    other = trained(
        tmp_path / "other", *settings(rooms_root, "seed=1", "optim.steps=1", "validation.every=0")
    )
    assert metrics(other)[0]["loss"] != metrics(uninterrupted)[0]["loss"]
