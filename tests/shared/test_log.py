import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shared import files, log, run_folder
from shared import progress as progress_module
from shared.errors import InputError
from shared.progress import Progress, clock
from shared.runtime import Runtime

CONFIG: dict[str, Any] = {
    "name": "demo",
    "seed": 3,
    "optim": {"learning_rate": 1e-5, "betas": [0.9, 0.999]},
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32"},
    "workers": 0,
}
RANK_1 = Runtime(torch.device("cpu"), rank=1, world_size=2)


def changed(path: str, value: Any) -> dict[str, Any]:
    """CONFIG with one setting changed or added."""
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    node = config
    *groups, last = path.split(".")
    for group in groups:
        node = node.setdefault(group, {})
    node[last] = value
    return config


def test_settings_are_written_and_the_same_ones_continue(tmp_path: Path, one_process: Runtime) -> None:
    for _ in range(2):
        with log.open_run(tmp_path / "run", CONFIG, one_process) as run:
            assert run.dir == tmp_path / "run"
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text()) == CONFIG


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", 4, "seed: 3, now 4"),
        ("seed", "3", "seed: 3, now '3'"),
        ("optim.learning_rate", 2e-5, "optim.learning_rate: 1e-05, now 2e-05"),
        ("optim.betas", [0.9, 0.99], r"optim.betas: \[0.9, 0.999\], now \[0.9, 0.99\]"),
        ("optim.momentum", 0.9, "optim.momentum: not there, now 0.9"),
        ("runtime.precision", "bf16", "runtime.precision: 'fp32', now 'bf16'"),
        ("workers_of_others", 1, "workers_of_others: not there, now 1"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, one_process: Runtime, path: str, value: Any, message: str
) -> None:
    with log.open_run(tmp_path, CONFIG, one_process) as run:
        run.scalars(1, {"loss": 1.0})
    with (
        pytest.raises(InputError, match=rf"made with other settings \({message}\)"),
        log.open_run(tmp_path, changed(path, value), one_process),
    ):
        pass
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG


@pytest.mark.parametrize(
    ("path", "value"), [("runtime.threads", 8), ("workers", 2), ("runtime.device", "cuda")]
)
def test_free_settings_may_change(tmp_path: Path, one_process: Runtime, path: str, value: Any) -> None:
    for config in (CONFIG, changed(path, value)):
        with log.open_run(tmp_path, config, one_process) as run:
            run.scalars(1, {"loss": 1.0})


def test_a_folder_without_work_takes_other_settings(tmp_path: Path, one_process: Runtime) -> None:
    for config in (CONFIG, changed("seed", 4)):
        with log.open_run(tmp_path, config, one_process) as run:
            run.info("then an error in the data")
        assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config


def test_free_keys_may_be_groups(tmp_path: Path, one_process: Runtime) -> None:
    for config in (CONFIG, changed("runtime.precision", "bf16"), changed("runtime.new", 1)):
        with log.open_run(tmp_path, config, one_process, free_keys=["runtime"]) as run:
            run.scalars(1, {"loss": 1.0})


def test_many_differences_are_counted(tmp_path: Path, one_process: Runtime) -> None:
    now = {f"key{i}": 1 for i in range(9)}
    assert len(run_folder.differences({f"key{i}": 0 for i in range(9)}, now)) == 9
    with log.open_run(tmp_path, {f"key{i}": 0 for i in range(9)}, one_process) as run:
        run.scalars(1, {"loss": 1.0})
    with (
        pytest.raises(InputError, match=r"key4: 0, now 1; and 4 more\)"),
        log.open_run(tmp_path, now, one_process),
    ):
        pass
    assert run_folder.differences({"a": {}}, {"a": {"b": 1}}) == [
        "a: {}, now not there",
        "a.b: not there, now 1",
    ]


def test_a_damaged_config_is_named(tmp_path: Path, one_process: Runtime) -> None:
    (tmp_path / "last.pt").touch()
    for text in ("a: b: c", "- 1"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml: "), log.open_run(tmp_path, CONFIG, one_process):
            pass


def test_a_folder_that_cannot_be_written(tmp_path: Path, one_process: Runtime) -> None:
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(InputError, match="file/run: cannot write in this folder"),
        log.open_run(tmp_path / "file/run", CONFIG, one_process),
    ):
        pass


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("somebody 123")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path, one_process: Runtime) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InputError, match=r"another process \(somebody 123\) is writing to it"),
        log.open_run(tmp_path, CONFIG, one_process),
    ):
        pass
    assert not (tmp_path / "config.yaml").exists()
    holder.kill()  # however a holder ends, the folder is free again
    holder.communicate()
    with log.open_run(tmp_path, CONFIG, one_process):
        pass


def write_steps(folder: Path, at: Runtime, first: int, last: int) -> None:
    """A run from `first`, as after a resume from the checkpoint before it."""
    with log.open_run(folder, CONFIG, at) as run:
        run.rewind(first - 1)
        for step in range(first, last + 1):
            run.scalars(step, {"loss": torch.tensor(1 / step), "rows": step})
            if step % 3 == 0:
                run.scalars(step, {"rsum": 10.0 * step})


