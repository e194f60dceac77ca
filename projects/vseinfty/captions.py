"""Captions -> token ids, with word dropping (spec section 4): BERT's WordPiece, or nltk words."""

import functools
import logging
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from projects.vseinfty import augmentation, vocabulary, wordpiece
from projects.vseinfty.vocabulary import Vocabulary
from shared.errors import InputError

_log = logging.getLogger(__name__)


class Tokenizer:
    """Words of a caption as lists of sub-token ids; a fixed prefix and suffix that dropping never touches."""

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        unknown_id: int,
        mask_id: int,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ):
        self.tokens = tokens
        self.vocab_size = len(tokens)
        self.unknown_id, self.mask_id = unknown_id, mask_id
        self.prefix, self.suffix = tuple(prefix), tuple(suffix)

    def words(self, caption: str) -> list[list[int]]:
        """Sub-token ids of each word that dropping treats as one."""
        raise NotImplementedError

    def encode(self, caption: str) -> list[int]:
        """Token ids as evaluation uses them; no truncation."""
        return [*self.prefix, *chain.from_iterable(self.words(caption)), *self.suffix]

    def encode_dropped(self, caption: str, rng: np.random.Generator) -> list[int]:
        """Token ids with words masked (10 %), replaced (2 %) or deleted (8 %), as training uses them."""
        rows, lengths = TokenTable.build(self, [caption]).dropped(np.zeros(1, np.int64), [rng])
        return rows[0, : lengths[0]].tolist()

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The token strings of ids (for pictures of the pooling weights)."""
        return [self.tokens[index] for index in ids]


class BertTokenizer(Tokenizer):
    """BERT uncased; `[CLS]` and `[SEP]` are never dropped, a word's sub-tokens go together."""

    def __init__(self, tokens: Sequence[str], *, source: str = "BERT vocabulary"):
        ids = wordpiece.check_special_tokens(tokens, source)
        super().__init__(
            tokens,
            unknown_id=ids["[UNK]"],
            mask_id=ids["[MASK]"],
            prefix=[ids["[CLS]"]],
            suffix=[ids["[SEP]"]],
        )
        self._ids = ids
        self._known: dict[str, list[int]] = {}

    def words(self, caption: str) -> list[list[int]]:
        """WordPiece ids of each basic word."""
        return [self._pieces(word) for word in wordpiece.basic_words(caption)]

    def _pieces(self, word: str) -> list[int]:
        pieces = self._known.get(word)
        if pieces is None:
            pieces = wordpiece.word_pieces(word, self._ids, self.unknown_id)
            if len(self._known) < 200_000:  # bounds the memory
                self._known[word] = pieces
        return pieces


class BiGRUTokenizer(Tokenizer):
    """`<start>` + nltk words of the lower-cased caption + `<end>`; all of them can be dropped."""

    def __init__(self, words: Vocabulary):
        super().__init__(words.words, unknown_id=words.unknown_id, mask_id=words.mask_id)
        self.vocabulary = words
        self._ends = words.id(vocabulary.START), words.id(vocabulary.END)

    def words(self, caption: str) -> list[list[int]]:
        """Every token is a word of its own."""
        start, end = self._ends
        return [[start], *([index] for index in self.vocabulary.ids(word_tokenize(caption.lower()))), [end]]


def build_tokenizer(
    *, text_encoder: str, vocab_path: str | Path | None = None, bert: str = "bert-base-uncased"
) -> Tokenizer:
    """The tokeniser of a text encoder.

    Args:
        text_encoder: "bert" or "bigru".
        vocab_path: bigru: the vocabulary json; bert: `vocab.txt` or its folder (default: that of `bert`;
            a .json is the words of a set, which BERT ignores, as released).
        bert: name or folder of the BERT.

    Raises:
        InputError: no such encoder, or its vocabulary is missing or of another kind.
    """
    path = Path(vocab_path).expanduser() if vocab_path else None
    if text_encoder == "bert":
        if path is not None and path.suffix == ".json":
            path = None
        found = wordpiece.find_vocabulary(bert, path)
        return BertTokenizer(wordpiece.read_vocabulary(found), source=str(found))
    if text_encoder == "bigru":
        if path is None:
            raise InputError("vocab_path: the BiGRU text encoder needs its vocabulary file, found nothing")
        return BiGRUTokenizer(vocabulary.read(path))
    raise InputError(f"text_encoder: expected 'bert' or 'bigru', found {text_encoder!r}")


def check_vocab_size(tokenizer: Tokenizer, expected: int, *, source: str) -> None:
    """Raise InputError when the vocabulary is not the one that a checkpoint was trained with."""
    if tokenizer.vocab_size != expected:
        raise InputError(
            f"{source}: trained with a vocabulary of {expected} tokens, found one of {tokenizer.vocab_size}: "
            "wrong vocabulary (see vocab_path)"
        )


