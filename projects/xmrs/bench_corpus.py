"""A synthetic Recipe1M of any size for the bench, and the LMDB build restated as the released code does it."""

import json
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs import recipe1m
from projects.xmrs.recipe1m import PARTITIONS
from projects.xmrs.tokens import CLS, LANGUAGES, MAX_TOKENS, UNK
from shared.files import atomic_write

_SYLLABLES = [
    first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in ("", "n", "r")
]
_WORDS = 6000
_WHOLE = 3000  # words that are one piece


def words() -> list[str]:
    """Six thousand words of one to three syllables, the frequent ones first."""
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < _WORDS:
        found["".join(rng.choice(_SYLLABLES, rng.integers(1, 4)))] = None
    return list(found)


def write_vocabulary(path: Path) -> Path:
    """A vocab.txt with mBERT's special tokens: the frequent words, syllables and characters as pieces."""
    head = ["[PAD]", *[f"[unused{index}]" for index in range(1, 100)], "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(code) for code in range(33, 127)]
    pieces = [*characters, *[f"##{one}" for one in characters], *words()[:_WHOLE]]
    pieces += [*_SYLLABLES, *[f"##{one}" for one in _SYLLABLES]]
    path.write_text("\n".join(dict.fromkeys([*head, *pieces])) + "\n", encoding="utf-8")
    return path


def write_corpus(root: Path, num_recipes: int) -> Path:
    """Layers, key lists and classes of `num_recipes` recipes of about 225 tokens a language.

    The common words of a text are those of one of 500 texts; three words are its own, so the number of different
    words grows with the corpus as that of a real one does.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    ids = [f"{(index * 2654435761) % (1 << 40):010x}" for index in range(num_recipes)]
    partitions = [PARTITIONS[0 if index % 20 < 14 else 1 + index % 2] for index in range(num_recipes)]
    for number, language in enumerate(LANGUAGES):
        bodies = _bodies(rng, "" if language == "en" else f"_{language}")
        with atomic_write(recipe1m.layer_path(root, language), "w") as file:
            for index, (name, partition) in enumerate(zip(ids, partitions, strict=True)):
                own = tuple(_rare(len(LANGUAGES) * (3 * index + k) + number) for k in range(3))
                start = f'{{"id": "{name}", "partition": "{partition}", "url": "", '
                file.write(("[\n" if index == 0 else ",\n") + start + bodies[index % len(bodies)] % own)
            file.write("\n]\n")
    order = rng.permutation(num_recipes).tolist()
    recipe1m.write_images(root / "layer2.json", ((ids[index], [f"{ids[index]}.jpg"]) for index in order))
    for split in PARTITIONS:
        keys = [name for name, partition in zip(ids, partitions, strict=True) if partition == split]
        recipe1m.write_keys(root / f"{split}_keys.pkl", keys)
    recipe1m.write_classes(
        root / "classes1M.pkl", {name: index % 9 for index, name in enumerate(ids)}, {0: "-"}
    )
    return root


def _bodies(rng: np.random.Generator, suffix: str, count: int = 500) -> list[str]:
    """The text fields of recipes as JSON, with three gaps."""
    vocabulary, frequency = np.array(words()), 1 / np.arange(10, _WORDS + 10)
    found = []
    for text in vocabulary[rng.choice(_WORDS, (count, 150), p=frequency / frequency.sum())].tolist():
        text[2], text[20], text[80] = "%s", "%s", "%s"
        lines = [{"text": " ".join(text[at : at + 4])} for at in range(4, 40, 4)]
        steps = [{"text": " ".join(text[at : at + 11]).capitalize() + "."} for at in range(40, 150, 11)]
        fields = {
            f"title{suffix}": " ".join(text[:4]),
            f"ingredients{suffix}": lines,
            f"instructions{suffix}": steps,
        }
        found.append(json.dumps(fields)[1:])
    return found


def _rare(number: int) -> str:
    """The word of a number: four syllables, each number another."""
    base = len(_SYLLABLES)
    return "".join(_SYLLABLES[number // base**place % base] for place in range(4))


class PlainTokenizer:
    """BERT's cased WordPiece in plain Python, character by character, as the library did then."""

    def __init__(self, pieces: list[str]) -> None:
        self.known = {piece: index for index, piece in enumerate(pieces)}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        found: list[int] = []
        for word in self._words(text):
            found += self._pieces(word)
        return found

    def _words(self, text: str) -> list[str]:
        clean = "".join(self._clean(char) for char in text)
        found: list[str] = []
        for chunk in clean.split():
            fresh = True
            for char in chunk:
                if _is_punctuation(char):
                    found.append(char)
                    fresh = True
                elif fresh:
                    found.append(char)
                    fresh = False
                else:
                    found[-1] += char
        return found

    def _clean(self, char: str) -> str:
        code = ord(char)
        if char in " \t\n\r" or unicodedata.category(char) == "Zs":
            return " "
        if code == 0xFFFD or unicodedata.category(char).startswith("C"):
            return ""
        is_cjk = 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2CEAF
        return f" {char} " if is_cjk or 0xF900 <= code <= 0xFAFF or 0x2F800 <= code <= 0x2FA1F else char

    def _pieces(self, word: str) -> list[int]:
        if len(word) > 100:
            return [UNK]
        found, start = [], 0
        while start < len(word):
            end = len(word)
            while start < end:
                piece = ("##" if start else "") + word[start:end]
                if piece in self.known:
                    break
                end -= 1
            else:
                return [UNK]
            found.append(self.known[piece])
            start = end
        return found


def build_as_released(root: Path, output: Path, pieces: list[str]) -> None:
    """All layers in memory, list look-ups, a token list padded to 512, a pickle and a transaction a recipe."""
    import lmdb

    tokenizer = PlainTokenizer(pieces)
    keys = [key for split in PARTITIONS for key in recipe1m.read_keys(root / f"{split}_keys.pkl")]
    classes = recipe1m.read_classes(root / "classes1M.pkl").of
    layers: list[dict[str, Any]] = []
    for language in LANGUAGES:
        content = json.loads(recipe1m.layer_path(root, language).read_text(encoding="utf-8"))
        layers.append({item["id"]: item for item in content})
    images = json.loads((root / "layer2.json").read_text(encoding="utf-8"))
    output.mkdir(parents=True)
    opened = {split: lmdb.open(str(output / f"{split}_lmdb"), map_size=int(1e11)) for split in PARTITIONS}
    for item in images:
        if item["id"] not in keys:
            continue
        rows, parts = [], []
        for language, layer in zip(LANGUAGES, layers, strict=True):
            row, part = _row(tokenizer, layer[item["id"]], "" if language == "en" else f"_{language}")
            rows.append(row)
            parts.append(part)
        value = pickle.dumps(
            {
                "recipe": rows,
                "part_of_recipe": parts,
                "classes": classes[item["id"]] + 1,
                "imgs": item["images"][:5],
            }
        )
        with opened[layers[0][item["id"]]["partition"]].begin(write=True) as transaction:
            transaction.put(item["id"].encode(), value)
    for environment in opened.values():
        environment.close()


def _row(tokenizer: PlainTokenizer, item: dict[str, Any], suffix: str) -> tuple[list[int], list[int]]:
    ingredients = ". \n ".join(one["text"] for one in item[f"ingredients{suffix}"] if one["text"])
    instructions = ". \n ".join(one["text"] for one in item[f"instructions{suffix}"] if one["text"])
    strings = (item[f"title{suffix}"] + ". \n\n ", ingredients + ". \n\n ", instructions)
    row, part = [CLS], [-1]
    for number, text in enumerate(strings, 1):
        ids = tokenizer.ids(text.replace("..", "."))
        row += ids
        part += [number] * len(ids)
    padding = [0] * (MAX_TOKENS - len(row))
    return (row + padding)[:MAX_TOKENS], (part + padding)[:MAX_TOKENS]


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    is_ascii = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return is_ascii or unicodedata.category(char).startswith("P")
