"""What a run's numbers depend on, as hashes: the files its entry imports, configs, overrides, data."""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

_PACKAGES = ("shared", "projects")


@functools.cache
def _code_digest(entry: Path, repository: Path) -> str:
    return digest_of_files(imported_files(entry, repository), repository)


def imported_files(entry: Path, repository: Path) -> list[Path]:
    """`entry` and every file of this repository that it imports, also inside functions, sorted."""
    waiting, seen = [entry.resolve()], set()
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting.extend(_direct_imports(file, repository.resolve()))
    return sorted(seen)


@functools.cache
def _direct_imports(file: Path, repository: Path) -> tuple[Path, ...]:
    found: list[Path] = []
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in _PACKAGES:
                path = repository.joinpath(*name.split("."))
                found.extend(p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())
    return tuple(found)


def config_files(entry: Path, overrides: Sequence[str]) -> Iterator[Path]:
    """The configs an entry can read: its own, its groups, and of `experiment` only what an override names."""
    folder = entry.parent / "configs"
    yield from folder.glob(f"{entry.stem}.yaml")
    yield from (
        f for f in sorted(folder.glob("*/**/*.yaml")) if f.relative_to(folder).parts[0] != "experiment"
    )
    chosen = (text.lstrip("+").partition("=") for text in overrides)
    waiting = [name for key, _, name in chosen if key == "experiment"]
    seen: set[Path] = set()
    while waiting:
        file = folder / "experiment" / f"{waiting.pop()}.yaml"
        if file.is_file() and file not in seen:
            seen.add(file)
            waiting.extend(_inherited(file))
    yield from sorted(seen)


def _inherited(file: Path) -> list[str]:
    """The experiments that an experiment's `defaults` list starts from."""
    defaults = (yaml.safe_load(file.read_bytes()) or {}).get("defaults") or []
    return [item.rpartition("/")[2] for item in defaults if isinstance(item, str) and item != "_self_"]


def digest_of_files(files: Iterable[Path], base: Path) -> str:
    """SHA-256 over names (relative to `base`) and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.resolve().relative_to(base.resolve()).as_posix()}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def fingerprint(
    entry: Path, overrides: Sequence[str], repository: Path, data_files: Sequence[Path]
) -> dict[str, object]:
    """Everything that decides a run's numbers; two runs with equal fingerprints give the same results."""
    return {
        "overrides": list(overrides),
        "code": _code_digest(entry, repository),
        "configs": digest_of_files(config_files(entry, overrides), repository),
        "data": [
            [str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in data_files if path.exists()
        ],
    }