class TokenTable:
    """Token ids of all captions of a split, computed once; batches are cut out of it without a loop.

    Attributes:
        ids: [T] int32, all captions one after the other.
        offsets: [n + 1] int64, where each caption begins.
        words: [T] int32, the word within its caption that a token belongs to; -1 for prefix and suffix.
        num_words: [n] int64.
    """

    def __init__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        words: np.ndarray,
        num_words: np.ndarray,
        tokenizer: Tokenizer,
    ):
        self.ids, self.offsets, self.words, self.num_words = ids, offsets, words, num_words
        self.mask_id, self.vocab_size = tokenizer.mask_id, tokenizer.vocab_size

    @classmethod
    def build(cls, tokenizer: Tokenizer, captions: Sequence[str]) -> "TokenTable":
        """Tokenise captions."""
        parts_ids: list[np.ndarray] = []
        parts_words: list[np.ndarray] = []
        lengths = np.zeros(len(captions) + 1, np.int64)
        num_words = np.zeros(len(captions), np.int64)
        for first in range(0, len(captions), 4096):  # in parts: Python's integers are ten times the size
            ids: list[int] = []
            words: list[int] = []
            for row, caption in enumerate(captions[first : first + 4096], start=first):
                before = len(ids)
                ids.extend(tokenizer.prefix)
                words.extend([-1] * len(tokenizer.prefix))
                own = tokenizer.words(caption)
                for number, pieces in enumerate(own):
                    ids.extend(pieces)
                    words.extend([number] * len(pieces))
                ids.extend(tokenizer.suffix)
                words.extend([-1] * len(tokenizer.suffix))
                lengths[row + 1], num_words[row] = len(ids) - before, len(own)
            parts_ids.append(np.array(ids, np.int32))
            parts_words.append(np.array(words, np.int32))
        empty = [np.zeros(0, np.int32)]
        return cls(
            np.concatenate(parts_ids or empty),
            lengths.cumsum(),
            np.concatenate(parts_words or empty),
            num_words,
            tokenizer,
        )

    def __len__(self) -> int:
        return len(self.num_words)

    @property
    def lengths(self) -> np.ndarray:
        """[n] number of tokens of each caption without dropping."""
        return np.diff(self.offsets)

    def padded(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids [B, L] int64 right-padded with 0, and lengths [B] int64, without dropping."""
        lengths = self.offsets[indices + 1] - self.offsets[indices]
        return pad_flat(self.ids[_ragged(self.offsets[indices], lengths)], lengths)

    def dropped(
        self, indices: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same with word dropping, each caption from its own generator.

        A generator gives one uniform per word, then one vocabulary entry per replaced sub-token.
        """
        num_words = self.num_words[indices]
        uniforms = [rng.random(count) for rng, count in zip(generators, num_words, strict=True)]

        def replacements(counts: np.ndarray) -> np.ndarray:
            used = [(rng, count) for rng, count in zip(generators, counts, strict=True) if count]
            drawn = [rng.integers(self.vocab_size, size=count) for rng, count in used]
            return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)

        return self.dropped_by_draws(indices, np.concatenate([*uniforms, np.zeros(0)]), replacements)

    def dropped_by_draws(
        self, indices: np.ndarray, uniforms: np.ndarray, replacements: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Word dropping with the draws given.

        Args:
            indices: [B] captions.
            uniforms: one draw per word, caption after caption.
            replacements: given the number of replaced sub-tokens of each caption [B], their new ids in order.
        """
        starts, lengths = self.offsets[indices], self.offsets[indices + 1] - self.offsets[indices]
        chosen = _ragged(starts, lengths)
        ids, words = self.ids[chosen], self.words[chosen]
        owners = np.repeat(np.arange(len(indices)), lengths)
        first_word = np.concatenate([[0], np.cumsum(self.num_words[indices])])[:-1]
        fixed = words < 0
        draws = np.ones(len(ids))
        draws[~fixed] = uniforms[(first_word[owners] + words)[~fixed]]
        actions = augmentation.word_actions(draws)
        counts = np.bincount(owners[actions == augmentation.REPLACE], minlength=len(indices))
        ids = augmentation.apply_actions(
            ids, actions, mask_id=self.mask_id, replacements=replacements(counts)
        )
        kept = augmentation.kept_tokens(actions, owners, len(indices), draws)
        return pad_flat(ids[kept], np.bincount(owners[kept], minlength=len(indices)))


def pad_flat(flat: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [B, L] int64 right-padded with 0 from sequences one after the other, and their lengths."""
    rows = np.zeros((len(lengths), int(lengths.max(initial=0))), np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = flat
    return rows, lengths.astype(np.int64)


def _ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Positions starts[b] .. starts[b] + lengths[b] - 1 of all b, one after the other."""
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + within


# Captions of plain words, commas and a full stop at the end need no sentence splitter and no rule of nltk's
# a second of import saved, and most of the time. Words that those rules take apart are left to nltk.
_PLAIN = re.compile(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*,?|,)(?: +(?:[a-z0-9]+(?:-[a-z0-9]+)*,?|,))*(?: *\.)?")
_TAKEN_APART = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna|whaddya|whatcha)\b")


def word_tokenize(caption: str) -> list[str]:
    """nltk's `word_tokenize` of a lower-cased caption: sentences, then Penn Treebank words (quirk 27)."""
    text = caption.strip()
    if not text:
        return []
    if _PLAIN.fullmatch(text) and not _TAKEN_APART.search(text):
        return text.replace(",", " , ").replace(".", " . ").split()
    split_sentences, split_words = _nltk()
    return [word for sentence in split_sentences(text) for word in split_words(sentence)]


@functools.cache
def _nltk() -> tuple[Any, Any]:
    """nltk's sentence and word splitters; without the punkt data, an untrained sentence splitter."""
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTokenizer

    try:
        sentences = PunktTokenizer("english").tokenize
        _log.info("captions are split into sentences with nltk's punkt_tab data")
    except LookupError:
        sentences = PunktSentenceTokenizer().tokenize
        _log.warning(
            "nltk's punkt_tab data is not installed: a sentence ends at every full stop, abbreviations too "
            "(python -m nltk.downloader punkt_tab gives the released splitting)"
        )
    return sentences, NLTKWordTokenizer().tokenize
