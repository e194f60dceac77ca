"""The embedded data, "mini-kitchen": small procedural dishes and recipes, written in the layout of Recipe1M.

Photos are drawn, texts composed, and the five translations made by the dictionary translator through the same code
that translates Recipe1M; the LMDBs are written by the same writer. Some test recipes are pairs of relation twins
(the same words, X over Y against Y over X).

`shuffled/` is a control: the same set, but the translations of each training recipe are those of another one.

    python -m projects.xmrs.mini --root DIR
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from projects.xmrs import mini_languages, mini_strata, recipe1m
from projects.xmrs.dictionary_translator import DictionaryTranslator
from projects.xmrs.lmdb_writer import write_stores
from projects.xmrs.mini_drawing import draw_photo
from projects.xmrs.mini_strata import Entry
from projects.xmrs.mini_text import Text, write_text
from projects.xmrs.mini_world import BACKGROUND, Dish, class_names, dish_class, draw_dish
from projects.xmrs.recipe1m import PARTITIONS, DetectedIngredients, Recipe
from projects.xmrs.tokens import LANGUAGES, build_tokenizer
from projects.xmrs.translation import translate_layer
from shared.errors import InputError
from shared.files import write_json
from shared.made_once import make_once

FORMAT = 1  # raised whenever the same settings give other data
SHUFFLED = "shuffled"
DEFAULTS = {"seed": 0, "train": 350, "val": 300, "test": 600, "side": 80}
TWINS = 1 / 6  # of the val and test recipes begin a pair of twins
WITHOUT_PHOTO = (
    1 / 50
)  # as many recipes as this share of the training ones have no photo, as most of Recipe1M
PHOTOS = (0.6, 0.25, 0.15)  # one, two or three of a training recipe


def make(
    root: Path | str,
    *,
    seed: int | None = None,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    side: int | None = None,
) -> Path:
    """Make the set in the folder `root` on first use, in one step; return `root`. Takes about 15 seconds.

    A setting left out takes its default in a new folder, any value in an old one. Two processes may race: the
    loser discards its copy.

    Args:
        root: the folder.
        seed: of everything.
        train, val, test: recipes with photos.
        side: of the photos, pixels.

    Raises:
        InputError: `root` holds something else, or this set with other settings.
    """
    asked = {"format": FORMAT, "seed": seed, "train": train, "val": val, "test": test, "side": side}
    return make_once(Path(root), asked, DEFAULTS, _write)


def _write(folder: Path, settings: Mapping[str, int]) -> None:
    entries = {split: draw_split(split, settings) for split in PARTITIONS}
    for split in PARTITIONS:
        for entry in entries[split]:
            _write_photos(folder / "images", entry, settings)
    listed = [entry for split in PARTITIONS for entry in entries[split]]
    _write_tables(folder, listed)
    vocab = folder / "vocab.txt"
    vocab.write_text("".join(piece + "\n" for piece in mini_languages.vocabulary()), encoding="utf-8")
    (folder / "dictionary").mkdir()
    write_json(folder / "dictionary" / "dictionary.json", mini_languages.dictionary())
    for direction in ("de", "ru", "fr", "de-en", "ru-en"):  # the last two read the first two
        translate_layer(
            folder, direction, DictionaryTranslator(folder / "dictionary", direction), silent=True
        )
    _write_shuffled(folder, folder / SHUFFLED)
    tokenizer = build_tokenizer(vocab)
    for recipe1m_root in (folder, folder / SHUFFLED):
        write_stores(recipe1m_root, recipe1m_root / "loader_data", tokenizer, silent=True)
    write_json(folder / "strata.json", mini_strata.strata(entries))


def draw_split(split: str, settings: Mapping[str, int]) -> list[Entry]:
    """The recipes of a split, each from a random stream of its own; twins stand one after the other."""
    twins = 0 if split == "train" else int(TWINS * settings[split])
    entries: list[Entry] = []
    while len(entries) < settings[split]:
        entry = _draw_entry(split, len(entries), settings["seed"])
        entries.append(entry)
        if len(entries) < 2 * twins:
            entries.append(_turn_round(entry, len(entries), settings["seed"]))
    return entries


def _stream(seed: int, split: str, index: int, what: int) -> np.random.Generator:
    return np.random.default_rng([seed, PARTITIONS.index(split), index, what])


def _draw_entry(split: str, index: int, seed: int) -> Entry:
    rng = _stream(seed, split, index, 0)
    dish = draw_dish(rng)
    number = 0 if rng.random() < BACKGROUND else dish_class(dish)
    photos = 1 + int(rng.choice(len(PHOTOS), p=PHOTOS)) if split == "train" else 1
    text = write_text(dish, _stream(seed, split, index, 1))
    return _entry(split, index, seed, dish, text, photos, number)


def _turn_round(entry: Entry, index: int, seed: int) -> Entry:
    """The twin of the entry before `index`: its words and lines, the relation turned round, another photo."""
    split, dish = entry.recipe.partition, entry.dish.turned
    text = write_text(dish, _stream(seed, split, index - 1, 1))
    twin = _entry(split, index, seed, dish, text, len(entry.images), entry.dish_class)
    return replace(twin, twin=entry.recipe.id)


def _entry(split: str, index: int, seed: int, dish: Dish, text: Text, photos: int, dish_class: int) -> Entry:
    name = _name("recipe", seed, split, index)
    recipe = Recipe(name, text.title, text.ingredients, text.instructions, split, f"mini-kitchen/{name}")
    images = [f"{_name('photo', seed, split, index, number)}.jpg" for number in range(photos)]
    return Entry(recipe, dish, text, images, dish_class)


def _name(*parts: object) -> str:
    """Ten hexadecimal digits, as Recipe1M names recipes and photos."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:10]