@pytest.mark.parametrize("torn", ["", '{"step": 8, "lo', '{"step": 8, "loss": 1}', "\0\0\0"])
def test_metrics_after_a_kill_and_a_resume_are_those_of_an_uninterrupted_run(
    tmp_path: Path, one_process: Runtime, torn: str
) -> None:
    write_steps(tmp_path / "whole", one_process, 1, 9)
    write_steps(tmp_path / "killed", one_process, 1, 7)
    with open(tmp_path / "killed/metrics.jsonl", "a") as file:
        file.write(torn)
    write_steps(tmp_path / "killed", one_process, 5, 9)
    whole, killed = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed"))
    assert killed == whole
    assert len(whole.splitlines()) == 12


def test_tensorboard_shows_the_numbers_of_the_resumed_run(tmp_path: Path, one_process: Runtime) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_steps(tmp_path, one_process, 1, 7)
    time.sleep(1.1)  # event files are named by the second, and read in that order
    with log.open_run(tmp_path, CONFIG, one_process) as run:
        run.rewind(4)
        run.scalars(5, {"rows": 50})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("rows")] == [
        *((step, step) for step in range(1, 5)),
        (5, 50),
    ]


def test_a_number_that_is_not_finite_is_null(tmp_path: Path, one_process: Runtime) -> None:
    with log.open_run(tmp_path, CONFIG, one_process) as run:
        run.scalars(1, {"nan": float("nan"), "inf": torch.tensor(float("inf")), "fine": 2})
    (line,) = files.read_jsonl(tmp_path / "metrics.jsonl")
    assert line == {"step": 1, "nan": None, "inf": None, "fine": 2}


def test_result(tmp_path: Path, one_process: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    with log.open_run(tmp_path, CONFIG, one_process) as run:
        assert not run.finished
        for index in range(9):
            run.warn("unreadable image", f"image {index}")
        run.warn("empty caption", "line 3")
        run.finish({"rsum": 500.5}, epochs=2)
        assert run.finished
    result = json.loads((tmp_path / "results.json").read_text())
    assert (result["name"], result["seed"], result["epochs"]) == ("demo", 3, 2)
    assert result["metrics"] == {"rsum": 500.5}
    assert result["warnings"] == {"empty caption": 1, "unreadable image": 9}
    assert result["config"] == CONFIG
    assert result["seconds"] >= 0
    assert result["machine"]["ranks"] == 1
    printed = capsys.readouterr().out
    assert printed.count("unreadable image") == 3
    assert "image 2 (further ones are only counted)" in printed
    assert "warning: empty caption: line 3" in (tmp_path / "log.txt").read_text()


def test_counts_and_seconds_outlive_a_kill(tmp_path: Path, one_process: Runtime) -> None:
    with log.open_run(tmp_path / "a", CONFIG, one_process) as run:
        run.warn("unreadable image", "x")
        state = run.state_dict()
    state["seconds"] = 100.0
    with log.open_run(tmp_path / "b", CONFIG, one_process) as run:
        run.load_state_dict(state)
        run.warn("unreadable image", "y")
        assert run.warnings == {"unreadable image": 2}
        assert 100 <= run.seconds < 110


def test_other_ranks_write_and_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = log.Run(tmp_path, CONFIG, RANK_1)
    run.info("hello")
    run.warn("kind", "message")
    run.scalars(1, {"loss": 1.0})
    run.rewind(0)
    with run.progress(2) as bar:
        bar.update(2)
    run.close()
    assert run.warnings == {"kind": 1}
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert not list(tmp_path.iterdir())


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock_of_progress(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(progress_module, "time", fake)
    return fake


def test_plain_progress_lines(clock_of_progress: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, 20, items_per_step=8, label="train") as bar:
        for step in range(40):
            clock_of_progress.now += 0.5
            bar.update(loss=torch.tensor(1 / (step + 1)))
        clock_of_progress.now += 1
        bar.update(2)
    lines = capsys.readouterr().err.splitlines()
    heads = [line.split("  ") for line in lines]
    assert [head[:3] for head in heads] == [
        ["train 40/100 steps", "40 %", "16 items/s"],
        ["train 60/100 steps", "60 %", "16 items/s"],
        ["train 62/100 steps", "62 %", "16 items/s"],
    ]
    assert [head[3] for head in heads] == ["loss 0.05", "loss 0.025", "loss 0.025"]
    assert all(head[4].endswith("GiB") and float(head[4].split()[0]) > 0 for head in heads)
    assert [head[5] for head in heads] == ["ETA 0:30", "ETA 0:20", "ETA 0:19"]


def test_no_line_for_what_an_error_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(3)
    bar.update()
    bar.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(10, 4, unit="image", items_per_step=2) as bar:
        bar.update(3, loss=0.5)
        bar.write("a line between")
        bar.update(3)
    captured = capsys.readouterr()
    assert "4/10" in captured.err
    assert "10/10" in captured.err
    assert "image/s" in captured.err
    assert "a line between" in captured.out


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
