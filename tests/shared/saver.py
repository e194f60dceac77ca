"""A run that counts and saves, to be killed. Imported once; the tests fork it (a fresh start of torch takes
seconds).

Its model holds the step in every weight, so that a checkpoint tells whether its parts belong together.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared import checkpoint, log
from shared.runtime import Runtime

RUNTIME = Runtime(torch.device("cpu"))
STEPS = 3
BEST_STEPS = (1, 3)


def count(folder: Path, steps: int) -> None:
    """Go on to `steps`, saving after each; what an entry's loop does."""
    model = nn.Linear(50, 50)
    with log.open_run(folder, {"name": "count", "seed": 0}, RUNTIME) as run:
        modules: dict[str, Any] = {"model": model, "run": run}
        progress = checkpoint.resume(folder, runtime=RUNTIME, modules=modules) or {"step": 0}
        run.rewind(progress["step"])
        for step in range(progress["step"] + 1, steps + 1):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(step)
            run.scalars(step, {"loss": 1 / step})
            checkpoint.save(
                folder,
                runtime=RUNTIME,
                modules=modules,
                progress={"step": step},
                config={"name": "count"},
                best=step in BEST_STEPS,
            )


def check(folder: Path) -> int:
    """The step of the last checkpoint (0: none yet); AssertionError where something is half-written."""
    last = _step(folder / "last.pt")
    best = _step(folder / "best.pt")
    best_so_far = max((step for step in BEST_STEPS if step <= last), default=0)
    # one behind: killed between the two names; the resume catches up
    assert best in (best_so_far, max((step for step in BEST_STEPS if step < last), default=0))
    for name in ("last.json", "best.json"):
        if (folder / name).exists():
            json.loads((folder / name).read_text())  # whole, whichever step
    return last


def check_finished(folder: Path) -> None:
    """As if nothing had happened."""
    assert check(folder) == STEPS
    assert _step(folder / "best.pt") == BEST_STEPS[-1]
    assert json.loads((folder / "last.json").read_text())["progress"] == {"step": STEPS}
    assert json.loads((folder / "best.json").read_text())["progress"] == {"step": BEST_STEPS[-1]}
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, STEPS + 1)]
    assert (folder / "metrics.jsonl").read_text().splitlines() == lines
    assert not list(folder.glob(".*.tmp"))


def _step(path: Path) -> int:
    if not path.exists():
        return 0
    content = checkpoint.load(path)
    step: int = content["progress"]["step"]
    assert content["modules"]["model"]["weight"].eq(step).all()
    assert content["modules"]["model"]["bias"].eq(step).all()
    assert content["best"] == (step in BEST_STEPS)
    return step


def killed_run(folder: Path, prepare: Callable[[], None], seconds: float | None = None) -> bool:
    """Run `count` in a forked process that `prepare` has set up; kill it after `seconds`. Whether it was
    killed.
    """
    child = os.fork()
    if child == 0:
        try:
            prepare()
            count(folder, STEPS)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def die_at_call(number: int) -> Callable[[], None]:
    """Kill the process at the number-th system call that puts something in its place, or inside a write."""

    def prepare() -> None:
        calls = iter(range(number, -1, -1))

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        def half_written(content: Any, file: Any) -> None:
            save(content, file)
            if next(calls) == 0:
                file.flush()
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        save, torch.save = torch.save, half_written
        without_fsync()
        for name in ("fsync", "replace", "link"):
            setattr(os, name, deadly(getattr(os, name)))

    return prepare


def without_fsync() -> None:
    """A killed process loses nothing that it gave to the system; fsync guards against a power cut, and is
    slow.
    """
    os.fsync = lambda file: None


def slow_down() -> None:
    """Make every write take long, so that a random kill falls inside one."""
    save = torch.save

    def slow_fsync(file: int) -> None:
        time.sleep(0.004)

    def slow_save(content: Any, file: Any) -> None:
        file.write(b"begun")
        file.flush()
        time.sleep(0.002)
        file.seek(0)
        save(content, file)
        file.flush()
        time.sleep(0.002)

    os.fsync, torch.save = slow_fsync, slow_save


def kill_everywhere(root: Path) -> dict[str, int]:
    """A fresh run killed at its first call, its second, ...: each is consistent, and continues to the end."""
    kills = 0
    while killed_run(folder := root / f"call{kills}", die_at_call(kills)):
        last = check(folder)
        assert not killed_run(folder, without_fsync)
        assert check(folder) >= last
        check_finished(folder)
        kills += 1
    return {"kills": kills}


def kill_at_random(root: Path) -> dict[str, int]:
    """Runs killed again and again at random moments: they never go back a step, and continue to the end."""
    draw = random.Random(0)
    kills = inside_a_write = 0
    for repetition in range(3):
        folder, last = root / f"random{repetition}", 0
        for _ in range(12):
            if not killed_run(folder, slow_down, seconds=draw.uniform(0, 0.1)):
                break
            kills += 1
            inside_a_write += bool(list(folder.glob(".*.tmp")))
            now = check(folder)
            assert now >= last
            last = now
        assert not killed_run(folder, without_fsync)
        check_finished(folder)
    return {"kills": kills, "inside a write": inside_a_write}


if __name__ == "__main__":
    from torch.utils.tensorboard import SummaryWriter

    torch.set_num_threads(1)  # forked processes share no thread pool
    assert SummaryWriter  # imported here, once
    torture = {"everywhere": kill_everywhere, "at random": kill_at_random}[sys.argv[1]]
    print(json.dumps(torture(Path(sys.argv[2]))))
