"""The folder of a run: its settings, its numbers over time, its warnings, its result.

| file | holds |
|---|---|
| config.yaml | the settings; a later start with other ones is refused |
| metrics.jsonl | one line per `scalars` call; after a kill and a resume equal to an uninterrupted run's |
| events.out.tfevents.* | the same for TensorBoard |
| log.txt | what was printed, with the time |
| results.json | the result of a finished run |
"""

import contextlib
import errno
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from shared import files
from shared.errors import InputError
from shared.progress import Progress
from shared.runtime import Runtime, gather_objects

# may change between the start and a resume: they do not change what is computed
FREE_KEYS = ("runtime.device", "runtime.threads", "workers", "log_every", "save_every")
_SHOWN_WARNINGS = 3  # of each kind; the rest is only counted
_SHOWN_DIFFERENCES = 5


@contextlib.contextmanager
def open_run(
    run_dir: Path, config: Mapping[str, Any], runtime: Runtime, *, free_keys: Sequence[str] = FREE_KEYS
) -> Iterator["Run"]:
    """The run of this folder, made or continued. To be called on all ranks; rank 0 writes.

    config: the plain settings; `name` and `seed` in it go into the result. free_keys: settings (`workers`) or
    groups (`runtime`) that may differ from those the folder was made with. InputError when others differ,
    when another process writes to the folder, or when it cannot be written.
    """
    lock: IO[str] | None = None
    refusal: Exception | None = None
    if runtime.is_main:
        try:
            lock = _claim(run_dir, config, free_keys)
        except (InputError, OSError) as error:
            refusal = error
    refusal = gather_objects(refusal)[0]
    if refusal is not None:
        raise refusal
    run = Run(run_dir, config, runtime)
    try:
        yield run
    finally:
        run.close()
        if lock is not None:
            lock.close()


