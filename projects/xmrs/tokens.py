"""WordPiece tokens of recipes, as multilingual cased BERT cuts them, and the layout of a stored row.

A row is [CLS] + title + ingredients + instructions, cut at 512. The paper feeds the whole recipe as this one
sequence; the [SEP] at its end is added when a row is read (`evaluation`), not when it is stored.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs.recipe1m import Recipe
from projects.xmrs.vocabulary import find_vocabulary, read_vocabulary
from shared.errors import InputError

LANGUAGES = ("en", "de-en", "ru-en", "de", "ru", "fr")  # the rows of a stored recipe, in this order
PARTS = ("title", "ingr", "inst")  # of a recipe, numbered from 1; [CLS] is part -1
MBERT = "bert-base-multilingual-cased"
PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
MAX_TOKENS = 512
_SPECIAL = {"[PAD]": PAD, "[UNK]": UNK, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
_LONGEST_WORD = 100  # characters; a longer word is [UNK]
_BETWEEN_BLANKS = re.compile(
    r"[^ \t\r\n]+"
).findall  # other blanks are cleaned away, or split, inside a chunk
_MEMORY = 1 << 17  # chunks that are remembered
_STORED = np.dtype("<u4")
_SIZE = _STORED.itemsize
_CLS = np.array([CLS], _STORED).tobytes()


class Tokenizer:
    """BERT's cased WordPiece: cleans blanks, splits at punctuation and CJK characters, longest match first.

    `pieces`: the text of each id, in id order. Raises InputError where the special tokens are not at mBERT's
    ids, which the stored rows and the model rely on.
    """

    def __init__(self, pieces: Sequence[str], source: str = "vocabulary") -> None:
        from tokenizers import AddedToken, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Backend

        self.pieces = list(pieces)
        ids = {piece: index for index, piece in enumerate(self.pieces)}
        for name, expected in _SPECIAL.items():
            if ids.get(name) != expected:
                found = f"line {ids[name] + 1}" if name in ids else "none"
                raise InputError(
                    f"{source}: expected {name} in line {expected + 1} (as mBERT has), found {found}"
                )
        model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
        self._backend = Backend(model)
        self._backend.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._backend.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
        self._remembered = _Remembered(self._backend)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.pieces)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the vocabulary: what a stored row depends on."""
        return hashlib.sha256("\n".join(self.pieces).encode()).hexdigest()

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.ids_batch([text])[0]

    def ids_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts."""
        return [np.frombuffer(one, _STORED).tolist() for one in self.packed_batch(texts)]

    def packed_batch(self, texts: Sequence[str]) -> list[bytes]:
        """Token ids of many texts as bytes (uint32, little endian).

        No piece crosses a blank, and recipes say the same words again and again: what stands between blanks is
        cut once and remembered, which is several times as fast as cutting whole texts.
        """
        get = self._remembered.__getitem__
        # in a printable text the only blanks are spaces; others may be controls, which join what is around them
        return [
            b"".join(map(get, text.split() if text.isprintable() else _BETWEEN_BLANKS(text)))
            for text in texts
        ]


class _Remembered(dict[str, bytes]):
    """Chunk of text without blanks -> its packed ids, asked from the tokenizer once."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self.backend = backend

    def __missing__(self, chunk: str) -> bytes:
        if len(self) >= _MEMORY:
            self.clear()
        packed = np.array(self.backend.encode(chunk, add_special_tokens=False).ids, _STORED).tobytes()
        self[chunk] = packed
        return packed

    def __reduce__(self) -> tuple[Any, ...]:
        return _Remembered, (self.backend,)  # workers begin with an empty memory


def build_tokenizer(vocab: Path | None = None, name: str = MBERT) -> Tokenizer:
    """The tokenizer of a vocab.txt (a file, or a folder that holds it), or of the model `name` of the hub.

    Raises:
        InputError: no such file, or not in the local cache and not to be fetched; no vocabulary of mBERT's kind.
    """
    path = find_vocabulary(vocab, name)
    return Tokenizer(read_vocabulary(path), str(path))


def recipe_strings(recipe: Recipe) -> tuple[str, str, str]:
    """Title, ingredients and instructions as the texts that are tokenised; doubled dots become one.

    The released code puts line ends beside the dots between the lines; they are blanks like any other.
    """
    ingredients = ". ".join(filter(None, recipe.ingredients))
    instructions = ". ".join(filter(None, recipe.instructions))
    return (
        f"{recipe.title}. ".replace("..", "."),
        f"{ingredients}. ".replace("..", "."),
        instructions.replace("..", "."),
    )


def assemble(parts: Sequence[bytes], max_tokens: int = MAX_TOKENS) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] + the packed ids of the three parts, cut: ids int32 [n <= max_tokens], tokens per part int32 [3]."""
    first = 1 + len(parts[0]) // _SIZE
    second = first + len(parts[1]) // _SIZE
    last = second + len(parts[2]) // _SIZE
    ids = np.frombuffer(b"".join((_CLS, *parts)), _STORED, min(last, max_tokens)).astype(np.int32)
    first, second, last = min(first, max_tokens), min(second, max_tokens), min(last, max_tokens)
    return ids, np.array([first - 1, second - first, last - second], np.int32)


def part_numbers(lengths: np.ndarray) -> np.ndarray:
    """int8 [n]: -1 for [CLS], then 1, 2, 3 for title, ingredients, instructions; from the tokens per part [3]."""
    return np.repeat(np.array([-1, 1, 2, 3], np.int8), [1, *lengths])


def encode_recipe(tokenizer: Tokenizer, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [n <= 512] of one recipe, as they are stored, and the part of each id, int8 [n]."""
    ids, lengths = assemble(tokenizer.packed_batch(recipe_strings(recipe)))
    return ids, part_numbers(lengths)


def encode_recipes(
    tokenizer: Tokenizer, recipes: Sequence[Recipe], max_tokens: int = MAX_TOKENS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids int32 [n], tokens per part int32 [3]) of each recipe; all texts go to the tokenizer at once."""
    found = tokenizer.packed_batch([text for recipe in recipes for text in recipe_strings(recipe)])
    return [assemble(found[at : at + 3], max_tokens) for at in range(0, len(found), 3)]
