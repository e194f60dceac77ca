"""Databases of the released code (pickled values) into ours: a hundred times as fast to read, and safe."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from projects.xmrs import lmdb_store
from projects.xmrs.lmdb_database import write_database
from projects.xmrs.lmdb_store import RecipeStore
from projects.xmrs.lmdb_writer import TOKENS, Summary
from projects.xmrs.recipe1m import PARTITIONS, write_keys
from projects.xmrs.tokens import Tokenizer
from shared.errors import InputError
from shared.files import read_json, save_npy, write_json


def convert(source: Path, output: Path, tokenizer: Tokenizer, *, silent: bool = False) -> Summary:
    """Write the three databases of `source` into `output`, with keys and `corpus_tokens.npy`.

    Raises:
        InputError: a database that is missing or of another layout, a token that the vocabulary does not have,
            or other databases at the output already.
    """
    if source.resolve() == output.resolve():
        raise InputError(f"{output}: is the folder that is read; choose another output")
    scratch, marker = output / ".converting", output / "converted.json"
    settings = {"source": str(source.resolve()), "vocabulary": tokenizer.checksum}
    if not scratch.exists() and any((output / f"{split}_lmdb").exists() for split in PARTITIONS):
        if marker.exists() and {**read_json(marker), **settings} == read_json(marker):
            return Summary(read_json(marker)["recipes"], 0)
        raise InputError(f"{output}: holds databases that were not made from {source}; choose another output")
    scratch.mkdir(parents=True, exist_ok=True)
    if (scratch / "settings.json").exists() and read_json(scratch / "settings.json") != settings:
        raise InputError(f"{scratch}: was begun from another source; remove it to begin anew")
    write_json(scratch / "settings.json", settings)
    occurring = np.zeros(tokenizer.vocab_size, bool)
    counts = {}
    for split in PARTITIONS:
        store = RecipeStore(source / f"{split}_lmdb")
        write_keys(output / f"{split}_keys.pkl", store.ids)
        size = (source / f"{split}_lmdb" / "data.mdb").stat().st_size
        target = output / f"{split}_lmdb"
        values = _values(store, tokenizer.vocab_size)
        write_database(target, scratch, len(store), values, size=size, silent=silent)
        counts[split] = len(store)
        _mark_occurring(RecipeStore(target), occurring)
    save_npy(output / TOKENS, np.flatnonzero(occurring).astype(np.int32))
    write_json(marker, {**settings, "recipes": counts})
    shutil.rmtree(scratch, ignore_errors=True)
    return Summary(counts, 0)


def _values(store: RecipeStore, vocab_size: int) -> Callable[[int], Iterator[tuple[bytes, bytes]]]:
    """The pairs of our database from a position on, by ascending key."""
    order = sorted(range(len(store)), key=store.ids.__getitem__)

    def pairs(first: int) -> Iterator[tuple[bytes, bytes]]:
        for position in order[first:]:
            entry, name = store.entry(position), store.ids[position]
            largest = max(int(row.max()) for row in entry.rows)
            if largest >= vocab_size:
                raise InputError(
                    f"{store.folder}: {name}: token {largest}, but the vocabulary has {vocab_size}"
                )
            rows = [row[1:].astype("<u4").tobytes() for row in entry.rows]
            images = json.dumps(entry.image_records, separators=(",", ":")).encode()
            yield name.encode(), lmdb_store.pack(rows, entry.lengths, entry.class_index, images)

    return pairs


def _mark_occurring(store: RecipeStore, occurring: np.ndarray) -> None:
    for position in range(len(store)):
        occurring[np.concatenate(store.entry(position).rows)] = True
