"""BERT's uncased tokeniser: words first, then WordPiece (spec section 4 and quirk 21).

Transformers 5 no longer has the two stages as objects, and word dropping needs the words between them.
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from shared.errors import InputError

LONGEST_WORD = 100  # characters; a longer word is [UNK]
_ASCII_CONTROL = {code: None for code in [*range(32), 127] if chr(code) not in "\t\n\r"}
_ASCII_WORD = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def basic_words(text: str) -> list[str]:
    """Words of a caption: lower-cased, without accents, split at blanks, punctuation and CJK characters."""
    if text.isascii():  # nearly every caption, and ten times as fast
        return _ASCII_WORD.findall(text.translate(_ASCII_CONTROL).lower())
    words: list[str] = []
    for chunk in _clean(text).split():
        words.extend(_split_punctuation(_strip_accents(chunk.lower())))
    return " ".join(words).split()


def word_pieces(word: str, ids: dict[str, int], unknown: int) -> list[int]:
    """Greedy longest match from the left; pieces after the first carry `##`. No match anywhere: one [UNK]."""
    if len(word) > LONGEST_WORD:
        return [unknown]
    pieces: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            piece = ids.get(prefix + word[start:end])
            if piece is not None:
                break
        else:
            return [unknown]
        pieces.append(piece)
        start = end
    return pieces


def read_vocabulary(path: Path) -> list[str]:
    """Lines of a `vocab.txt`, in id order (lines end at "\\n" only: the vocabulary holds exotic blanks)."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 file ({error.reason} at byte {error.start})") from None
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def find_vocabulary(bert: str, vocab_path: Path | None = None) -> Path:
    """The `vocab.txt` of a BERT: an explicit file or folder, a local model folder, or the Hugging Face cache.

    Where none of these has it, it is fetched as `transformers` would (unless HF_HUB_OFFLINE is set).

    Raises:
        InputError: found nowhere; the message lists the places.
    """
    if vocab_path is not None:
        for candidate in (vocab_path, vocab_path / "vocab.txt"):
            if candidate.is_file():
                return candidate
        raise InputError(f"{vocab_path}: expected BERT's vocab.txt or a folder that holds it, found neither")
    folder = Path(bert).expanduser()
    if folder.is_dir():
        if (folder / "vocab.txt").is_file():
            return folder / "vocab.txt"
        raise InputError(f"{folder}: expected vocab.txt in the BERT folder, found none")
    from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

    looked_at = [str(folder)]
    names = [bert] if "/" in bert else [bert, f"google-bert/{bert}"]
    for name in names:
        try:
            cached = try_to_load_from_cache(name, "vocab.txt", cache_dir=constants.HF_HUB_CACHE)
        except errors.HFValidationError:
            continue
        if isinstance(cached, str):
            return Path(cached)
        looked_at.append(f"{constants.HF_HUB_CACHE}/models--{name.replace('/', '--')}")
    try:
        return Path(hf_hub_download(names[-1], "vocab.txt", cache_dir=constants.HF_HUB_CACHE))
    except Exception as error:  # the hub raises a dozen kinds: offline, refused, unknown name, full disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise InputError(
        f"vocab.txt of {bert!r} not found in {', '.join(looked_at)}, and fetching it failed ({reason}); "
        "set vocab_path to the file"
    )


def check_special_tokens(tokens: Sequence[str], source: str) -> dict[str, int]:
    """Token -> id (the last of a token listed twice, as in the release), the special ones checked."""
    ids = {token: index for index, token in enumerate(tokens)}
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if token not in ids]
    if missing:
        raise InputError(
            f"{source}: not a BERT vocabulary: no {', '.join(missing)} among {len(tokens)} tokens"
        )
    if ids["[PAD]"] != 0:
        raise InputError(f"{source}: expected [PAD] in line 1 (id 0), found it in line {ids['[PAD]'] + 1}")
    return ids


def _clean(text: str) -> str:
    """Control characters and U+FFFD removed, every blank a space, spaces around CJK characters."""
    out = []
    for char in text:
        code = ord(char)
        category = unicodedata.category(char)
        if char in " \t\n\r" or category == "Zs":
            out.append(" ")
        elif code == 0xFFFD or category[0] == "C":
            continue
        elif any(low <= code <= high for low, high in _CJK_BLOCKS):
            out.append(f" {char} ")
        else:
            out.append(char)
    return "".join(out)


def _strip_accents(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


def _split_punctuation(word: str) -> list[str]:
    parts: list[str] = []
    fresh = True
    for char in word:
        if _is_punctuation(char):
            parts.append(char)
            fresh = True
        elif fresh:
            parts.append(char)
            fresh = False
        else:
            parts[-1] += char
    return parts


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(char)[0] == "P"
