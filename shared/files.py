"""Files: JSON, text lines, checksums; atomic writes, NumPy files and images come from their own modules.

Everything others need is importable from here. Nothing here unpickles: see `shared.untrusted`. An error of
the user is an InputError that names the file, and the line where there is one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from shared.arrays import load_npz, npy_header, open_hdf5, open_lmdb, open_npy, save_npy, save_npz
from shared.atomic import PathLike, atomic_path, atomic_write, first_line, remove_leftovers, unreadable
from shared.errors import InputError
from shared.images import decode_image, read_image

__all__ = [
    "append_jsonl",
    "atomic_path",
    "atomic_write",
    "decode_image",
    "ensure_writable",
    "free_bytes",
    "load_npz",
    "npy_header",
    "open_hdf5",
    "open_lmdb",
    "open_npy",
    "read_image",
    "read_json",
    "read_jsonl",
    "read_lines",
    "remove_leftovers",
    "save_npy",
    "save_npz",
    "sha256",
    "stream_json_items",
    "stream_json_pairs",
    "write_json",
    "write_jsonl",
]


def write_json(path: PathLike, value: Any, *, indent: int | None = 2) -> None:
    """Write `value` atomically; NumPy scalars and arrays become numbers and lists, paths become strings."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def read_json(path: PathLike) -> Any:
    """The value of a UTF-8 JSON file. InputError (with line and column) when it is missing or malformed."""
    try:
        return json.loads(_decode(_read_bytes(path), path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{path}: not valid JSON: nested too deeply") from None


def write_jsonl(path: PathLike, records: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically."""
    with atomic_write(path, "w") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, default=_plain) + "\n")


def append_jsonl(path: PathLike, records: Iterable[Any]) -> None:
    """Add lines to a JSON-lines file in one write, after cutting off a line that a kill left unfinished."""
    lines = "".join(json.dumps(record, ensure_ascii=False, default=_plain) + "\n" for record in records)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.truncate(_end_of_last_line(file, end))
        file.write(lines.encode())


def read_jsonl(path: PathLike) -> Iterator[Any]:
    """The values of a JSON-lines file, one at a time, without blank lines and a last line that a kill cut."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise InputError(f"{path}:{number}: not valid JSON: {error}") from None


def stream_json_items(path: PathLike, prefix: str) -> Iterator[Any]:
    """Values of a JSON file too large to hold, one at a time; `prefix` as in ijson: `"images.item"`, `"item"`."""
    import ijson

    return _stream_json(path, ijson.items, prefix)


def stream_json_pairs(path: PathLike, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of the JSON object at `prefix` ("" = the whole file), one at a time."""
    import ijson

    return _stream_json(path, ijson.kvitems, prefix)


def read_lines(path: PathLike) -> list[str]:
    r"""Lines of a UTF-8 text file, without `\n`, `\r\n` and a byte order mark; blank lines are kept.

    Only a newline ends a line (`str.splitlines` would also break at U+2028 and others, and shift every
    caption after). InputError names the line that is not UTF-8.
    """
    raw = _read_bytes(path)
    lines = _decode(raw, path).removeprefix("\ufeff").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines] if b"\r" in raw else lines


def sha256(path: PathLike) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def ensure_writable(folder: PathLike) -> Path:
    """Make `folder` and write a trial file (before work that takes long); InputError where that fails."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot write in this folder: {error.strerror or error}") from None


def free_bytes(path: PathLike) -> int:
    """Bytes that this user can still write on the disk of `path` (which need not exist yet)."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _end_of_last_line(file: IO[bytes], end: int) -> int:
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _read_bytes(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def _decode(raw: bytes, path: PathLike) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: not UTF-8 text (byte {raw[error.start]:#04x} at {error.start})"
        ) from None


def _stream_json(path: PathLike, read: Any, prefix: str) -> Iterator[Any]:
    import ijson

    try:
        with open(path, "rb") as file:
            yield from read(file, prefix, use_float=True)
    except OSError as error:
        raise unreadable(path, error) from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON: {first_line(error)}") from None
