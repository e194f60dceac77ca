"""Runs of training entries: what they left, whether two are the same, how they are killed."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.shared import kill_driver

KILL_DRIVER = Path(kill_driver.__file__)


def weights(run_dir: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """Every tensor of the model and the optimizer in a checkpoint, by name."""
    modules = torch.load(run_dir / name, weights_only=True)["modules"]
    found = {f"model.{key}": value for key, value in modules["model"].items()}
    for index, state in modules["optimizer"]["state"].items():
        found |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    return found


def metrics(run_dir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def results(run_dir: Path) -> dict[str, Any]:
    """results.json."""
    content: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return content


def assert_same_run(
    actual: Path, expected: Path, checkpoints: Sequence[str] = ("last.pt", "best.pt")
) -> None:
    """Bit for bit the same weights, optimizer state, numbers over time and result."""
    for name in checkpoints:
        ours, theirs = weights(actual, name), weights(expected, name)
        assert ours.keys() == theirs.keys()
        different = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
        assert not different, f"{name}: {different[:5]} of {len(different)} tensors differ"
    assert metrics(actual) == metrics(expected)
    for key in ("metrics", "steps", "warnings"):
        assert results(actual)[key] == results(expected)[key]


def kill_after_lines(command: list[str], run_dir: Path, lines: int) -> None:
    """Kill the process and its children as soon as metrics.jsonl has this many lines, unless it has ended."""
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    written = run_dir / "metrics.jsonl"
    while child.poll() is None and not (written.exists() and len(written.read_text().splitlines()) >= lines):
        time.sleep(0.002)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
