"""How far a transfer of bytes is. (`shared.progress` counts steps of a run, with its memory, and needs torch.)"""

import os
import sys
import time


def human(size: float) -> str:
    """A number of bytes, to be read: 13.5 GB (powers of 1000, as the sites of data sets say it)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


class Meter:
    """Bytes so far, rate and time left on stderr: in place on a terminal, else a line every few seconds."""

    def __init__(self, name: str, total: int | None, start: int) -> None:
        self.name, self.total, self.start, self.done = name, total, start, start
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else float(os.environ.get("WORDSIGHT_PROGRESS_SECONDS") or 5)
        self.began = self.shown = time.monotonic()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            print(f"\r{self._line():<78}", file=sys.stderr, flush=True)

    def update(self, count: int) -> None:
        """`count` more bytes are there."""
        self.done += count
        now = time.monotonic()
        if now - self.shown >= self.every:
            self.shown = now
            start, end = ("\r", "") if self.terminal else ("", "\n")
            print(start + f"{self._line():<78}", end=end, file=sys.stderr, flush=True)

    def _line(self) -> str:
        rate = (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)
        text = f"{self.name}: {human(self.done)}"
        if self.total:
            text += f" of {human(self.total)} ({100 * self.done / self.total:.0f} %)"
        text += f", {human(rate)}/s"
        if self.total and rate:
            left = int(max(self.total - self.done, 0) / rate)
            text += f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        return text
