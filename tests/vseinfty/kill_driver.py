"""Runs train.py and kills the process with SIGKILL at a chosen point: python kill_driver.py POINT COUNT overrides...

| point | the process dies |
|---|---|
| step | after the COUNT-th optimizer step, before anything is written about it |
| scalars | after the COUNT-th line of metrics.jsonl |
| validate | between the encodings and the metrics of the COUNT-th validation |
| write | when half of the COUNT-th checkpoint is in the temporary file |
| fsync | when the COUNT-th checkpoint is whole in the temporary file, but not renamed |
| renamed | when the COUNT-th checkpoint has its name, but not its side file |
| best | when the COUNT-th best.pt is about to get its name |
"""

import io
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from projects.vseinfty import metrics
from shared import checkpoint, files, log
from tests.vseinfty.training_runs import TRAIN

remaining = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def due() -> bool:
    """Whether this is the COUNT-th time."""
    global remaining
    remaining -= 1
    return remaining == 0


def wrap(module: Any, name: str, *, before: bool, when: Callable[..., bool] = lambda *_: True) -> None:
    """Let `module.name` die at its COUNT-th call that `when` counts, before or after doing its work."""
    original = getattr(module, name)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        fatal = when(*arguments) and due()
        if fatal and before:
            die()
        result = original(*arguments, **keywords)
        if fatal:
            die()
        return result

    setattr(module, name, wrapped)


def half_written_checkpoint() -> None:
    original = torch.save

    def save(content: Any, file: Any) -> None:
        if not due():
            original(content, file)
            return
        whole = io.BytesIO()
        original(content, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        die()

    torch.save = save


def checkpoint_is_in_the_temporary_file() -> None:
    """Die in the fsync that follows the COUNT-th torch.save."""
    original, saved = torch.save, [False]

    def save(content: Any, file: Any) -> None:
        original(content, file)
        saved[0] = due()

    torch.save = save
    fsync = os.fsync

    def dying_fsync(descriptor: int) -> None:
        if saved[0]:
            die()
        fsync(descriptor)

    os.fsync = dying_fsync


POINTS: dict[str, Callable[[], None]] = {
    "step": lambda: wrap(torch.optim.AdamW, "step", before=False),
    "scalars": lambda: wrap(files, "append_jsonl", before=False),
    "validate": lambda: wrap(metrics, "retrieval", before=True),
    "write": half_written_checkpoint,
    "fsync": checkpoint_is_in_the_temporary_file,
    "renamed": lambda: wrap(checkpoint, "_write_side_files", before=True),
    "best": lambda: wrap(checkpoint, "_name_best", before=True),
}


if __name__ == "__main__":
    point, count, *overrides = sys.argv[1:]
    assert log.files is files, "log must write through shared.files, or the point `scalars` is never met"
    remaining = int(count)
    POINTS[point]()
    sys.argv = [str(TRAIN), *overrides]
    runpy.run_path(str(TRAIN), run_name="__main__")
    sys.exit(f"{point} {count} was never reached")
