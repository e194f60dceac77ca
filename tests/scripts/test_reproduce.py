"""scripts/reproduce.py as a subprocess, over a small repository whose entries are plain scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]

ENTRY = """
import json, os, signal, sys, time
from pathlib import Path
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from projects.toy import helper
    from shared import tool

given = dict(text.split("=", 1) for text in sys.argv[1:])
folder = Path(__file__).parent / "runs" / given["name"]
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "starts.txt", "a") as file:
    file.write(f"{os.getpid()}\\n")
kind, seed = given.get("kind", "plain"), int(given.get("seed", 0))

if kind == "fail" and seed == 2:
    print("ValueError: \\x1b[31mthe <b>reason</b>\\x1b[0m of seed 2", flush=True)
    sys.exit(3)
if kind == "silent":
    sys.exit(0)  # ends well without writing a result
if kind == "meet":  # goes on when another run of the same kind is there at the same time
    (folder.parent / f"here-{seed}").touch()
    while not all((folder.parent / f"here-{other}").exists() for other in (1, 2)):
        time.sleep(0.02)
done = folder / "done.txt"
step = int(done.read_text()) if done.exists() else 0
started_from = step
while kind == "slow" and step < 10:
    step += 1
    done.write_text(str(step))
    print(f"step {step}/10  {10 * step} %  5 items/s", flush=True)
    if step == 5 and started_from == 0:
        time.sleep(600)
model = given.get("model")
inherited = json.loads((Path(model) / "results.json").read_text())["metrics"]["score"] if model else 0
score = inherited + float(given.get("score", 0)) + seed
with open(folder / "metrics.jsonl", "w") as file:
    for step in (1, 2, 3):
        file.write(json.dumps({"step": step, "loss": score / step}) + "\\n")
metrics = {"score": score, "started_from": started_from, "threads": int(os.environ["OMP_NUM_THREADS"])}
result = {"metrics": metrics, "seconds": 1.5, "warnings": {}, "data": os.environ["WORDSIGHT_DATA"]}
(folder / "results.json").write_text(json.dumps(result))
"""

RECIPE = """
title: A toy
seeds: [1, 2]
mini:
  common: [shared=1]
  runs:
    "{size}-model":
      each: {size: [big, small]}
      entry: train.py
      overrides: ["size={size}"]
      set: {size: {big: [score=100]}}
    after-big:
      entry: train.py
      overrides: ["model={run:big-model}", "score=1000"]
  claims:
    - id: bigger
      text: big beats small
      why: it is bigger
      left: {run: big-model, metric: score}
      operator: ">"
      right: {run: small-model, metric: score}
      margin: 50
  tables:
    - id: sizes
      title: Sizes
      columns: [{id: score}]
      rows: [{title: big, run: big-model}, {title: small, run: small-model}, {title: after, run: after-big}]
  charts:
    - {id: loss, kind: curves, title: Loss, metric: loss, runs: {big: big-model}}
paper:
  runs:
    real: {entry: train.py, overrides: [score=7], needs: [toy/real/images.npy, toy/real/ids.txt]}
  claims:
    - {id: real, text: the real one, why: as published, left: {run: real, metric: score}, operator: ">", right: 3}
  tables:
    - id: published
      title: Table 1
      columns: [{id: score}]
      rows: [{title: real, run: real, paper: {score: 8.5}, embedded: big-model}]
