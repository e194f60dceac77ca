"""Who may write to a run's folder: one process at a time, and only with the settings it was made with."""

import errno
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from shared import files
from shared.errors import InputError

_SHOWN_DIFFERENCES = 5
_NO_WORK = ("config.yaml", "log.txt", ".lock")


def claim(run_dir: Path, config: Mapping[str, Any], free_keys: Sequence[str]) -> IO[str] | None:
    """Check the folder's settings against ours, or make it ours; the lock on it (None: cannot be locked).

    A folder in which nothing has been computed yet, e.g. because of an error in the settings, takes any.
    """
    files.ensure_writable(run_dir)
    lock = _lock(run_dir)
    path = run_dir / "config.yaml"
    try:
        if path.exists() and _holds_work(run_dir):
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


def _holds_work(run_dir: Path) -> bool:
    return any(
        file.name not in _NO_WORK and not file.name.startswith("events.out") for file in run_dir.iterdir()
    )


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
