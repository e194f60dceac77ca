"""Subprocesses in order, and what is shown of them."""

import io
import os
import sys
import time
from pathlib import Path

import pytest

from scripts.reproduction import jobs
from scripts.reproduction.jobs import BLOCKED, FAILED, FINISHED, Display, Job, Pool, clock, tail


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def job(tmp_path: Path, name: str, code: str, needs: tuple[str, ...] = (), seconds: float = 1) -> Job:
    return Job(
        key=(name, None),
        command=[sys.executable, "-c", f"import time\nfrom pathlib import Path\n{code}"],
        folder=tmp_path,
        log=tmp_path / f"{name}.log",
        results=tmp_path / f"{name}.json",
        expected_seconds=seconds,
        requires=frozenset((need, None) for need in needs),
    )


def write(name: str) -> str:
    return f"open('order', 'a').write('{name} '); Path('{name}.json').write_text('{{}}')"


def test_order_follows_the_needs_and_long_jobs_go_first(tmp_path: Path) -> None:
    many = [
        job(tmp_path, "last", write("last"), needs=("short", "long")),
        job(tmp_path, "short", write("short"), seconds=1),
        job(tmp_path, "long", write("long"), seconds=9),
        job(tmp_path, "ready", write("ready"), needs=("done before",), seconds=5),
    ]
    started: list[str] = []
    outcome = Pool(many, [{}], Display(io.StringIO())).run(before=lambda j: started.append(j.key[0]))
    assert set(outcome.values()) == {FINISHED}
    assert (tmp_path / "order").read_text().split() == ["long", "ready", "short", "last"] == started


def test_a_failure_holds_back_only_what_needs_it(tmp_path: Path) -> None:
    many = [
        job(tmp_path, "bad", "print('x' * 20); 1 / 0"),
        job(tmp_path, "child", write("child"), needs=("bad",)),
        job(tmp_path, "grandchild", write("grandchild"), needs=("child",)),
        job(tmp_path, "good", write("good")),
        job(tmp_path, "empty", "pass"),
    ]
    stream = io.StringIO()
    outcome = Pool(many, [{}, {}], Display(stream)).run()
    assert {key[0]: state for key, state in outcome.items()} == {
        "bad": FAILED, "child": BLOCKED, "grandchild": BLOCKED, "good": FINISHED, "empty": FAILED,
    }  # fmt: skip
    shown = stream.getvalue()
    assert "ZeroDivisionError: division by zero" in shown
    assert "not run: grandchild (needs child)" in shown
    assert "it ended without writing empty.json" in shown


def test_jobs_get_the_environment_of_their_place(tmp_path: Path) -> None:
    code = """import os
Path(os.environ["PLACE"]).touch()
Path("{0}.json").touch()
while len(list(Path(".").glob("place*"))) < 2:
    time.sleep(0.01)
"""
    many = [job(tmp_path, name, code.format(name)) for name in ("a", "b")]
    Pool(many, [{"PLACE": "place1"}, {"PLACE": "place2"}], Display(io.StringIO())).run()
    assert sorted(p.name for p in tmp_path.glob("place*")) == ["place1", "place2"]


def test_an_error_here_ends_the_jobs(tmp_path: Path) -> None:
    code = "import os; Path('pid').write_text(str(os.getpid())); time.sleep(600)"

    def interrupt(head: str, lines: object) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise RuntimeError("stop")

    display = Display(io.StringIO())
    display.show = interrupt  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="stop"):
        Pool([job(tmp_path, "long", code)], [{}], display).run()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_tail_of_a_log_is_plain_text(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n" + b"\x1b[31mred\x1b[0m\n\n  10%\r  50%\r  90%\xff\n\x07bell\n")
    assert tail(log, 2) == ["  90%�", "bell"]
    assert tail(log, 9, start=7)[0] == "red"
    assert tail(log, 1, start=log.stat().st_size) == []
    assert tail(tmp_path / "absent", 3) == []
    log.write_bytes(b"x" * 100_000 + b"\nlast\n")
    assert tail(log, 1) == ["last"]


def test_a_terminal_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = Display(stream)
    display.show("head", ["run: " + "x" * 100])
    display.note("a line that stays")
    display.show("head 2", [])
    display.close()
    assert stream.getvalue() == (
        "head\nrun: " + "x" * 24 + "\n\x1b[2A\x1b[Ja line that stays\nhead 2\n\x1b[1A\x1b[J"
    )  # no line is wider than the terminal, or it would wrap and the next one would be drawn elsewhere


def test_elsewhere_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    display = Display(stream)
    for second in range(40):
        now[0] = 100.0 + second
        display.show(f"at {second}", ["  run: 5 %"])
    display.close()
    assert stream.getvalue() == "at 0 | run: 5 %\nat 15 | run: 5 %\nat 30 | run: 5 %\n"


def test_the_estimate_learns_from_what_jobs_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [job(tmp_path, str(i), "", seconds=10) for i in range(4)]
    pool = Pool(many, [{}, {}], Display(io.StringIO()))
    assert pool._estimate() == (0.0, 20.0)  # 4 x 10 s, two at a time
    pool.outcome[("0", None)] = FINISHED
    pool.seconds[("0", None)] = 30.0  # three times as slow as expected
    fraction, left = pool._estimate()
    assert fraction == pytest.approx(0.25)
    assert left == pytest.approx(45.0)
    started = time.monotonic() - 12
    (tmp_path / "1.log").write_text("step 2/5  40 %  8 items/s\n")
    pool._running.append(jobs._Running(many[1], None, None, 0, 0, started))  # type: ignore[arg-type]
    fraction, left = pool._estimate()
    assert fraction == pytest.approx(0.25 + 0.4 / 4)
    # 12 s for 40 % is again 30 s for a job of 10: 6 + 10 + 10 left of it, two at a time
    assert left == pytest.approx(26 / 2 * 3, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01"), (-5, "0:00")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
