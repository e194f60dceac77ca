"""Tokenised recipes in LMDB: one value a recipe, compact and without pickle; the released values are read too.

A value of ours (little endian): `XMR1`, class + 1 (int32), tokens per part (uint16 [6, 3]), the token ids of
the six rows without padding (uint32), the pictures as JSON. Key = recipe id in UTF-8, as in the release.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs.recipe1m import read_keys
from projects.xmrs.tokens import LANGUAGES, MAX_TOKENS, part_numbers
from shared import pickles
from shared.atomic import unreadable
from shared.errors import InputError
from shared.files import open_lmdb

MAX_IMAGES = 5  # pictures of a recipe that are kept
ROWS = len(LANGUAGES)
_MAGIC = b"XMR1"
_HEADER = 4 + 4 + 2 * 3 * ROWS
_ORDER_OF_PARTS = (1, 2, 3)


@dataclass(frozen=True)
class Entry:
    """One recipe: its six texts as token ids, its class and the names of its first pictures.

    rows: int32 [n] each, [CLS] first, unpadded, in the order of LANGUAGES; lengths: [6, 3], tokens per part;
    class_index: 0 = background; image_records: {"id", "url"} of at most five pictures.
    """

    rows: list[np.ndarray]
    lengths: np.ndarray
    class_index: int
    image_records: list[dict[str, str]]

    @property
    def images(self) -> list[str]:
        """The ids of the pictures."""
        return [record["id"] for record in self.image_records]

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """int8 [n] of each row: -1 for [CLS], then 1, 2, 3 for title, ingredients, instructions."""
        return [part_numbers(lengths) for lengths in self.lengths]


class RecipeStore:
    """The recipes of one split, in the order of its keys file; opened when first used, once in each process.

    Args:
        folder: `<data>/<split>_lmdb`.
        keys: the keys file; None takes `<data>/<split>_keys.pkl` beside the folder.

    Raises:
        InputError: no such database or keys file, a database of another layout or size, a damaged value.
    """

    def __init__(self, folder: Path, keys: Path | None = None) -> None:
        self.folder = Path(folder)
        if keys is None:
            keys = self.folder.with_name(self.folder.name.removesuffix("_lmdb") + "_keys.pkl")
        if not (self.folder / "data.mdb").is_file():
            raise InputError(f"{self.folder}: no such LMDB database (create_lmdb.py makes it)")
        self.keys_path = Path(keys)
        self.ids = read_keys(self.keys_path)
        self._path = os.path.realpath(self.folder)
        _forget_replaced(self._path)
        self._check()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _at(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.ids)}

    def index_of(self, recipe: str) -> int:
        """The position of a recipe id. InputError where the split has none of that name."""
        if recipe not in self._at:
            raise InputError(f"{self.keys_path}: no recipe {recipe!r} in this split")
        return self._at[recipe]

    def entry(self, index: int) -> Entry:
        """The recipe at a position."""
        return decode(self._value(self.ids[index]), f"{self.folder}: {self.ids[index]}")

    def _value(self, recipe: str) -> bytes:
        with _environment(self._path).begin() as transaction:
            value = transaction.get(recipe.encode())
        if value is None:
            raise InputError(f"{self.folder}: no recipe {recipe!r}, though {self.keys_path} lists it")
        return bytes(value)

    def _check(self) -> None:
        """Compare the numbers of recipes, and read one: another layout shows at once, not hours later."""
        held = _environment(self._path).stat()["entries"]
        if self.ids and held < len(self.ids):
            raise InputError(f"{self.folder}: holds {held} recipes, {self.keys_path} lists {len(self.ids)}")
        if self.ids:
            self.entry(0)


_opened: dict[str, tuple[int, int, Any]] = {}  # path -> process, inode, environment


def _environment(path: str) -> Any:
    """The open database of a folder: one a process, as LMDB demands, whatever number of stores read it.

    One that came through a fork is opened anew.
    """
    process, _, environment = _opened.get(path, (0, 0, None))
    if process == os.getpid():
        return environment
    if environment is not None:
        environment.close()  # without locks this frees memory only: the parent's stays as it is
    environment = open_lmdb(path)
    _opened[path] = (os.getpid(), _inode(path), environment)
    return environment


def _forget_replaced(path: str) -> None:
    """Close a database whose file is another one by now."""
    if path in _opened and _opened[path][1] != _inode(path):
        _opened.pop(path)[2].close()


def _inode(path: str) -> int:
    try:
        return os.stat(os.path.join(path, "data.mdb")).st_ino
    except OSError as error:
        raise unreadable(path, error) from None


def pack(rows: Sequence[bytes], lengths: np.ndarray, class_index: int, images: bytes) -> bytes:
    """The value of a recipe.

    Args:
        rows: of each language the ids without [CLS], uint32 little endian.
        lengths: [6, 3], tokens per part of each row.
        class_index: 0 = background; stored + 1, as in the release.
        images: JSON of a list of {"id", "url"}, at most MAX_IMAGES.
    """
    stored = (class_index + 1).to_bytes(4, "little", signed=True)
    return b"".join((_MAGIC, stored, lengths.astype("<u2").tobytes(), *rows, images))


def decode(value: bytes, source: str) -> Entry:
    """The recipe of a value, ours or a released (pickled) one. InputError for anything else."""
    if value[:4] != _MAGIC:
        if value[:1] in (b"\x80", b"("):  # how pickles of a dict begin
            return _released(value, source)
        raise InputError(f"{source}: expected a recipe of create_lmdb.py, found a value of another layout")
    if len(value) < _HEADER:
        raise InputError(f"{source}: damaged: {len(value)} bytes")
    lengths = np.frombuffer(value, "<u2", 3 * ROWS, 8).reshape(ROWS, 3).astype(np.int32)
    counts = lengths.sum(1)
    total = int(counts.sum())
    if len(value) < _HEADER + 4 * total or counts.max() >= MAX_TOKENS:
        raise InputError(f"{source}: damaged: {total} tokens in {len(value)} bytes")
    ids = np.empty(total + ROWS, np.int32)
    starts = np.concatenate(([0], np.cumsum(counts + 1)))
    ids[starts[:-1]] = 101
    flat = np.frombuffer(value, "<u4", total, _HEADER)
    rows, at = [], 0
    for row, count in enumerate(counts.tolist()):
        start = int(starts[row])
        ids[start + 1 : start + 1 + count] = flat[at : at + count]
        rows.append(ids[start : start + 1 + count])
        at += count
    try:
        images = json.loads(value[_HEADER + 4 * total :])
    except ValueError:
        raise InputError(f"{source}: damaged: its pictures cannot be read") from None
    return Entry(rows, lengths, int.from_bytes(value[4:8], "little", signed=True) - 1, images)


def _released(value: bytes, source: str) -> Entry:
    """A value of the released code: {recipe, part_of_recipe: 6 lists of 512, classes, imgs}, pickled."""
    found = pickles.load(pickles.MappedFile(value), source)
    if not isinstance(found, dict) or not {"recipe", "part_of_recipe", "classes", "imgs"} <= set(found):
        keys = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise InputError(f"{source}: expected recipe, part_of_recipe, classes and imgs, found {keys[:80]}")
    try:
        padded = np.asarray(found["recipe"], np.int32)
        parts = np.asarray(found["part_of_recipe"], np.int32)
        records = [{"id": str(one["id"]), "url": str(one.get("url", ""))} for one in found["imgs"]]
        class_index = int(found["classes"]) - 1
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise InputError(f"{source}: the fields of the recipe are not lists of numbers") from None
    if padded.shape != parts.shape or padded.ndim != 2 or len(padded) != ROWS:
        raise InputError(f"{source}: expected six rows of tokens, found {list(padded.shape)}")
    lengths = np.stack([(parts == part).sum(1) for part in _ORDER_OF_PARTS], 1).astype(np.int32)
    rows = [row[: 1 + count] for row, count in zip(padded, lengths.sum(1), strict=True)]
    return Entry(rows, lengths, class_index, records[:MAX_IMAGES])
