"""Checkpoints from which a killed run goes on as if nothing had happened.

`last.pt` alone is the truth. It is written beside and renamed, so a kill at any byte leaves the previous one.
The side file `last.json` (progress, settings, versions) is for people and is written after it; `best.pt` is
another name (a hard link) of the `last.pt` that was best. A kill between these steps leaves them one
checkpoint behind; `resume` notices and catches up.
"""

import errno
import json
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from logging import getLogger
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared import files
from shared.errors import InputError
from shared.runtime import Runtime, barrier, gather_objects, rng_state, seed_everything, set_rng_state

FORMAT = "wordsight checkpoint 1"
LAST, BEST = "last.pt", "best.pt"
_SHOWN = 3  # keys named in a message; the rest is counted


class Stateful(Protocol):
    """What can be saved: modules, optimizers, scalers, a `shared.log.Run`."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that must be restored."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore it."""
        ...


def save(
    run_dir: Path,
    *,
    runtime: Runtime,
    modules: Mapping[str, Stateful],
    progress: Mapping[str, Any],
    config: Mapping[str, Any],
    best: bool = False,
) -> None:
    """Write `last.pt` (and `best.pt`): the modules' states, every rank's random generators, the progress.

    To be called on all ranks; rank 0 writes, with its own modules. progress and config: what JSON can hold
    (their round trip through JSON is what `resume` gives back). OSError when the disk is full or read-only;
    the previous checkpoint is then intact.
    """
    generators = gather_objects(rng_state())
    if runtime.is_main:
        content = {
            "format": FORMAT,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "progress": _through_json(progress),
            "config": _through_json(config),
            "best": best,
            "rng": generators,
            "torch": str(torch.__version__),
        }
        last = run_dir / LAST
        with files.atomic_write(last) as file:
            torch.save(content, file)
        if best:
            _name_best(run_dir)
        _write_side_files(run_dir, content)
    barrier()


def resume(run_dir: Path, *, runtime: Runtime, modules: Mapping[str, Stateful]) -> dict[str, Any] | None:
    """Load `last.pt` into `modules`, restore this rank's random generators, return the progress; None without
    one.

    To be called on all ranks, at the start of a run: it also removes what a killed writer left behind.
    InputError for a damaged or foreign file, or one whose modules are not these. With another number of ranks
    than saved, the generators are seeded anew (from the saved ones and the rank), and a warning says so.
    """
    last = run_dir / LAST
    if runtime.is_main:
        for name in (LAST, BEST, _side(LAST), _side(BEST)):
            files.remove_leftovers(run_dir / name)
    if not last.exists():
        return None
    content = load(last, mmap=False)
    _restore_modules(modules, content["modules"], last)
    _restore_generators(content["rng"], runtime)
    if runtime.is_main:
        if content["best"] and not _same_file(last, run_dir / BEST):
            _name_best(run_dir)
        _write_side_files(run_dir, content)
    barrier()
    progress: dict[str, Any] = content["progress"]
    return progress


def load(path: Path, *, mmap: bool = True) -> dict[str, Any]:
    """A checkpoint that `save` wrote: {"modules": {name: state}, "progress", "config", ...}; nothing in it is
    executed.

    mmap: tensors are read from the file when they are first used. InputError when it is missing, damaged or
    not ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, zipfile.BadZipFile):
        raise InputError(
            f"{path}: not a readable checkpoint of this program (damaged, or of another)"
        ) from None
    except OSError as error:  # an empty file cannot be mapped: EINVAL
        reason = "empty" if error.errno == errno.EINVAL else error.strerror
        raise InputError(f"{path}: not a readable checkpoint: {reason or error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this program: expected the mark {FORMAT!r}")
    return content


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Any],
    *,
    source: str,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Load `state` into `module`; InputError when a key is missing, unexpected or of another shape.

    source: names the file in the message. allow_*: keys or patterns (`*.num_batches_tracked`) that are let
    pass. Nothing is loaded when there is an error.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not _matches(key, allow_missing)]
    unexpected = [key for key in state if key not in own and not _matches(key, allow_unexpected)]
    common = [key for key in own if key in state]
    misfits = [text for key in common if (text := _misfit(key, own[key], state[key]))]
    problems = [
        f"{len(keys)} {what} ({_first_few(keys)})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
        if keys
    ]
    if problems:
        raise InputError(
            f"{source}: does not fit {type(module).__name__} ({len(own)} tensors): {'; '.join(problems)}"
        )
    module.load_state_dict({key: state[key] for key in common}, strict=False)


def _restore_modules(modules: Mapping[str, Stateful], states: Mapping[str, Any], source: Path) -> None:
    if set(modules) != set(states):
        raise InputError(f"{source}: holds {sorted(states)}, expected {sorted(modules)}")
    for name, module in modules.items():
        if isinstance(module, nn.Module):
            load_strictly(module, states[name], source=f"{source} ({name})")
        elif states[name]:  # a loss scaler that was off has nothing to restore
            try:
                module.load_state_dict(states[name])
            except (ValueError, KeyError) as error:
                raise InputError(f"{source}: the state of {name} does not fit: {error}") from None


def _restore_generators(saved: list[dict[str, Any]], runtime: Runtime) -> None:
    if len(saved) == runtime.world_size:
        set_rng_state(saved[runtime.rank])
        return
    seed_everything(zlib.crc32(saved[0]["torch"].numpy().tobytes()) + runtime.rank)
    if runtime.is_main:
        getLogger(__name__).warning(
            f"warning: saved by {len(saved)} ranks, resumed by {runtime.world_size}: the random generators "
            "are seeded anew, so the numbers will not be those of an uninterrupted run"
        )


def _name_best(run_dir: Path) -> None:
    """Make `best.pt` another name of `last.pt`: no second write of a large file."""
    with files.atomic_path(run_dir / BEST) as temporary:
        try:
            os.link(run_dir / LAST, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(run_dir / LAST, temporary)


def _write_side_files(run_dir: Path, content: Mapping[str, Any]) -> None:
    side = {
        "progress": content["progress"],
        "best": content["best"],
        "ranks": len(content["rng"]),
        "torch": content["torch"],
        "config": content["config"],
    }
    for name in (LAST, BEST) if content["best"] else (LAST,):
        files.write_json(run_dir / _side(name), side)


def _side(name: str) -> str:
    return str(Path(name).with_suffix(".json"))


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and os.path.samefile(a, b)


def _through_json(value: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value, default=lambda scalar: scalar.item()))
    return plain


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _misfit(key: str, own: Any, found: Any) -> str | None:
    if not isinstance(own, Tensor):
        return None
    if not isinstance(found, Tensor):
        return f"{key}: expected a tensor, found {type(found).__name__}"
    if own.shape != found.shape:
        return f"{key}: expected {list(own.shape)}, found {list(found.shape)}"
    return None


def _first_few(texts: Sequence[str]) -> str:
    rest = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f", and {rest} more" if rest > 0 else "")
