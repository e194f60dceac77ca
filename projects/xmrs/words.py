"""WordPiece ids back to words: what a text was, as far as its tokens tell, and which tokens a word is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from projects.xmrs.recipe1m import Recipe
from projects.xmrs.tokens import CLS, PAD, SEP, UNK

_CLOSING = set(".,;:!?%)]}'\"°")
_OPENING = set("([{$#'\"")
_JOINING = set("/-'’")


@dataclass(frozen=True)
class Word:
    """A word and its tokens, `first` up to but not including `last`."""

    text: str
    first: int
    last: int


def words_of(ids: Sequence[int] | np.ndarray, pieces: Sequence[str]) -> list[Word]:
    """The words of token ids [n]; pieces that continue a word (`##...`) are joined to it.

    Special tokens are words of their own, padding is left out. `pieces`: the text of each id.
    """
    words: list[Word] = []
    for position, token in enumerate(np.asarray(ids).tolist()):
        if token == PAD:
            continue
        piece = pieces[token] if 0 <= token < len(pieces) else pieces[UNK]
        if piece.startswith("##") and words and words[-1].last == position and not _special(words[-1].text):
            words[-1] = Word(words[-1].text + piece[2:], words[-1].first, position + 1)
        else:
            words.append(Word(piece, position, position + 1))
    return words


def text_of(ids: Sequence[int] | np.ndarray, pieces: Sequence[str]) -> str:
    """The words of token ids as a line of text, without [CLS] and [SEP] and without blanks at punctuation."""
    kept = [token for token in np.asarray(ids).tolist() if token not in (CLS, SEP)]
    line, glued = "", True
    for word in words_of(kept, pieces):
        joins = word.text in _JOINING
        line += word.text if glued or joins or word.text in _CLOSING else f" {word.text}"
        glued = joins or word.text in _OPENING
    return line


def recipe_of(
    row: np.ndarray, lengths: np.ndarray, pieces: Sequence[str], *, name: str = "", partition: str = ""
) -> Recipe:
    """A stored row of token ids as a recipe to be read; its lines end where the text has a full stop.

    row: [n], [CLS] first; lengths: [3] tokens of the title, the ingredients and the instructions.
    """
    ends = 1 + np.cumsum([0, *np.asarray(lengths).tolist()])
    title, ingredients, instructions = (text_of(row[start:end], pieces) for start, end in pairwise(ends))
    return Recipe(name, title.strip(" ."), _lines(ingredients), _lines(instructions), partition, "")


def _lines(text: str) -> list[str]:
    return [line.strip(" .") for line in text.split(". ") if line.strip(" .")]


def _special(text: str) -> bool:
    return text.startswith("[") and text.endswith("]") and len(text) > 2
