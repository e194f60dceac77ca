"""The LMDBs of Recipe1M: tokenise each language once, then put the six rows of a recipe together.

Memory holds an index of a few dozen bytes a recipe, never texts. Everything is made in `<output>/.building`
and moved to its place at the end; a killed run continues there.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from projects.xmrs import lmdb_sources, lmdb_store
from projects.xmrs.lmdb_database import write_database
from projects.xmrs.recipe1m import PARTITIONS, write_keys
from projects.xmrs.token_files import TokenFile, TokenReader
from projects.xmrs.tokens import CLS, LANGUAGES, Tokenizer
from shared.errors import InputError
from shared.files import atomic_write, read_json, save_npy, write_json

DONE = "create_lmdb.json"  # written last
TOKENS = "corpus_tokens.npy"
_PAGE = 4096  # bytes of LMDB's pages
_NAMES = ("Training", "Validation", "Testing")


@dataclass(frozen=True)
class Summary:
    """Recipes per split, and key-list entries left out because a layer does not hold them."""

    counts: dict[str, int]
    missing: int


def write_stores(
    root: Path,
    output: Path,
    tokenizer: Tokenizer,
    *,
    allow_missing: bool = False,
    chunk_recipes: int = 512,
    commit_recipes: int = 1000,
    silent: bool = False,
) -> Summary:
    """Write `{train,val,test}_lmdb/`, their keys, `files_in_DB.txt` and `corpus_tokens.npy` into `output`.

    A recipe is kept where one of the three key lists names it; the split it goes to is that of its partition.

    Args:
        root: Recipe1M as distributed, with the five translated layers.
        output: `loader_data`; a finished one of the same sources is left as it is.
        tokenizer: cuts the texts.
        allow_missing: leave out recipes of the key lists that layer1 or layer2 lacks, instead of refusing.
        chunk_recipes: recipes tokenised and kept together.
        commit_recipes: recipes written in one transaction.
        silent: no progress.

    Raises:
        InputError: a missing or damaged file, a recipe without text, class or translation, an output made from
            other sources, or no room on the disk.
    """
    settings = lmdb_sources.fingerprint(root, tokenizer, allow_missing)
    building = output / ".building"
    if (output / DONE).exists():
        found = read_json(output / DONE)
        lmdb_sources.compare(output / DONE, found, settings, "choose another output, or remove that folder")
        return Summary(found["recipes"], found["missing"])
    lmdb_sources.begin(output, building, settings)
    files = [TokenFile(building, language) for language in LANGUAGES]
    try:
        corpus = lmdb_sources.read_images(root, building, allow_missing)
        classes = lmdb_sources.read_class_of(root / "classes1M.pkl", corpus)
        for file in files:
            file.write(root, corpus.positions, tokenizer, chunk=chunk_recipes, silent=silent)
        indexes = [file.read_index(len(corpus.positions)) for file in files]
        absent = lmdb_sources.check_presence(root, corpus, indexes, allow_missing)
    except InputError:  # a source has to change, and with it what was made from it
        shutil.rmtree(building, ignore_errors=True)
        raise

    counts = {}
    readers = [TokenReader(file, index) for file, index in zip(files, indexes, strict=True)]
    images = _Images(building / lmdb_sources.IMAGES, corpus.image_ends)
    try:
        for number, split in enumerate(PARTITIONS):
            chosen = indexes[0].present & (indexes[0].partitions == number)
            recipes = [(name, position) for name, position in corpus.positions.items() if chosen[position]]
            write_keys(output / f"{split}_keys.pkl", [name for name, _ in recipes])
            recipes.sort()
            write_database(
                output / f"{split}_lmdb",
                building,
                len(recipes),
                lambda done, own=recipes: _values(own[done:], readers, images, classes),  # type: ignore[misc]
                size=_bytes_of(chosen, readers, images),
                commit=commit_recipes,
                silent=silent,
            )
            counts[split] = len(recipes)
    finally:
        images.close()
        for reader in readers:
            reader.close()
    _write_side_files(output, files, tokenizer, counts)
    summary = Summary(counts, corpus.missing + absent)
    write_json(output / DONE, {**settings, "recipes": counts, "missing": summary.missing})
    shutil.rmtree(building, ignore_errors=True)
    return summary


class _Images:
    """The pictures of a recipe by its position, as JSON."""

    def __init__(self, path: Path, ends: np.ndarray) -> None:
        self.ends, self._handle = ends, os.open(path, os.O_RDONLY)

    def line(self, position: int) -> bytes:
        start = int(self.ends[position - 1]) if position else 0
        return os.pread(self._handle, int(self.ends[position]) - 1 - start, start)

    def close(self) -> None:
        os.close(self._handle)


def _values(
    recipes: list[tuple[str, int]], readers: list[TokenReader], images: _Images, classes: np.ndarray
) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each recipe."""
    for name, position in recipes:
        lengths = np.stack([reader.index.lengths[position] for reader in readers])
        rows = [reader.row(position) for reader in readers]
        value = lmdb_store.pack(rows, lengths, int(classes[position]), images.line(position))
        yield name.encode(), value


def _bytes_of(chosen: np.ndarray, readers: list[TokenReader], images: _Images) -> int:
    """About the size of a split's database; values take whole pages."""
    tokens = sum(int(reader.index.lengths[chosen].sum(dtype=np.int64)) for reader in readers)
    return 4 * tokens + int(images.ends[-1]) + 2 * _PAGE * int(chosen.sum())


def _write_side_files(
    output: Path, files: list[TokenFile], tokenizer: Tokenizer, counts: dict[str, int]
) -> None:
    """The ids that occur (for a compact table of word embeddings), and the released text file of the numbers."""
    occurring = np.logical_or.reduce([file.occurring(tokenizer.vocab_size) for file in files])
    occurring[CLS] = True
    save_npy(output / TOKENS, np.flatnonzero(occurring).astype(np.int32))
    lines = [f"{name} samples: {counts[split]}" for name, split in zip(_NAMES, PARTITIONS, strict=True)]
    with atomic_write(output / "files_in_DB.txt", "w") as file:
        file.write("\n".join([*lines, f"recipe array row order: {', '.join(LANGUAGES)}", ""]))
