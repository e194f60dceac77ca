"""Entries eval.py and summarize.py over tiny networks with random weights, on the tiny rooms."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.semabs.model import build_network
from projects.semabs.stats import Stats, read_stats
from shared import checkpoint, config
from shared.runtime import Runtime
from tests.semabs import training_runs
from tests.semabs.training_runs import PROJECT, SERVER

ONE = Runtime(torch.device("cpu"))
FIXED = ("grids=[8,32]", "workers=0", "runtime.device=cpu", "runtime.threads=1")
CUTOFFS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the runs' own validation


def write_run(folder: Path, root: Path, *overrides: str, task: str = "ovssc") -> Path:
    """A run folder as training leaves it."""
    given = training_runs.settings(root, f"name=tiny-{task}", *overrides)
    settings = config.section(config.compose(PROJECT, f"train_{task}", given))
    torch.manual_seed(3)
    network = build_network(task=task, bounds=settings["items"]["scene_bounds"], **settings["model"])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # logits that differ among points
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        folder, runtime=ONE, modules={"model": network}, progress={"epoch": 7},
        config={"task": task, **settings},
    )  # fmt: skip
    return folder


def evaluate(
    model: Path, out: Path, *overrides: str, script: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python eval.py model=...` with its run folder at `out`."""
    given = (f"model={model}", *FIXED, *overrides)
    return SERVER.entry(script or PROJECT / "eval.py", out, *given, **options)


def evaluated(model: Path, out: Path, *overrides: str, **options: Any) -> Path:
    """`evaluate`, which must succeed."""
    finished = evaluate(model, out, *overrides, **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out


def rows(out: Path, task: str = "ovssc") -> Stats:
    """What an evaluation wrote."""
    return read_stats(out / f"{task}_eval_stats.npz")


def metrics(out: Path) -> dict[str, Any]:
    """Of results.json."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text())["metrics"]
    return found


def same_rows(found: Stats, expected: Stats, but: Sequence[str] = ()) -> None:
    """Bit for bit."""
    assert list(found.columns) == list(expected.columns)
    for name, values in expected.columns.items():
        if name not in but:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def error_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refused run."""
    assert finished.returncode == 2, finished.stderr[-3000:]
    lines = [line for line in finished.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, finished.stderr[-3000:]
    return lines[0]
