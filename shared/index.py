"""An index: the embeddings of a collection, kept on disk and brought up to date instead of made again.

A folder holds `index.json` (which model, which files), `rows-*.npy` [n, E] float32, memory-mapped, and
`items-*.jsonl`, a name and a mark per row. What a killed build has encoded stays in `part-*` files for the
next one. A new state is written beside the old one; then `index.json` points to it.
"""

import contextlib
import fcntl
import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.errors import InputError
from shared.files import (
    atomic_path,
    ensure_writable,
    open_npy,
    read_json,
    read_jsonl,
    remove_leftovers,
    save_npy,
    write_json,
    write_jsonl,
)

FORMAT = 1
_PART_ROWS = 1024
_PART_SECONDS = 10.0  # a killed build loses at most this much work
_COPY_ROWS = 8192


@dataclass(frozen=True)
class Item:
    """One thing to embed: its name, and a mark that changes when its content does."""

    name: str
    mark: str


@dataclass(frozen=True)
class Skipped:
    """An item without an embedding, and why."""

    item: Item
    reason: str


@dataclass(frozen=True)
class Encoded:
    """Embeddings [b, E] of the items at `positions`, and the items that could not be read."""

    positions: np.ndarray
    embeddings: np.ndarray
    failures: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Index:
    """An index that is up to date: row i of `embeddings` (memory-mapped) belongs to item `positions[i]`."""

    folder: Path
    positions: np.ndarray  # [n] int64, into the items that were given; ascending
    embeddings: np.ndarray  # [n, E] float32
    skipped: tuple[Skipped, ...]
    num_encoded: int  # in this call; the others were there already


