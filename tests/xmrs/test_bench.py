"""The bench measures what it says, on tiny inputs; whether ratios are reached, a quiet machine must say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects.xmrs import bench_training
from projects.xmrs.bench import CASES

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"


@pytest.mark.slow
def test_all_cases_run_and_agree(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "xmrs", "--quick", "--json", str(tmp_path / "bench.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DISAGREE" not in done.stdout
    found = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert [case["name"] for case in found] == [case.name for case in CASES]
    for case, measured in zip(CASES, found, strict=True):
        assert len(measured["ratios"]) == len(case.targets)


def test_names_are_unique_and_the_targets_are_those_that_were_set() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    targets = {
        case.name: target.ratio for case in CASES for target in case.targets if target.ratio is not None
    }
    assert targets["train_step"] == 2.0
    for case in CASES:
        assert all(target.side != target.than for target in case.targets)


@pytest.mark.parametrize("case", bench_training.CASES, ids=lambda case: case.name)
def test_the_cases_of_training_agree(case: bench_training.Case) -> None:
    outputs = {name: side() for name, side in case.make(True).items()}
    assert case.check(outputs)
    assert {target.side for target in case.targets} | {target.than for target in case.targets} <= set(outputs)


def test_a_step_with_another_loss_would_be_noticed() -> None:
    case = next(case for case in bench_training.CASES if case.name == "train_step")
    outputs = {"released": 0.4, "ours fp32": 0.4, "ours bf16": 0.4}
    assert case.check(outputs)
    for side, value in (("ours fp32", 0.401), ("ours bf16", 0.46)):
        with pytest.raises(AssertionError, match=side):
            case.check({**outputs, side: value})
