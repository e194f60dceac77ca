"""Token rows of one language in a flat file, in the order in which they come; continued after a kill.

`<language>.tokens` holds the ids of all rows one after another (uint32, without [CLS]), `<language>.index` a
fixed-size record a recipe. Tokens are written before their records: what the index lists is whole.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs.recipe1m import PARTITIONS, Recipe, layer_path, stream_recipes
from projects.xmrs.tokens import Tokenizer, encode_recipes
from shared.errors import InputError
from shared.progress import Progress

_RECORD = np.dtype([("position", "<i4"), ("lengths", "<u2", 3), ("partition", "u1"), ("zero", "u1")])
_BLOCK = 1 << 20  # tokens counted at a time


class TokenFile:
    """The rows of one language: those written so far are kept, further ones are appended."""

    def __init__(self, folder: Path, language: str) -> None:
        self.language = language
        self.tokens_path, self.index_path = folder / f"{language}.tokens", folder / f"{language}.index"

    def write(
        self,
        root: Path,
        positions: Mapping[str, int],
        tokenizer: Tokenizer,
        *,
        chunk: int = 512,
        silent: bool = False,
    ) -> None:
        """Tokenise the recipes of `positions` (id -> row) that the layer of the language holds.

        Raises:
            InputError: no such layer, a recipe twice, a recipe without any text in the original.
        """
        source = layer_path(root, self.language)
        written = self._trim()
        seen = np.zeros(len(positions), bool)
        seen[written["position"]] = True
        skip = len(written)
        if skip == len(positions):
            return
        waiting: list[Recipe] = []
        with (
            open(self.tokens_path, "ab") as tokens,
            open(self.index_path, "ab") as index,
            Progress(
                len(positions), start=skip, unit="recipe", label=f"tokens {self.language}", silent=silent
            ) as bar,
        ):
            for recipe in stream_recipes(source, self.language):
                position = positions.get(recipe.id)
                if position is None:
                    continue
                if skip:  # written before the kill
                    skip -= 1
                    continue
                self._check(recipe, bool(seen[position]), source)
                seen[position] = True
                waiting.append(recipe)
                if len(waiting) == chunk:
                    self._append(waiting, positions, tokenizer, tokens, index)
                    bar.update(chunk)
                    waiting = []
            if waiting:
                self._append(waiting, positions, tokenizer, tokens, index)
                bar.update(len(waiting))

    def read_index(self, num_recipes: int) -> "TokenIndex":
        """Where the row of each position is."""
        return TokenIndex(self._records(), num_recipes)

    def occurring(self, vocab_size: int) -> np.ndarray:
        """bool [vocab_size]: which ids occur."""
        found = np.zeros(vocab_size, bool)
        with open(self.tokens_path, "rb") as file:
            while block := file.read(4 * _BLOCK):
                found[np.frombuffer(block, "<u4")] = True
        return found

    def _check(self, recipe: Recipe, is_known: bool, source: Path) -> None:
        if is_known:
            raise InputError(f"{source}: recipe {recipe.id}: is there twice")
        lines = (recipe.title, *recipe.ingredients, *recipe.instructions)
        if self.language == "en" and not any(line.strip() for line in lines):
            raise InputError(
                f"{source}: recipe {recipe.id}: title, ingredients, instructions: expected text, found none"
            )

    def _append(
        self,
        recipes: list[Recipe],
        positions: Mapping[str, int],
        tokenizer: Tokenizer,
        tokens: Any,
        index: Any,
    ) -> None:
        encoded = encode_recipes(tokenizer, recipes)
        records = np.zeros(len(recipes), _RECORD)
        records["position"] = [positions[recipe.id] for recipe in recipes]
        records["lengths"] = [lengths for _, lengths in encoded]
        records["partition"] = [PARTITIONS.index(recipe.partition) for recipe in recipes]
        tokens.write(np.concatenate([ids[1:] for ids, _ in encoded]).astype("<u4").tobytes())
        tokens.flush()
        index.write(records.tobytes())
        index.flush()

    def _records(self) -> np.ndarray:
        if not self.index_path.exists():
            return np.empty(0, _RECORD)
        whole = self.index_path.stat().st_size // _RECORD.itemsize
        return np.fromfile(self.index_path, _RECORD, whole)

    def _trim(self) -> np.ndarray:
        """The records whose tokens are there; what a kill (or a crash of the machine) cut is taken off."""
        records = self._records()
        held = self.tokens_path.stat().st_size // 4 if self.tokens_path.exists() else 0
        ends = np.cumsum(records["lengths"].sum(1, dtype=np.int64))
        records = records[: int(np.searchsorted(ends, held, side="right"))]
        if self.tokens_path.exists():
            os.truncate(self.tokens_path, 4 * int(records["lengths"].sum(dtype=np.int64)))
        if self.index_path.exists():
            os.truncate(self.index_path, records.nbytes)
        return records


class TokenIndex:
    """Of each position: the place of its row in the token file, its tokens per part, its partition.

    present: bool [N]; starts: int64 [N]; lengths: uint16 [N, 3]; partitions: uint8 [N], into PARTITIONS.
    """

    def __init__(self, records: np.ndarray, num_recipes: int) -> None:
        at = records["position"]
        self.present = np.zeros(num_recipes, bool)
        self.present[at] = True
        self.lengths = np.zeros((num_recipes, 3), np.uint16)
        self.lengths[at] = records["lengths"]
        counts = records["lengths"].sum(1, dtype=np.int64)
        self.starts = np.zeros(num_recipes, np.int64)
        self.starts[at] = np.cumsum(counts) - counts
        self.partitions = np.zeros(num_recipes, np.uint8)
        self.partitions[at] = records["partition"]
        self.total = int(counts.sum())


class TokenReader:
    """Rows by position. Read, not mapped: a mapped file would count as memory of the process."""

    def __init__(self, file: TokenFile, index: TokenIndex) -> None:
        self.index = index
        self._handle = os.open(file.tokens_path, os.O_RDONLY)

    def row(self, position: int) -> bytes:
        """The ids of a row without [CLS], uint32 little endian."""
        count = int(self.index.lengths[position].sum(dtype=np.int64))
        return os.pread(self._handle, 4 * count, 4 * int(self.index.starts[position]))

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
