"""Runs an entry and kills the process with SIGKILL: python kill_driver.py ENTRY POINT COUNT overrides...

| point | the process dies |
|---|---|
| step | after the COUNT-th step of an Adam or AdamW, before anything is written about it |
| scalars | after the COUNT-th line of metrics.jsonl |
| write | when half of the COUNT-th checkpoint is in the temporary file |
| fsync | when the COUNT-th checkpoint is whole in the temporary file, but not renamed |
| renamed | when the COUNT-th checkpoint has its name, but not its side file |
| best | when the COUNT-th best.pt is about to get its name |
| MODULE:NAME | before the COUNT-th call of this function or method (`package.module:Class.method`) |
"""

import importlib
import io
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from shared import checkpoint, files, log

remaining = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def due() -> bool:
    """Whether this is the COUNT-th time."""
    global remaining
    remaining -= 1
    return remaining == 0


def wrap(owner: Any, name: str, *, before: bool) -> None:
    """Let `owner.name` die at its COUNT-th call, before or after doing its work."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        fatal = due()
        if fatal and before:
            die()
        result = original(*arguments, **keywords)
        if fatal:
            die()
        return result

    setattr(owner, name, wrapped)


def is_checkpoint(content: Any) -> bool:
    """Ours, not a released file that an entry writes as well."""
    return isinstance(content, dict) and "format" in content


def half_written_checkpoint() -> None:
    original = torch.save

    def save(content: Any, file: Any) -> None:
        if not is_checkpoint(content) or not due():
            original(content, file)
            return
        whole = io.BytesIO()
        original(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        die()

    torch.save = save  # type: ignore[assignment]


def checkpoint_is_in_the_temporary_file() -> None:
    """Die in the fsync that follows the COUNT-th torch.save of a checkpoint."""
    original, saved = torch.save, [False]

    def save(content: Any, file: Any) -> None:
        original(content, file)
        saved[0] = is_checkpoint(content) and due()

    torch.save = save  # type: ignore[assignment]
    fsync = os.fsync

    def dying_fsync(descriptor: int) -> None:
        if saved[0]:
            die()
        fsync(descriptor)

    os.fsync = dying_fsync  # type: ignore[assignment]


def before_a_call(of: str) -> None:
    module, _, names = of.partition(":")
    *path, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    wrap(owner, name, before=True)


POINTS: dict[str, Callable[[], None]] = {
    "step": lambda: wrap(torch.optim.Adam, "step", before=False),
    "scalars": lambda: wrap(files, "append_jsonl", before=False),
    "write": half_written_checkpoint,
    "fsync": checkpoint_is_in_the_temporary_file,
    "renamed": lambda: wrap(checkpoint, "_write_side_files", before=True),
    "best": lambda: wrap(checkpoint, "_name_best", before=True),
}


if __name__ == "__main__":
    entry, point, count, *overrides = sys.argv[1:]
    assert log.files is files, "log must write through shared.files, or the point `scalars` is never met"
    assert torch.optim.AdamW.step is torch.optim.Adam.step, "or the point `step` is never met with AdamW"
    remaining = int(count)
    if ":" in point:
        before_a_call(of=point)
    else:
        POINTS[point]()
    sys.argv = [entry, *overrides]
    runpy.run_path(entry, run_name="__main__")
    sys.exit(f"{point} {count} was never reached")
