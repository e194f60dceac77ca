"""The bench measures what it says, on tiny inputs; whether ratios are reached, a quiet machine must say."""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from projects.babel import bench_losses, bench_released, bench_training
from projects.babel.bench import CASES

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"


@pytest.mark.slow
def test_all_cases_run_and_agree(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "babel", "--quick", "--json", str(tmp_path / "bench.json")]
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
    targets = {case.name: t.ratio for case in CASES for t in case.targets if t.ratio is not None}
    assert targets["contrastive_loss"] == 15.0
    assert targets["mask_loss"] == 3.0
    assert targets["train_step"] == 2.0
    for case in CASES:
        assert all(target.side != target.than for target in case.targets)


@pytest.mark.parametrize("case", [*bench_losses.CASES, *bench_training.CASES], ids=lambda case: case.name)
def test_the_cases_of_training_agree(case: bench_training.Case) -> None:
    outputs = {name: side() for name, side in case.make(True).items()}
    assert case.check(outputs)
    assert {target.side for target in case.targets} | {target.than for target in case.targets} <= set(outputs)


def test_another_result_would_be_noticed() -> None:
    for case in bench_losses.CASES:
        outputs = {name: side() for name, side in case.make(True).items()}
        loss, gradient = outputs["ours"]
        for wrong in ((loss * 1.001, gradient), (loss, gradient * 1.01)):
            with pytest.raises(AssertionError, match="ours"):
                case.check({**outputs, "ours": wrong})


def test_a_step_with_another_loss_would_be_noticed() -> None:
    step = bench_training.Step(loss=2.0, seconds=1.0, flop=1e12, rate=4e12)
    outputs = {"released": step, "ours fp32": step, "ours bf16": step}
    remark = bench_training.check_training(outputs)
    assert "1.00 TFLOP at 1000 GFLOP/s, 25% of the 4000 of matrix products" in remark
    for side, value in (("ours fp32", 2.003), ("ours bf16", 2.3)):
        with pytest.raises(AssertionError, match=side):
            bench_training.check_training({**outputs, side: replace(step, loss=value)})


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux only")
def test_only_the_released_side_goes_without_huge_pages() -> None:
    def forbidden() -> int:
        return int(ctypes.CDLL(None).prctl(42, 0, 0, 0, 0))

    assert forbidden() == 0
    with bench_released.plain_pages():
        assert forbidden() == 1
    assert forbidden() == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] in ("0", "1")
