"""How far a loop is: a bar on a terminal, otherwise a plain line about every ten seconds."""

import contextlib
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

LINE_EVERY = float(os.environ.get("WORDSIGHT_PROGRESS_SECONDS") or 10)  # seconds between plain lines


class Progress:
    """Counts steps and shows share, items per second, time left, memory and the values given to `update`.

    total, start: in steps (start > 0 after a resume; the rate counts from there). unit: what a step is
    called. items_per_step: what "items/s" counts. silent: show nothing (ranks other than 0).
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        *,
        unit: str = "step",
        items_per_step: float = 1,
        label: str = "",
        device: torch.device | None = None,
        silent: bool = False,
    ) -> None:
        self.total, self.done, self.start = total, start, start
        self.unit, self.items_per_step, self.label = unit, items_per_step, label
        self.device, self.silent = device, silent
        self.began = self._line_at = time.monotonic()
        self._line_done = start
        self._shown: dict[str, Any] = {}
        self._bar: Any = None
        if not silent and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit=unit, desc=label or None, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(ended_well=kind is None)

    def update(self, n: int = 1, **shown: Any) -> None:
        """Count n more steps; `shown` values stay until replaced. Tensors are read when a line is due."""
        self.done += n
        self._shown.update(shown)
        if self.silent:
            return
        if self._bar is not None:
            if self._bar.update(n):  # true when the bar has been drawn
                self._bar.set_postfix_str(self._facts(self._rate(self.start, self.began)), refresh=False)
        elif time.monotonic() - self._line_at >= LINE_EVERY:
            self._print_line()

    def close(self, ended_well: bool = True) -> None:
        """Show the last state."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif not self.silent and ended_well and self.done > self._line_done:
            self._print_line()
        self.silent = True

    def write(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def _print_line(self) -> None:
        recent = self._rate(self._line_done, self._line_at)
        overall = self._rate(self.start, self.began)
        left = (self.total - self.done) * self.items_per_step / overall if overall else 0.0
        share = 100 * self.done // self.total if self.total else 100
        parts = [
            f"{self.label} {self.done}/{self.total} {self.unit}s".strip(),
            f"{share} %",
            self._facts(recent),
            f"ETA {clock(left)}",
        ]
        print("  ".join(parts), file=sys.stderr, flush=True)
        self._line_at, self._line_done = time.monotonic(), self.done

    def _rate(self, since: int, began: float) -> float:
        return (self.done - since) * self.items_per_step / max(time.monotonic() - began, 1e-9)

    def _facts(self, rate: float) -> str:
        values = [f"{name} {_number(value)}" for name, value in self._shown.items()]
        return "  ".join(
            [f"{_number(rate)} items/s", *values, f"{memory_in_use(self.device) / 2**30:.1f} GiB"]
        )


def memory_in_use(device: torch.device | None = None) -> int:
    """Bytes: on a GPU the most that tensors have taken there, otherwise what this process holds in memory
    now.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def clock(seconds: float) -> str:
    """3725 -> 1:02:05; 65 -> 1:05."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
