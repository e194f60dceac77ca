"""A translator out of a word table: the whole route runs with it offline, and its imperfections are known.

`dictionary.json` of its folder: `{"<direction>": {"words": {word: [[translation, probability], ...]},
"drop": share of words left out, "order": one of ORDERS, "moved": [words that the rule moves]}}`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import read_json

FILE = "dictionary.json"
_MEMORY = 1 << 17  # lines that are remembered


def _keep(words: list[str], moved: frozenset[str]) -> list[str]:
    return words


def _first_to_last(words: list[str], moved: frozenset[str]) -> list[str]:
    """A moved word at the beginning goes to the end of the line, before a closing dot."""
    if not words or words[0] not in moved:
        return words
    end = len(words) - (words[-1] == ".")
    return [*words[1:end], words[0], *words[end:]]


def _last_to_first(words: list[str], moved: frozenset[str]) -> list[str]:
    end = len(words) - (bool(words) and words[-1] == ".")
    if end < 1 or words[end - 1] not in moved:
        return words
    return [words[end - 1], *words[: end - 1], *words[end:]]


def _swap_next(words: list[str], moved: frozenset[str]) -> list[str]:
    """Each moved word changes place with the one after it."""
    found, at = list(words), 0
    while at + 1 < len(found):
        if found[at] in moved:
            found[at], found[at + 1] = found[at + 1], found[at]
            at += 1
        at += 1
    return found


ORDERS: dict[str, Callable[[list[str], frozenset[str]], list[str]]] = {
    "keep": _keep,
    "first-to-last": _first_to_last,
    "last-to-first": _last_to_first,
    "swap-next": _swap_next,
}


class DictionaryTranslator:
    """Translates word by word; the draws of a line depend on the direction and the line alone.

    Words are what stands between blanks. Unknown ones are copied, known ones left out with probability
    `drop`. A line that would lose all its words keeps them all.

    Raises:
        InputError: no dictionary.json in `folder`, no table of `direction` in it, or a field of another kind.
    """

    def __init__(self, folder: Path, direction: str) -> None:
        path = Path(folder) / FILE
        content = read_json(path)
        if not isinstance(content, dict) or direction not in content:
            found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise InputError(f"{path}: expected a table for {direction!r}, found {found or 'none'}")
        table, where = content[direction], f"{path}: {direction}"
        if not isinstance(table, dict) or not isinstance(table.get("words"), dict):
            raise InputError(f"{where}: words: expected {{word: [[translation, probability], ...]}}")
        self.direction = direction
        self.words = {
            word: _choices(given, f"{where}: words: {word}") for word, given in table["words"].items()
        }
        self.drop = table.get("drop", 0)
        if not isinstance(self.drop, int | float) or not 0 <= self.drop < 1:
            raise InputError(f"{where}: drop: expected a share below 1, found {self.drop!r}")
        if table.get("order", "keep") not in ORDERS:
            raise InputError(f"{where}: order: expected {' | '.join(ORDERS)}, found {table['order']!r}")
        self.order = ORDERS[table.get("order", "keep")]
        self.moved = frozenset(table.get("moved", []))
        self.identity = f"dictionary {direction} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        self._line = lru_cache(_MEMORY)(self._translate)

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The translation of each line, in order."""
        return [self._line(line) for line in lines]

    def _translate(self, line: str) -> str:
        draws = _uniforms(f"{self.direction}\n{line}")
        kept, whole = [], []
        for word in self.order(line.split(), self.moved):
            choices = self.words.get(word)
            if choices is None:
                whole.append(word)
                kept.append(word)
                continue
            is_dropped, draw = next(draws) < self.drop, next(draws)
            chosen = next((text for text, up_to in choices if draw < up_to), choices[-1][0])
            if chosen:
                whole.append(chosen)
                if not is_dropped:
                    kept.append(chosen)
        return " ".join(kept or whole) or line


def _choices(given: Any, where: str) -> list[tuple[str, float]]:
    """(translation, cumulated probability) from [[translation, probability], ...]."""
    try:
        texts = [str(text) for text, _ in given]
        shares = [float(share) for _, share in given]
    except (TypeError, ValueError):
        texts, shares = [], []
    total = sum(shares)
    if not texts or min(shares) < 0 or not 0 < total < float("inf"):
        raise InputError(f"{where}: expected [[translation, probability], ...], found {str(given)[:60]}")
    return list(zip(texts, accumulate(share / total for share in shares), strict=True))


def _uniforms(text: str) -> Iterator[float]:
    """Endless uniform numbers below 1 that depend on the text alone, on every machine."""
    seed, block = text.encode("utf-8", "surrogatepass"), 0
    while True:
        digest = hashlib.blake2b(seed, salt=block.to_bytes(16, "little")).digest()
        for at in range(0, len(digest), 8):
            yield (int.from_bytes(digest[at : at + 8], "little") >> 11) / (1 << 53)
        block += 1
