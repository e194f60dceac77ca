"""The word vocabulary of the BiGRU text encoder, in the JSON format of the SCAN release (spec section 3)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.errors import InputError
from shared.files import read_json, write_json

PAD, START, END, UNKNOWN, MASK = "<pad>", "<start>", "<end>", "<unk>", "<mask>"
SPECIAL_WORDS = (PAD, START, END, UNKNOWN)


class Vocabulary:
    """Words with ids 0..n-1; `<mask>` is always the last one (loading appends it to the file's words)."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        if MASK not in self.words:
            self.words.append(MASK)
        self._ids = {word: index for index, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary cannot hold a word twice")
        self.unknown_id = self._ids[UNKNOWN]
        self.mask_id = self._ids[MASK]

    def __len__(self) -> int:
        return len(self.words)

    def id(self, word: str) -> int:
        """Id of a word; the one of `<unk>` when it is not known."""
        return self._ids.get(word, self.unknown_id)

    def ids(self, words: Iterable[str]) -> list[int]:
        """Ids of words in order."""
        get, unknown = self._ids.get, self.unknown_id
        return [get(word, unknown) for word in words]


def build(captions: Iterable[Sequence[str]], *, min_count: int = 4) -> Vocabulary:
    """Vocabulary of tokenised captions: words seen `min_count` times or more, in the order first seen."""
    counts: Counter[str] = Counter()
    for words in captions:
        counts.update(words)
    frequent = [word for word, count in counts.items() if count >= min_count and word not in SPECIAL_WORDS]
    return Vocabulary([*SPECIAL_WORDS, *frequent])


def write(path: Path, vocabulary: Vocabulary) -> None:
    """Write `{"word2idx", "idx2word", "idx"}` without `<mask>`, as the release does."""
    words = [word for word in vocabulary.words if word != MASK]
    content = {
        "word2idx": {word: index for index, word in enumerate(words)},
        "idx2word": {str(index): word for index, word in enumerate(words)},
        "idx": len(words),
    }
    write_json(path, content)


def read(path: Path) -> Vocabulary:
    """Read a vocabulary file and append `<mask>`.

    Raises:
        InputError: the file is missing, is not of this format, or its ids are not 0..n-1 with `<pad>` at 0.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such vocabulary file; build_vocab.py writes one from the captions")
    content = read_json(path)
    ids = content.get("word2idx") if isinstance(content, dict) else None
    if not isinstance(ids, dict) or not all(
        isinstance(i, int) and not isinstance(i, bool) for i in ids.values()
    ):
        raise InputError(f'{path}: field "word2idx": expected an object of word -> integer')
    words = sorted(ids, key=ids.__getitem__)
    if [ids[word] for word in words] != list(range(len(words))):
        raise InputError(f'{path}: field "word2idx": expected the ids 0..{len(words) - 1} once each')
    count = content.get("idx", len(words))
    if count != len(words):
        raise InputError(f'{path}: field "idx": expected the number of words {len(words)}, found {count!r}')
    by_id = content.get("idx2word")
    if by_id is not None and by_id != {str(index): word for index, word in enumerate(words)}:
        raise InputError(f'{path}: field "idx2word" is not the inverse of "word2idx"')
    missing = [word for word in SPECIAL_WORDS if word not in ids]
    if missing or ids[PAD] != 0:
        found = f"{', '.join(missing)} missing" if missing else f"{PAD} at {ids[PAD]}"
        raise InputError(f"{path}: expected {' '.join(SPECIAL_WORDS)} with {PAD} at 0, found {found}")
    return Vocabulary(words)
