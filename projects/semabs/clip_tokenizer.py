"""Texts to rows of token ids: CLIP's byte-pair encoding, and whole words for the embedded stand-in."""

import functools
import gzip
import html
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import LongTensor, Tensor

from shared.errors import InputError

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # of the table's lines after the first, as CLIP uses them
WORD_END = "</w>"


class Tokenizer(Protocol):
    """Rows start with SOT and end with EOT, which has the highest id; the rest of a row is 0."""

    context: int
    vocabulary: int

    def __call__(self, texts: Sequence[str]) -> LongTensor:
        """Token ids [n, context]; InputError names a text that is too long."""
        ...

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs to make it again; plain values."""
        ...


class BytePairTokenizer:
    """CLIP's tokenizer: lower-cased, byte-pair encoded, 49,408 ids.

    table: CLIP's list of merges; None = the copy that open_clip carries. InputError where it is not found.
    """

    def __init__(self, context: int = 77, table: Path | None = None) -> None:
        import regex

        self.context = context
        self.table = _table_of_open_clip() if table is None else Path(table)
        merges = _merges(self.table)
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.bytes = _printable_bytes()
        symbols = list(self.bytes.values())
        words = [*symbols, *(symbol + WORD_END for symbol in symbols), *("".join(pair) for pair in merges)]
        self.ids = {word: number for number, word in enumerate(words)}
        self.start, self.end = len(words), len(words) + 1
        self.vocabulary = len(words) + 2
        special = r"<\|startoftext\|>|<\|endoftext\|>"
        self.pattern = regex.compile(
            special + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
        )
        self.encoded: dict[str, list[int]] = {
            "<|startoftext|>": [self.start],
            "<|endoftext|>": [self.end],
        }

    def __call__(self, texts: Sequence[str]) -> LongTensor:
        """Token ids [n, context]; InputError names a text that is too long."""
        return _rows([self.encode(text) for text in texts], texts, self.start, self.end, self.context)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without SOT and EOT."""
        return [number for word in self.pattern.findall(_cleaned(text)) for number in self._word(word)]

    def settings(self) -> dict[str, Any]:
        """The length of a row; the table is CLIP's own."""
        return {"kind": "bpe", "context": self.context}

    def _word(self, word: str) -> list[int]:
        found = self.encoded.get(word)
        if found is None:
            parts = [self.bytes[byte] for byte in word.encode()]
            parts[-1] += WORD_END
            found = self.encoded[word] = [self.ids[part] for part in self._merged(parts)]
        return found

    def _merged(self, parts: list[str]) -> list[str]:
        """Join the pair of the lowest rank wherever it stands, until no pair is in the table."""
        while len(parts) > 1:
            pairs = itertools.pairwise(parts)
            pair = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if pair not in self.ranks:
                break
            joined: list[str] = []
            for part in parts:
                # a part that was just joined cannot be the left half again: "aaa" gives "aa", "a"
                if joined and part == pair[1] and joined[-1] == pair[0]:
                    joined[-1] = "".join(pair)
                else:
                    joined.append(part)
            parts = joined
        return parts


class WordTokenizer:
    """One id per known lower-case word; unknown words share id 1. Of the embedded stand-in."""

    def __init__(self, words: Sequence[str], context: int = 16) -> None:
        self.context = context
        self.words = sorted({word.lower() for word in words})
        self.ids = {word: number for number, word in enumerate(self.words, 2)}
        self.start, self.end = len(self.words) + 2, len(self.words) + 3
        self.vocabulary = len(self.words) + 4

    def __call__(self, texts: Sequence[str]) -> LongTensor:
        """Token ids [n, context]; InputError names a text that is too long."""
        rows = [[self.ids.get(word, 1) for word in split_words(text)] for text in texts]
        return _rows(rows, texts, self.start, self.end, self.context)

    def settings(self) -> dict[str, Any]:
        """The words and the length of a row."""
        return {"kind": "words", "words": self.words, "context": self.context}


def from_settings(settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer whose `settings()` these are; InputError for an unknown kind."""
    kinds = {"bpe": BytePairTokenizer, "words": WordTokenizer}
    kind = settings.get("kind")
    if kind not in kinds:
        raise InputError(f"tokenizer: expected one of {', '.join(kinds)}, found {kind!r}")
    made: Tokenizer = kinds[kind](**{name: value for name, value in settings.items() if name != "kind"})
    return made


def split_words(text: str) -> list[str]:
    """Lower-case words of letters and digits, as the `WordTokenizer` sees a text."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def _rows(rows: list[list[int]], texts: Sequence[str], start: int, end: int, context: int) -> LongTensor:
    tokens: Tensor = torch.zeros(len(rows), context, dtype=torch.long)
    for row, ids, text in zip(tokens, rows, texts, strict=True):
        if len(ids) + 2 > context:
            raise InputError(
                f"text {text[:60]!r}: {len(ids)} tokens, expected at most {context - 2}: use a shorter label"
            )
        row[: len(ids) + 2] = torch.tensor([start, *ids, end])
    return tokens  # type: ignore[return-value]


def _cleaned(text: str) -> str:
    """Broken encodings mended, HTML entities resolved (twice, as in CLIP), blanks joined, lower case."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


@functools.cache
def _printable_bytes() -> dict[int, str]:
    """A printable character for each byte, in the order of CLIP's ids: printable bytes stand for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {**{byte: chr(byte) for byte in own}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


@functools.cache
def _table_of_open_clip() -> Path:
    """Found without importing open_clip, which takes seconds."""
    package = importlib.util.find_spec("open_clip")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / BPE_FILE).is_file():
            return Path(folder) / BPE_FILE
    raise InputError(f"open_clip_torch: not installed, but its {BPE_FILE} is CLIP's table of tokens")


@functools.cache
def _merges(table: Path) -> tuple[tuple[str, str], ...]:
    try:
        with gzip.open(table, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")[1 : MERGES + 1]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: not CLIP's table of merges: {error}") from None
    pairs = [tuple(line.split()) for line in lines]
    if len(pairs) != MERGES or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"{table}: expected {MERGES} merges of two parts after the first line")
    return tuple((left, right) for left, right in pairs)