"""


class Toy:
    """A repository with one project, and the script that reproduces it."""

    def __init__(self, root: Path) -> None:
        self.root, self.project = root, root / "projects" / "toy"
        (self.project / "configs" / "experiment").mkdir(parents=True)
        (root / "scripts").mkdir()
        script = (REPOSITORY / "scripts" / "reproduce.py").read_text()
        (root / "scripts" / "reproduce.py").write_text(script)
        (self.project / "train.py").write_text(ENTRY)
        (self.project / "helper.py").write_text("A = 1\n")
        (self.project / "unrelated.py").write_text("A = 1\n")
        (self.project / "configs" / "train.yaml").write_text("a: 1\n")
        self.write(RECIPE)

    def write(self, recipe: str | dict) -> None:
        text = recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, sort_keys=False)
        (self.project / "reproduce.yaml").write_text(text)

    def change(self, **parts: dict) -> None:
        """Replace parts of the mini scale."""
        recipe = yaml.safe_load(RECIPE)
        recipe["mini"].update(parts)
        self.write(recipe)

    def write_runs(self, runs: dict) -> None:
        """A recipe with these runs only."""
        self.write({"title": "A toy", "seeds": [1, 2], "mini": {"runs": runs}})

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / "scripts" / "reproduce.py"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if k not in ("WORDSIGHT_DATA", "OMP_NUM_THREADS")}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
            cwd="/",
        )

    def starts(self) -> dict[str, int]:
        """How often every run was started."""
        files = sorted((self.project / "runs").glob("reproduce-*/*/starts.txt"))
        return {file.parent.name: len(file.read_text().split()) for file in files}

    def report(self) -> dict:
        return json.loads((self.root / "runs" / "report" / "results.json").read_text())["toy"]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "repository")


RUNS = {f"{run}-seed{seed}": 1 for run in ("after-big", "big-model", "small-model") for seed in (1, 2)}


def test_from_nothing_to_a_compared_result_and_nothing_runs_twice(toy: Toy) -> None:
    first = toy.run("toy")
    assert first.returncode == 0, first.stderr
    assert toy.starts() == RUNS
    assert "big beats small (101.0 > 1 + 50; 102.0 > 2 + 50)" in first.stdout
    assert "1 passed, 0 failed, 0 not run" in first.stdout
    assert "after    1103.0 ± 1.4" in first.stdout
    mini = toy.report()["scales"]["mini"]
    assert mini["claims"][0]["status"] == "passed"
    assert mini["runs"]["after-big seed 2"]["score"] == 100 + 2 + 1000 + 2  # the same seed's model
    page = (toy.root / "runs" / "report" / "toy.html").read_text()
    assert "big beats small" in page
    assert "<svg" in page
    assert "not run" in page  # the paper's scale
    assert "| big | 101.5 ± 0.7 |" in (toy.root / "runs" / "report" / "toy.md").read_text()
    assert "toy.html" in (toy.root / "runs" / "report" / "index.html").read_text()

    second = toy.run("toy")
    assert second.returncode == 0
    assert "0 runs" in second.stderr
    assert "6 finished before" in second.stderr
    assert toy.starts() == RUNS

    again = toy.run("toy", "--fresh", "--only", "small-*")
    assert again.returncode == 0
    assert toy.starts() == RUNS
    assert "2 runs" in again.stderr


@pytest.mark.parametrize(
    ("file", "reruns"),
    [
        ("projects/toy/train.py", True),
        ("projects/toy/helper.py", True),  # imported
        ("projects/toy/configs/train.yaml", True),
        ("projects/toy/unrelated.py", False),
        ("projects/toy/configs/eval.yaml", False),
        ("projects/toy/configs/experiment/other.yaml", False),
    ],
)
def test_only_changed_inputs_run_again(toy: Toy, file: str, reruns: bool) -> None:
    assert toy.run("toy", "--only", "small-model", "--seeds", "1").returncode == 0
    path = toy.root / file
    path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
    shown = toy.run("toy", "--only", "small-model", "--seeds", "1", "--report-only")
    assert ("before the last change" in shown.stdout) == reruns
    assert ("1 runs, " in toy.run("toy", "--only", "small-model", "--seeds", "1").stderr) == reruns


def test_a_changed_override_runs_again_and_so_does_what_depends_on_it(toy: Toy) -> None:
    assert toy.run("toy", "--seeds", "1").returncode == 0
    toy.write(RECIPE.replace("big: [score=100]", "big: [score=200]"))
    changed = toy.run("toy", "--seeds", "1")
    assert "2 runs" in changed.stderr
    assert toy.report()["scales"]["mini"]["runs"]["after-big seed 1"]["score"] == 200 + 1 + 1000 + 1


def test_only_takes_patterns_and_what_the_runs_need(toy: Toy) -> None:
    listed = toy.run("toy", "--list", "--only", "after-*", "--seeds", "1")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["big-model", "after-big"]
    assert "python train.py shared=1 " in lines[1]
    assert f"model={toy.project}/runs/reproduce-mini/big-model-seed1" in lines[1]
    assert not (toy.project / "runs").exists()
    partly = toy.run("toy", "--only", "after-big", "--seeds", "3")
    assert partly.returncode == 0  # the claim is not run, which is no failure
    assert set(toy.starts()) == {f"{run}-seed{s}" for run in ("big-model", "after-big") for s in (1, 2, 3)}
    assert toy.report()["scales"]["mini"]["claims"][0]["status"] == "not run"
    unknown = toy.run("toy", "--only", "nosuch")
    assert unknown.returncode == 2
    assert "nosuch" in unknown.stderr


def test_a_failed_run_is_shown_and_the_others_go_on(toy: Toy) -> None:
    runs = yaml.safe_load(RECIPE)["mini"]["runs"]
    runs["{size}-model"]["set"] = {"size": {"big": ["kind=fail"]}}
    toy.change(runs=runs)
    result = toy.run("toy")
    assert result.returncode == 1
    assert "FAILED: big-model seed 2 (exit status 3)" in result.stderr
    assert "    ValueError: the <b>reason</b> of seed 2" in result.stderr  # no escape codes
    assert "not run: after-big seed 2 (needs big-model seed 2)" in result.stderr
    assert toy.starts() == {name: 1 for name in RUNS if name != "after-big-seed2"}
    claim = toy.report()["scales"]["mini"]["claims"][0]
    assert (claim["status"], claim["reason"]) == ("not run", "no results of big-model seed 2")
    assert toy.run("toy").returncode == 1  # tried again
    assert toy.starts()["big-model-seed2"] == 2
    assert toy.starts()["small-model-seed1"] == 1


def test_a_run_that_ends_without_a_result_has_failed(toy: Toy) -> None:
    toy.write_runs({"only": {"entry": "train.py", "overrides": ["kind=silent"], "seeds": "none"}})
    result = toy.run("toy")
    assert result.returncode == 1
    assert "ended without writing results.json" in result.stderr


@pytest.mark.parametrize(("question", "status", "code"), [(False, "failed", 1), (True, "no", 0)])
def test_a_failed_claim_fails_the_command_but_an_open_question_does_not(
    toy: Toy, question: bool, status: str, code: int
) -> None:
    claim = yaml.safe_load(RECIPE)["mini"]["claims"][0]
    toy.change(claims=[{**claim, "margin": 500, "question": question}])
    result = toy.run("toy")
    assert result.returncode == code
    assert toy.report()["scales"]["mini"]["claims"][0]["status"] == status
    assert status.upper() in result.stdout


def test_two_runs_go_on_at_the_same_time(toy: Toy) -> None:
    toy.write_runs({"meet": {"entry": "train.py", "overrides": ["kind=meet"]}})
    assert toy.run("toy", "--jobs", "2").returncode == 0  # one alone would wait for ever


def _wait_for(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the reproduction ended too early"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal of a parent is Linux's")
@pytest.mark.parametrize(
    ("signal_number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)]
)
def test_killed_its_runs_end_and_the_same_command_continues(toy: Toy, signal_number: int, code: int) -> None:
    toy.write_runs({"slow": {"entry": "train.py", "overrides": ["kind=slow"], "seeds": [1]}})
    process = subprocess.Popen(
        toy.command("toy"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=toy.environment
    )
    folder = toy.project / "runs" / "reproduce-mini" / "slow-seed1"
    _wait_for(lambda: (folder / "done.txt").exists() and (folder / "done.txt").read_text() == "5", process)
    other = toy.run("toy")
    assert other.returncode == 2
    assert "another reproduction of toy is running" in other.stderr
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert code < 0 or b"interrupted; the same command continues" in errors
    pid = int((folder / "starts.txt").read_text())
    end = time.monotonic() + 30
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _alive(pid)
    assert toy.run("toy").returncode == 0
    assert json.loads((folder / "results.json").read_text())["metrics"]["started_from"] == 5
    assert toy.starts() == {"slow-seed1": 2}


def test_the_paper_scale_names_missing_data_and_runs_nothing(toy: Toy, tmp_path: Path) -> None:
    result = toy.run("toy", "--scale", "paper", "--data-root", str(tmp_path / "data"))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "toy/real/images.npy, toy/real/ids.txt" in result.stderr
    assert "scripts/download.py toy --list" in result.stderr
    assert toy.starts() == {}
    assert not (toy.root / "runs").exists()


def test_the_paper_scale_stands_beside_the_papers_numbers_and_survives_edits(
    toy: Toy, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for name in ("images.npy", "ids.txt"):
        (data / "toy" / "real").mkdir(parents=True, exist_ok=True)
        (data / "toy" / "real" / name).write_text("x")
    result = toy.run("toy", "--scale", "paper", "--data-root", str(data), "--seeds", "1")
    assert result.returncode == 0, result.stderr
    found = json.loads((toy.project / "runs/reproduce-paper/real-seed1/results.json").read_text())
    assert found["data"] == str(data)
    table = (toy.root / "runs" / "report" / "toy.md").read_text()
    assert "| real | paper | 8.5 |\n|  | embedded data | not run |\n|  | ours | 8.0 |" in table
    (toy.project / "helper.py").write_text("A = 2\n")  # at this scale an edit throws no training away
    again = toy.run("toy", "--scale", "paper", "--data-root", str(data), "--seeds", "1")
    assert again.returncode == 0
    assert "1 results are from before the last change" in again.stdout
    assert toy.starts()["real-seed1"] == 1


def test_threads_are_shared_out_among_the_runs(toy: Toy) -> None:
    assert toy.run("toy", "--only", "small-model", "--jobs", "1", "--seeds", "1").returncode == 0
    runs = toy.report()["scales"]["mini"]["runs"]
    assert runs["small-model seed 1"]["threads"] == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "'nosuch' is not a paper that can be reproduced; there are: all, toy"),
        (["toy", "--seeds", "0"], "whole number from 1 on"),
        (["toy", "--scale", "large"], "invalid choice"),
    ],
)
def test_bad_arguments(toy: Toy, arguments: list[str], words: str) -> None:
    result = toy.run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_all_goes_on_after_a_broken_paper(toy: Toy) -> None:
    broken = toy.root / "projects" / "broken"
    broken.mkdir()
    (broken / "reproduce.yaml").write_text("title: [")
    result = toy.run("--seeds", "1")
    assert result.returncode == 2
    assert "broken/reproduce.yaml: not valid YAML" in result.stderr
    assert len(toy.starts()) == 3


def test_without_any_project_it_says_so(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (toy.project / "reproduce.yaml").unlink()
    result = toy.run()
    assert result.returncode == 2
    assert "no project has a reproduce.yaml" in result.stderr


def test_every_recipe_of_this_repository_is_good() -> None:
    from scripts.reproduction.reader import load_recipe

    for file in sorted(REPOSITORY.glob("projects/*/reproduce.yaml")):
        recipe = load_recipe(file)
        for scale in recipe.scales.values():
            for run in scale.runs.values():
                assert (file.parent / run.entry).is_file(), f"{file}: {run.name}: no entry {run.entry}"
