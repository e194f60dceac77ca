"""A small Recipe1M on disk with every kind of entry, for the tests of what reads it."""

import json
from pathlib import Path
from typing import Any

from projects.xmrs import recipe1m
from projects.xmrs.recipe1m import PARTITIONS, Recipe
from projects.xmrs.tokens import LANGUAGES, Tokenizer

WORDS = ("mix", "the", "salt", "rice", "and", "cup", "bake", "water", "serve", "with")
PIECES = [
    "[PAD]", *[f"[unused{index}]" for index in range(1, 100)], "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    *".,!?-()[]/\"'", *[chr(code) for code in range(97, 123)], *[f"##{chr(code)}" for code in range(97, 123)],
    *WORDS, "sol", "##ь", "й", "米", "##2", "2", "é", "e\u0301", "SEP", "##\u0301",
]  # fmt: skip


def tokenizer() -> Tokenizer:
    """Of PIECES, once each."""
    return Tokenizer(list(dict.fromkeys(PIECES)))


def recipes(count: int) -> list[Recipe]:
    """`count` recipes; the line lists differ in length, some lines are empty."""
    found = []
    for index in range(count):
        ingredients = [f"{WORDS[(index + line) % 10]} {WORDS[line % 10]}" for line in range(1 + index % 4)]
        instructions = [
            "" if index % 5 == line else f"{WORDS[line]} the rice." for line in range(1 + index % 3)
        ]
        name = f"{(index * 7919) % 99991:010x}"
        found.append(
            Recipe(
                name,
                f"{WORDS[index % 10]} rice",
                ingredients,
                instructions,
                PARTITIONS[index % 3],
                f"u{index}",
            )
        )
    return found


def write_corpus(root: Path, count: int = 30) -> list[Recipe]:
    """All files of a corpus: layer2 in another order than layer1, each translation in an order of its own."""
    listed = recipes(count)
    root.mkdir(parents=True, exist_ok=True)
    for shift, language in enumerate(LANGUAGES):
        own = listed[shift:] + listed[:shift]
        translated = [
            one if language == "en" else Recipe(
                one.id, f"{one.title} {language[:2]}", one.ingredients, one.instructions, one.partition, one.url
            )
            for one in own
        ]  # fmt: skip
        recipe1m.write_recipes(recipe1m.layer_path(root, language), translated, language)
    images = (
        (one.id, [f"{one.id[-4:]}{k}.jpg" for k in range(1 + n % 7)])
        for n, one in enumerate(reversed(listed))
    )
    recipe1m.write_images(root / "layer2.json", images)
    for split in PARTITIONS:
        recipe1m.write_keys(root / f"{split}_keys.pkl", [one.id for one in listed if one.partition == split])
    recipe1m.write_classes(
        root / "classes1M.pkl", {one.id: n % 5 for n, one in enumerate(listed)}, {0: "background"}
    )
    return listed


def edit(path: Path, number: int, **fields: Any) -> None:
    """Replace fields of one item of a JSON list; a field set to None goes."""
    items = json.loads(path.read_text(encoding="utf-8"))
    for name, value in fields.items():
        if value is None:
            items[number].pop(name)
        else:
            items[number][name] = value
    path.write_text(json.dumps(items), encoding="utf-8")
