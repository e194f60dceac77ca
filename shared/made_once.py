"""Procedural data sets: made on first use, safe against kills and against two processes at once."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import read_json, write_json

MARKER = "mini.json"  # the settings; written last


def make_once(
    root: Path,
    asked: Mapping[str, Any],
    defaults: Mapping[str, Any],
    write: Callable[[Path, dict[str, Any]], None],
) -> Path:
    """Call `write(folder, settings)` on a temporary folder and rename it to `root`, unless `root` is there.

    None in `asked` means the default in a new folder, anything in an old one. Two processes may race: the
    loser discards its copy. Raises InputError when `root` holds something else than what was asked for.
    """
    if _is_made(root, asked):
        return root
    settings = {name: defaults[name] if value is None else value for name, value in asked.items()}
    with _temporary_folder_beside(root) as folder:
        write(folder, settings)
        write_json(folder / MARKER, settings)
        try:
            os.rename(folder, root)
        except OSError:
            if not _is_made(root, asked):
                raise
    return root


def _is_made(root: Path, asked: Mapping[str, Any]) -> bool:
    """Whether `root` is there and whole; InputError when it is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False  # os.rename replaces an empty folder
    marker = root / MARKER
    if not marker.is_file():
        raise InputError(f"{root}: expected embedded data made by mini.py, found no {MARKER} in it")
    found = read_json(marker)
    wrong = [name for name, value in asked.items() if value is not None and found.get(name) != value]
    if wrong:
        difference = ", ".join(f"{name} is {found.get(name)!r}, expected {asked[name]!r}" for name in wrong)
        raise InputError(f"{marker}: made with other settings ({difference}); remove {root} to make it anew")
    return True


@contextmanager
def _temporary_folder_beside(root: Path) -> Iterator[Path]:
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}-", suffix=".tmp", dir=root.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
