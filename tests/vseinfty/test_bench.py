"""The bench measures what it says, on tiny inputs; whether ratios are reached, a quiet machine must say."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from projects.vseinfty.bench import CASES
from shared.bench import Case, Target

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("bench_script", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_all_cases_run_and_agree(tmp_path: Path) -> None:
    done = run("vseinfty", "--quick", "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DISAGREE" not in done.stdout
    found = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert [case["name"] for case in found] == [case.name for case in CASES]
    for case, measured in zip(CASES, found, strict=True):
        assert len(measured["ratios"]) == len(case.targets)
        if case.memory_limit:
            for memory in measured["memory"].values():
                assert 50 << 20 < memory["process"] < 4 << 30


def test_an_unknown_case_is_one_line() -> None:
    done = run("vseinfty", "--only", "rankings")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no case rankings; there are ranking, ")
    assert len(done.stderr.splitlines()) == 1


def test_sides_take_turns_and_ratios_are_formed_within_a_turn(script: ModuleType) -> None:
    order = []

    def side(name: str, seconds: float):
        def work() -> str:
            order.append(name)
            time.sleep(seconds)
            return "same"

        return work

    case = Case(
        "sleep",
        "three times longer",
        lambda quick: {"slow": side("slow", 0.03), "fast": side("fast", 0.01)},
        lambda outputs: f"{len(set(outputs.values()))} result",
        (Target("fast", "slow", 2.0),),
    )
    result = script.measure(case, quick=False, seconds=0.05)
    assert order == ["slow", "fast"] * (len(order) // 2)
    assert result["seconds"]["slow"]["turns"] >= 3
    ratio = result["ratios"][0]
    assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert ratio["max"] > 1
    assert result["agreement"] == "1 result"
    text = "\n".join(script.lines(case, result))
    assert "as fast as slow" in text


def test_disagreement_is_said_and_kept(script: ModuleType) -> None:
    def check(outputs: object) -> str:
        raise AssertionError("3 of 9 ranks differ")

    result = script.measure(Case("x", "y", lambda quick: {"a": int, "b": int}, check), quick=True, seconds=1)
    assert result["disagreement"] == "3 of 9 ranks differ"
    assert script.lines(Case("x", "y", dict, check), result)[-1] == "  RESULTS DISAGREE: 3 of 9 ranks differ"


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="this system cannot reset a process's peak memory"
)
def test_peak_memory_sees_what_a_side_allocates(script: ModuleType) -> None:
    kept = script.peak_memory(lambda: sum(bytearray(200 << 20)[:: 1 << 20]))
    assert kept["added"] > 150 << 20
    assert kept["process"] > kept["added"]
    assert script.peak_memory(lambda: None)["added"] < 100 << 20
