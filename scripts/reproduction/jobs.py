"""Run many entries as subprocesses, a few at a time, in the order that their needs allow, with live progress.

A job that fails shows the end of its log and holds back only those that need it. When this process ends, in
whatever way, its jobs end too; what they have saved lets the next start continue.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

from scripts.reproduction.claims import job_label
from scripts.reproduction.recipe import JobKey

FINISHED, FAILED, BLOCKED = "finished", "failed", "blocked"
_PERCENT = re.compile(r"(\d{1,3})(?:\.\d+)? ?%")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_POLL_SECONDS = 0.1
_PLAIN_LINE_SECONDS = 15.0
_LINES_OF_A_FAILED_LOG = 12
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """One subprocess: it has succeeded when it exits with 0 and `results` is there."""

    key: JobKey
    command: Sequence[str]
    folder: Path  # its working folder
    log: Path
    results: Path
    expected_seconds: float
    requires: frozenset[JobKey] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    log_start: int
    slot: int
    started: float

    def last_line(self) -> str:
        lines = tail(self.job.log, 1, start=self.log_start)
        return lines[0] if lines else "starting"

    def fraction(self) -> float:
        found = _PERCENT.search(self.last_line())
        return min(int(found[1]) / 100, 1.0) if found else 0.0


def tail(path: Path, count: int, start: int = 0) -> list[str]:
    """The last `count` lines of a log that are not blank, from byte `start` on, as plain text."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - 16_384))
        text = file.read().decode("utf-8", errors="replace").replace("\r", "\n")
        lines = [_CONTROL.sub("", line).rstrip() for line in text.split("\n")]
        return [line for line in lines if line][-count:]
    return []


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(max(seconds, 0) + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Display:
    """A few lines redrawn in place on a terminal; elsewhere a plain line now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0
        self._next = 0.0

    def note(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        print(text, file=self.stream, flush=True)
        self._next = 0.0 if self.live else self._next

    def show(self, head: str, lines: Sequence[str]) -> None:
        """What goes on now, drawn at most five times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        if not self.live:
            self._next = now + _PLAIN_LINE_SECONDS
            print(" | ".join([head, *(line.strip() for line in lines)]), file=self.stream, flush=True)
            return
        self._next = now + 0.2
        width = shutil.get_terminal_size().columns - 1
        text = "".join(line[:width] + "\n" for line in [head, *lines])
        self._erase()
        self.stream.write(text)
        self.stream.flush()
        self._drawn = len(lines) + 1

    def close(self) -> None:
        """Remove what is drawn."""
        self._erase()

    def _erase(self) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self.stream.flush()
        self._drawn = 0


class Pool:
    """Runs jobs; `slots` holds the extra environment of each place that runs one job at a time."""

    def __init__(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], display: Display) -> None:
        self.jobs = {job.key: job for job in jobs}
        self.slots, self.display = slots, display
        self.outcome: dict[JobKey, str] = {}
        self.seconds: dict[JobKey, float] = {}
        self._running: list[_Running] = []
        self._start = time.monotonic()

    def run(self, before: Callable[[Job], None] = lambda job: None) -> dict[JobKey, str]:
        """Run every job: FINISHED, FAILED or BLOCKED by key. `before(job)` is called as one starts."""
        with _ended_by_signals():
            try:
                while len(self.outcome) < len(self.jobs):
                    self._block_waiting_jobs()
                    self._fill_slots(before)
                    self._collect()
                    if self._running:
                        self.display.show(*self._status())
                        time.sleep(_POLL_SECONDS)
            finally:
                self._end_all()
                self.display.close()
        return self.outcome

    def _block_waiting_jobs(self) -> None:
        for key, job in self.jobs.items():
            if key not in self.outcome and any(
                self.outcome.get(k) in (FAILED, BLOCKED) for k in job.requires
            ):
                needed = next(k for k in job.requires if self.outcome.get(k) in (FAILED, BLOCKED))
                self.outcome[key] = BLOCKED
                self.display.note(f"not run: {job_label(*key)} (needs {job_label(*needed)})")

    def _fill_slots(self, before: Callable[[Job], None]) -> None:
        busy = {running.slot for running in self._running}
        started = {running.job.key for running in self._running} | self.outcome.keys()
        # a needed run that is not among these jobs has been finished before
        ready = [
            job
            for key, job in self.jobs.items()
            if key not in started
            and all(self.outcome.get(k) == FINISHED for k in job.requires if k in self.jobs)
        ]
        # longest first, so that no long job is left alone at the end
        ready.sort(key=lambda job: -job.expected_seconds)
        for slot, job in zip((s for s in range(len(self.slots)) if s not in busy), ready, strict=False):
            before(job)
            self._running.append(self._started(job, slot))

    def _started(self, job: Job, slot: int) -> _Running:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = open(job.log, "ab")  # noqa: SIM115 (closed when the job ends)
        log_start = log.tell()
        process = subprocess.Popen(
            job.command,
            cwd=job.folder,
            env={**os.environ, **job.environment, **self.slots[slot]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if _LIBC else None,
        )
        return _Running(job, process, log, log_start, slot, time.monotonic())

    def _collect(self) -> None:
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            running.log.close()
            key, taken = running.job.key, time.monotonic() - running.started
            if code == 0 and running.job.results.is_file():
                self.outcome[key], self.seconds[key] = FINISHED, taken
                done = sum(outcome == FINISHED for outcome in self.outcome.values())
                left = "" if self.display.live else f", about {clock(self._estimate()[1])} left"
                self.display.note(
                    f"[{done}/{len(self.jobs)}] {job_label(*key)}: finished in {clock(taken)}{left}"
                )
            else:
                self.outcome[key] = FAILED
                self._show_failure(running, code)

    def _show_failure(self, running: _Running, code: int) -> None:
        why = f"exit status {code}" if code > 0 else f"killed by signal {-code}"
        why = why if code else f"it ended without writing {running.job.results.name}"
        self.display.note(f"FAILED: {job_label(*running.job.key)} ({why}); the end of {running.job.log}:")
        for line in tail(running.job.log, _LINES_OF_A_FAILED_LOG, running.log_start) or ["(nothing)"]:
            self.display.note(f"    {line}")

    def _status(self) -> tuple[str, list[str]]:
        fraction, left = self._estimate()
        filled = int(24 * fraction)
        bar = "█" * filled + "·" * (24 - filled)
        head = (
            f"{bar} {fraction:4.0%}  {len(self.outcome)} of {len(self.jobs)} runs, "
            f"{clock(time.monotonic() - self._start)} gone, about {clock(left)} left"
        )
        return head, [f"  {job_label(*r.job.key)}: {r.last_line()}" for r in self._running]

    def _estimate(self) -> tuple[float, float]:
        """Fraction done and seconds left, from the expected seconds, corrected by what jobs really took."""
        now = time.monotonic()
        expected = {key: job.expected_seconds for key, job in self.jobs.items()}
        seen = [(self.seconds[key], expected[key]) for key in self.seconds]
        seen += [
            ((now - r.started) / r.fraction(), expected[r.job.key])
            for r in self._running
            if r.fraction() > 0.2
        ]
        slowness = sum(took for took, _ in seen) / sum(hint for _, hint in seen) if seen else 1.0
        left, total = [], 0.0
        running = {r.job.key: r for r in self._running}
        for key, hint in expected.items():
            total += hint
            if key in running:
                left.append(hint * (1 - running[key].fraction()))
            elif key not in self.outcome:
                left.append(hint)
        at_once = max(1, min(len(self.slots), len(left)))
        seconds = max([sum(left) / at_once, *left]) * slowness if left else 0.0
        return (1 - sum(left) / total if total else 1.0), seconds

    def _end_all(self) -> None:
        for signal_number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            for running in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(running.process.pid, signal_number)
            end = time.monotonic() + patience
            for running in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(max(0.0, end - time.monotonic()))
            self._running = [r for r in self._running if r.process.poll() is None]


def _die_with_parent() -> None:
    """In the child before exec: be killed when the parent is (PR_SET_PDEATHSIG), even by SIGKILL."""
    assert _LIBC is not None
    _LIBC.prctl(1, signal.SIGKILL)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C, so that the jobs are ended as well."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