class Run:
    """What an entry writes to. Every method may be called on any rank; only rank 0 prints and writes."""

    def __init__(self, folder: Path, config: Mapping[str, Any], runtime: Runtime) -> None:
        self.dir, self.config, self.runtime = folder, dict(config), runtime
        self.warnings: Counter[str] = Counter()
        self._seconds_before = 0.0
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._events: Any = None
        self._purge_step: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the folder holds a result."""
        return (self.dir / "results.json").exists()

    @property
    def seconds(self) -> float:
        """How long the run has taken, with its part before a resume (see `state_dict`)."""
        return self._seconds_before + time.monotonic() - self._began

    def info(self, message: str) -> None:
        """Print a line and keep it in log.txt."""
        if not self.runtime.is_main:
            return
        if self._progress is not None:
            self._progress.write(message)
        else:
            print(message, flush=True)
        self._note(message)

    def warn(self, kind: str, message: str) -> None:
        """Count a warning of this kind; results.json holds the counts. The first of a kind are printed."""
        self.warnings[kind] += 1
        if self.warnings[kind] < _SHOWN_WARNINGS:
            self.info(f"warning: {kind}: {message}")
        elif self.warnings[kind] == _SHOWN_WARNINGS:
            self.info(f"warning: {kind}: {message} (further ones are only counted)")

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a line {"step": step, **values} to metrics.jsonl and a point per value to TensorBoard.

        Only what a repeated run would give again: no times, or `rewind` cannot keep its promise. A number
        that is not finite is written as null.
        """
        if not self.runtime.is_main:
            return
        numbers = {name: _number(value) for name, value in values.items()}
        line = {
            name: v if not isinstance(v, float) or math.isfinite(v) else None for name, v in numbers.items()
        }
        files.append_jsonl(self.dir / "metrics.jsonl", [{"step": step, **line}])
        self.tensorboard(step, numbers)

    def tensorboard(self, step: int, values: Mapping[str, Any]) -> None:
        """Add points to TensorBoard alone: times, and whatever else differs from run to run."""
        if not self.runtime.is_main:
            return
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.dir), purge_step=self._purge_step)
        for name, value in values.items():
            self._events.add_scalar(name, _number(value), step)

    def rewind(self, step: int) -> None:
        """Drop what was written after `step`: the steps that a resumed run is going to repeat."""
        if not self.runtime.is_main:
            return
        path = self.dir / "metrics.jsonl"
        if path.exists():
            kept = [record for record in files.read_jsonl(path) if record["step"] <= step]
            files.write_jsonl(path, kept)
        self._purge_step = step + 1

    def progress(
        self,
        total: int,
        start: int = 0,
        unit: str = "step",
        items_per_step: float = 1,
        label: str = "",
    ) -> Progress:
        """A bar, or a line every ten seconds: a context manager with `update(n=1, **shown)`."""
        self._progress = Progress(
            total,
            start,
            unit=unit,
            items_per_step=items_per_step,
            label=label,
            device=self.runtime.device,
            silent=not self.runtime.is_main,
        )
        return self._progress

    def finish(self, metrics: Mapping[str, Any], **extra: Any) -> None:
        """Write results.json: name, seed, metrics, warnings of all ranks, seconds, config, machine, and
        `extra`.

        To be called on all ranks.
        """
        warnings: Counter[str] = sum(gather_objects(self.warnings), Counter())
        if not self.runtime.is_main:
            return
        result = {
            "name": self.config.get("name", self.dir.name),
            "seed": self.config.get("seed"),
            "metrics": dict(metrics),
            "warnings": dict(sorted(warnings.items())),
            "seconds": round(self.seconds, 1),
            **extra,
            "machine": self._machine(),
            "config": self.config,
        }
        files.write_json(self.dir / "results.json", result)
        self._note("finished")

    def state_dict(self) -> dict[str, Any]:
        """Counts and seconds so far, to be saved with the modules, so that they outlive a kill."""
        return {"warnings": dict(self.warnings), "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the saved counts (they are rank 0's) and seconds."""
        if self.runtime.is_main:
            self.warnings = Counter(state["warnings"])
        self._seconds_before = state["seconds"]
        self._began = time.monotonic()

    def close(self) -> None:
        """Flush; `open_run` does it."""
        if self._progress is not None:
            self._progress.close(ended_well=False)
        if self._events is not None:
            self._events.close()
            self._events = None

    def _note(self, message: str) -> None:
        with open(self.dir / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}\n")

    def _machine(self) -> dict[str, Any]:
        device = self.runtime.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        return {
            "device": f"{device.type} ({name})",
            "precision": self.runtime.precision,
            "ranks": self.runtime.world_size,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }


def differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], free_keys: Sequence[str] = ()
) -> list[str]:
    """The settings that differ, one text each: "optim.learning_rate: 0.001, now 0.002"."""
    before, now = _flat(saved), _flat(current)
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        is_free = any(key == free or key.startswith(f"{free}.") for free in free_keys)
        old, new = (repr(side[key]) if key in side else "not there" for side in (before, now))
        if not is_free and old != new:
            found.append(f"{key}: {old}, now {new}")
    return found


def _claim(run_dir: Path, config: Mapping[str, Any], free_keys: Sequence[str]) -> IO[str] | None:
    """Check the folder's settings against ours, or make it ours; the lock on it (None: cannot be locked)."""
    files.ensure_writable(run_dir)
    lock = _lock(run_dir)
    path = run_dir / "config.yaml"
    try:
        if path.exists():
            saved = _read_yaml(path)
            found = differences(saved, config, free_keys)
            if found:
                rest = len(found) - _SHOWN_DIFFERENCES
                text = "; ".join(found[:_SHOWN_DIFFERENCES]) + (f"; and {rest} more" if rest > 0 else "")
                raise InputError(
                    f"{run_dir}: made with other settings ({text}): choose another name=..., or delete it"
                )
        for name in (path.name, "metrics.jsonl", "results.json"):
            files.remove_leftovers(run_dir / name)
        with files.atomic_write(path, "w") as file:
            yaml.safe_dump(dict(config), file, sort_keys=False, allow_unicode=True)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return lock


def _lock(run_dir: Path) -> IO[str] | None:
    """Keep other processes from this folder until we end, however that happens.

    A POSIX record lock: unlike flock it is not inherited by data loader workers, which outlive a killed
    parent by seconds.
    """
    try:
        import fcntl
    except ImportError:
        return None
    file = open(run_dir / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise InputError(
                f"{run_dir}: another process ({owner}) is writing to it; choose another name=..."
            ) from None
        return None  # a file system without locks
    file.truncate(0)
    file.write(f"{platform.node()} {os.getpid()}")
    file.flush()
    return file


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(saved, dict):
        raise InputError(f"{path}: expected settings, found {type(saved).__name__}")
    return saved


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _number(value: Any) -> int | float:
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else float(number)
