"""Tiny training runs for the tests: real files on disk, the real entry in a process of its own."""

import subprocess
from pathlib import Path
from typing import Any

from projects.babel import data
from tests.babel.tiny_wikiscenes import CONCEPTS
from tests.shared import runs
from tests.shared.runs import metrics, results, weights
from tests.shared.served import RunServer

__all__ = [
    "PROJECT",
    "SERVER",
    "TRAIN",
    "assert_same_run",
    "metrics",
    "results",
    "settings",
    "train",
    "trained",
    "weights",
]
PROJECT = Path(data.__file__).parent
TRAIN = PROJECT / "train.py"
SMALL = (
    f"data.concepts=[{','.join(CONCEPTS)}]",
    "data.size=32",
    "data.graph_threshold=5",
    "model.width=8",
    "model.head_width=8",
    "model.skip_width=4",
    "model.pamr.dilations=[1,2]",
    "model.pamr.iterations=2",
    "optim.epochs=2",
    "optim.batch_size=4",
    "optim.pretrain=1",
    "optim.milestones=[1]",
    "validation.every=1",
    "log_every=1",
    "save_every=2",
    "workers=0",
    "runtime.device=cpu",
    "runtime.threads=1",
)


def settings(root: Path, *overrides: str) -> list[str]:
    """Overrides that train a small net on a set made by `make_set`, as if it were a real one."""
    return ["data=mini", "data.variant=null", f"data.root={root}", *SMALL, *overrides]


SERVER = RunServer(
    "projects.babel.closing", "projects.babel.optim", "projects.babel.model", "projects.babel.starting_point"
)


def train(
    run_dir: Path, *overrides: str, script: Path = TRAIN, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python train.py ...` with its run folder at `run_dir` (see `RunServer.entry`)."""
    return SERVER.entry(script, run_dir, *overrides, **options)


def trained(run_dir: Path, *overrides: str, **options: Any) -> Path:
    """`train`, which must succeed."""
    finished = train(run_dir, *overrides, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return run_dir


def assert_same_run(actual: Path, expected: Path) -> None:
    """Bit for bit the same weights, optimizer state, numbers over time and result."""
    runs.assert_same_run(actual, expected, ("last.pt",))
