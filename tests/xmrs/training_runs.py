"""Tiny training runs for the tests: real files on disk, the real entry in a subprocess."""

import subprocess
from pathlib import Path
from typing import Any

from projects.xmrs import data
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
    "data.side=32",
    "data.resize=36",
    "model.embed_dim=16",
    "model.head_dim=16",
    "model.image.width=8",
    "model.text.hidden=16",
    "model.text.intermediate=16",
    "model.text.max_tokens=32",
    "model.text.dropout=0.1",
    "model.text.init_std=0.02",
    "data.max_tokens=32",
    "optim.epochs=2",
    "optim.batch_size=12",
    "optim.learning_rate=5e-3",
    "optim.warmup=[1]",
    "optim.decay_lr=[1]",
    "validation.medr=10",
    "validation.every=1",
    "log_every=1",
    "save_every=2",
    "workers=0",
    "runtime.device=cpu",
    "runtime.threads=1",
)


def settings(root: Path, *overrides: str) -> list[str]:
    """Overrides that train a small model on a set made by `make_set`, as if it were a real one."""
    return ["data=mini", "data.variant=null", f"data.root={root}", "data.strata=null", *SMALL, *overrides]


SERVER = RunServer(
    "projects.xmrs.closing", "projects.xmrs.optim", "projects.xmrs.schedule", "projects.xmrs.starting_point"
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
    runs.assert_same_run(actual, expected, ("last.pt", "best.pt", "lowest_medr.pt"))
