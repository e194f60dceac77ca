"""The best epoch's metrics on further splits, and the coefficients, in a finished run's results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects.vseinfty import closing, mini

ENTRY = Path(closing.__file__).with_name("train.py")


def train(tmp_path: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    root = mini.ensure(tmp_path / "mini-mixed", variant="mixed", train=24, dev=8, test=8)
    command = [sys.executable, str(ENTRY), "experiment=smoke", f"data.root={root}", "data.max_captions=null"]
    command += [f"hydra.run.dir={tmp_path / 'run'}", "workers=0", "runtime.device=cpu", "runtime.threads=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORDSIGHT_DATA": str(tmp_path)}
    return subprocess.run(
        [*command, *overrides], capture_output=True, text=True, check=False, env=environment
    )


def test_best_epoch_is_evaluated_on_the_splits_asked_for(tmp_path):
    done = train(tmp_path, "final_splits=[dev,test,test12]", "optim.epochs=3", "optim.lr_update=9")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run/results.json").read_text())["metrics"]
    for name in ("r1", "r5", "r10", "r1i", "r5i", "r10i", "rsum"):
        assert metrics["dev"][name] == pytest.approx(metrics[name])
    assert set(metrics["test"]) == set(metrics["test12"]) == set(metrics["dev"])
    for by_size in metrics["coefficients"].values():
        for size, theta in by_size.items():
            assert len(theta) == int(size)
            assert sum(theta) == pytest.approx(1, abs=1e-5)


def test_a_missing_split_is_one_line_before_anything_is_trained(tmp_path):
    done = train(tmp_path, "final_splits=[nowhere]", "optim.epochs=1")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "nowhere" in last
    assert not (tmp_path / "run").exists()  # found out before the run began