def _write_photos(root: Path, entry: Entry, settings: Mapping[str, int]) -> None:
    from PIL import Image

    for image in entry.images:
        rng = np.random.default_rng([settings["seed"], int(image.removesuffix(".jpg"), 16)])
        path = recipe1m.image_path(root, entry.recipe.partition, image)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_photo(entry.dish, rng, settings["side"])).save(path, quality=90)


def _write_tables(folder: Path, entries: list[Entry]) -> None:
    """layer1, layer2, det_ingrs, the key lists and the classes."""
    without = [_without_photo(entry, number) for number, entry in enumerate(_every(entries, WITHOUT_PHOTO))]
    recipes = [entry.recipe for entry in entries]
    recipe1m.write_recipes(folder / "layer1.json", [*without, *recipes])
    recipe1m.write_images(folder / "layer2.json", ((one.recipe.id, one.images) for one in entries))
    detected = (
        DetectedIngredients(recipe.id, [line.split(" ", 1)[1] for line in recipe.ingredients], [True] * 6)
        for recipe in recipes
    )
    recipe1m.write_detected_ingredients(folder / "det_ingrs.json", detected)
    for split in PARTITIONS:
        keys = [recipe.id for recipe in recipes if recipe.partition == split]
        recipe1m.write_keys(folder / f"{split}_keys.pkl", keys)
    classes = {one.recipe.id: one.dish_class for one in entries}
    recipe1m.write_classes(folder / "classes1M.pkl", classes, class_names())


def _every(entries: list[Entry], share: float) -> list[Entry]:
    return entries[:: round(1 / share)]


def _without_photo(entry: Entry, number: int) -> Recipe:
    return replace(entry.recipe, id=_name("without", entry.recipe.id, number))


def _write_shuffled(folder: Path, shuffled: Path) -> None:
    """The set again, the training recipes' translations moved on by half their number."""
    shuffled.mkdir()
    for name in ("layer1.json", "layer2.json", "classes1M.pkl", *(f"{s}_keys.pkl" for s in PARTITIONS)):
        shutil.copyfile(folder / name, shuffled / name)
    for language in LANGUAGES[1:]:
        recipes = list(recipe1m.stream_recipes(recipe1m.layer_path(folder, language), language))
        training = [recipe for recipe in recipes if recipe.partition == "train"]
        half = len(training) // 2
        texts = iter(training[half:] + training[:half])
        moved = [
            replace(next(texts), id=recipe.id, url=recipe.url) if recipe.partition == "train" else recipe
            for recipe in recipes
        ]
        recipe1m.write_recipes(recipe1m.layer_path(shuffled, language), moved, language)


def main() -> None:
    """Make the embedded data by hand; the entries make what they need themselves."""
    parser = argparse.ArgumentParser(prog="mini", description="Make the embedded data of xmrs.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the set")
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    try:
        print(make(args.root, seed=args.seed))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
