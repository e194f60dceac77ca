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
import math
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from shared import files
from shared.errors import InputError
from shared.progress import Progress
from shared.run_folder import claim
from shared.runtime import Runtime, gather_objects

# may change between the start and a resume: they do not change what is computed
FREE_KEYS = ("runtime.device", "runtime.threads", "workers", "log_every", "save_every")
_SHOWN_WARNINGS = 3  # of each kind; the rest is only counted


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
            lock = claim(run_dir, config, free_keys)
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
        for name, value in values.items():
            self._writer().add_scalar(name, _number(value), step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Add a picture, RGB uint8 [H, W, 3], to TensorBoard."""
        if self.runtime.is_main:
            self._writer().add_image(name, pixels, step, dataformats="HWC")

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

    def _writer(self) -> Any:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.dir), purge_step=self._purge_step)
        return self._events

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


def _number(value: Any) -> int | float:
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else float(number)