def model_identity(model: torch.nn.Module, **settings: object) -> str:
    """A hash of a model's weights and of the settings that its embeddings depend on."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    total.update(repr(sorted(settings.items())).encode())
    return total.hexdigest()


def update(
    folder: Path,
    items: Sequence[Item],
    encode: Callable[[Sequence[int]], Iterable[Encoded]],
    *,
    model: str,
    embed_size: int,
    strict: bool = False,
) -> Index:
    """Bring the index in `folder` to exactly `items`, encoding only what is new or changed.

    Args:
        folder: made when missing.
        items: what the index shall hold, in this order.
        encode: positions in `items` -> batches of embeddings, in any order.
        model: identity of the model (see `model_identity`).
        embed_size: E.
        strict: an item that cannot be read is an error and not only left out.

    Raises:
        InputError: the folder holds another model's index or something else, is damaged, or is being updated
            by another process; no item can be read; or `strict` and one cannot.
    """
    ensure_writable(folder)
    with _locked(folder):
        store = _Store(folder, model, embed_size)
        known = store.known()
        failed = store.failures()
        todo = [i for i, item in enumerate(items) if item not in known and (strict or item not in failed)]
        first = {items[i]: i for i in reversed(todo)}  # items that are there several times are encoded once
        num_encoded = 0
        for batch in store.saved(items, encode(sorted(first.values()))) if first else ():
            num_encoded += len(batch.positions)
            for position, reason in batch.failures:
                if strict:
                    raise InputError(reason)
                failed[items[position]] = reason
        known = store.known() if first else known
        positions = [i for i, item in enumerate(items) if item in known]
        skipped = tuple(Skipped(item, failed[item]) for item in items if item not in known)
        if not positions:
            raise InputError(f"none of the {len(items)} items can be read; the first: {skipped[0].reason}")
        embeddings = store.write([items[i] for i in positions], known, skipped)
    return Index(folder, np.array(positions, np.int64), embeddings, skipped, num_encoded)


class _Store:
    """The files of one index folder."""

    def __init__(self, folder: Path, model: str, embed_size: int) -> None:
        self.folder, self.model, self.embed_size = folder, model, embed_size
        self.head: dict[str, Any] = {
            "format": FORMAT,
            "model": model,
            "embed_size": embed_size,
            "skipped": [],
        }
        remove_leftovers(folder / "index.json")
        if (folder / "index.json").exists():
            found = read_json(folder / "index.json")
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise InputError(f"{folder / 'index.json'}: not an index of this version; remove the folder")
            if found.get("model") != model:
                raise InputError(
                    f"{folder}: this index was made with another model or other settings; "
                    "name another folder or remove it"
                )
            self.head = found
        elif any(p for p in folder.iterdir() if p.name != ".lock"):
            raise InputError(f"{folder}: not an index (no index.json) and not empty")
        else:
            write_json(folder / "index.json", self.head)
        for leftover in folder.glob(".*.tmp"):  # of a killed writer; we hold the lock
            leftover.unlink()

    def known(self) -> dict[Item, tuple[np.ndarray, int]]:
        """Where the embedding of every item lies that is on disk: (array, row)."""
        known: dict[Item, tuple[np.ndarray, int]] = {}
        names = [self.head["rows"]] if self.head.get("rows") else []
        names += sorted(path.stem.removeprefix("items-") for path in self.folder.glob("items-part-*.jsonl"))
        for name in names:
            rows = open_npy(self.folder / f"rows-{name}.npy", ndim=2, dtype="float32")
            records = list(read_jsonl(self.folder / f"items-{name}.jsonl"))
            if rows.shape != (len(records), self.embed_size):
                raise InputError(
                    f"{self.folder}: rows-{name}.npy holds {list(rows.shape)} values, expected "
                    f"[{len(records)}, {self.embed_size}]; remove the folder"
                )
            known.update({Item(r["name"], r["mark"]): (rows, i) for i, r in enumerate(records)})
        return known

    def failures(self) -> dict[Item, str]:
        """Items that could not be read the last time; they are not tried again until they change."""
        return {Item(s["name"], s["mark"]): s["reason"] for s in self.head["skipped"]}

    def saved(self, items: Sequence[Item], batches: Iterable[Encoded]) -> Iterator[Encoded]:
        """Pass `batches` on; what they hold is on disk `_PART_SECONDS` later, and at the end."""
        waiting: list[Encoded] = []
        last = time.monotonic()
        for batch in batches:
            waiting.append(batch)
            full = sum(len(b.positions) for b in waiting) >= _PART_ROWS
            if full or time.monotonic() - last > _PART_SECONDS:
                self._write_part(items, waiting)
                waiting, last = [], time.monotonic()
            yield batch
        self._write_part(items, waiting)

    def _write_part(self, items: Sequence[Item], batches: Sequence[Encoded]) -> None:
        rows = [b.embeddings for b in batches if len(b.positions)]
        if not rows:
            return
        name = f"part-{uuid.uuid4().hex[:12]}"
        save_npy(self.folder / f"rows-{name}.npy", np.concatenate(rows).astype(np.float32, copy=False))
        done = [items[i] for b in batches for i in b.positions]
        # written after the rows: a part counts once its names are there
        write_jsonl(self.folder / f"items-{name}.jsonl", ({"name": i.name, "mark": i.mark} for i in done))

    def write(
        self, items: Sequence[Item], known: dict[Item, tuple[np.ndarray, int]], skipped: Sequence[Skipped]
    ) -> np.ndarray:
        """Make the state on disk exactly `items`, unless it is that already; the rows, memory-mapped."""
        lost = [{"name": s.item.name, "mark": s.item.mark, "reason": s.reason} for s in skipped]
        digest = hashlib.sha256(repr([(i.name, i.mark) for i in items]).encode()).hexdigest()[:16]
        if self.head.get("rows") != digest:
            with atomic_path(self.folder / f"rows-{digest}.npy") as path:
                shape = (len(items), self.embed_size)
                rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                for start in range(0, len(items), _COPY_ROWS):
                    chunk = [known[item] for item in items[start : start + _COPY_ROWS]]
                    rows[start : start + len(chunk)] = np.stack([array[row] for array, row in chunk])
                rows.flush()
                del rows
            names = ({"name": item.name, "mark": item.mark} for item in items)
            write_jsonl(self.folder / f"items-{digest}.jsonl", names)
        if self.head.get("rows") != digest or self.head["skipped"] != lost:
            self.head = {**self.head, "rows": digest, "skipped": lost}
            write_json(self.folder / "index.json", self.head)
        for path in [*self.folder.glob("rows-*.npy"), *self.folder.glob("items-*.jsonl")]:
            if path.stem.partition("-")[2] != digest:
                path.unlink()
        return open_npy(self.folder / f"rows-{digest}.npy", ndim=2, dtype="float32")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is updating this index") from None
        yield
