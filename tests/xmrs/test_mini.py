"""The embedded data: read back through the readers of Recipe1M, the same every time, made by two at once."""

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from projects.xmrs import mini, mini_languages, mini_strata, recipe1m
from projects.xmrs.lmdb_store import RecipeStore
from projects.xmrs.mini_world import CONCEPTS
from projects.xmrs.tokens import CLS, LANGUAGES, build_tokenizer
from shared.errors import InputError
from shared.files import read_image, read_json
from shared.made_once import MARKER

SIZES = {"train": 60, "val": 18, "test": 24}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.make(tmp_path_factory.mktemp("mini") / "kitchen", seed=3, **SIZES)


def sums(root: Path) -> dict[str, str]:
    """Checksum of every file but the databases' (their pages hold no dates, but sizes of a page cache)."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".mdb"
    }


def test_the_layout_is_that_of_recipe1m(kitchen: Path) -> None:
    recipes = {recipe.id: recipe for recipe in recipe1m.stream_recipes(kitchen / "layer1.json")}
    images = dict(recipe1m.stream_images(kitchen / "layer2.json"))
    classes = recipe1m.read_classes(kitchen / "classes1M.pkl")
    detected = {one.id: one for one in recipe1m.stream_detected_ingredients(kitchen / "det_ingrs.json")}
    assert len(recipes) > len(images) == sum(SIZES.values()), "some recipes have no photo"
    for split, size in SIZES.items():
        keys = recipe1m.read_keys(kitchen / f"{split}_keys.pkl")
        assert len(set(keys)) == len(keys) == size
        for key in keys:
            assert recipes[key].partition == split
            assert len(detected[key].ingredients) == len(recipes[key].ingredients) == 6
            assert classes.of[key] in classes.names
            for image in images[key]:
                assert read_image(recipe1m.image_path(kitchen / "images", split, image)).shape == (80, 80, 3)
    background = np.mean([number == 0 for number in classes.of.values()])
    assert 0.05 < background < 0.4
    for language in LANGUAGES[1:]:
        path = recipe1m.layer_path(kitchen, language)
        for recipe in recipe1m.stream_recipes(path, language):
            assert len(recipe.instructions) == len(recipes[recipe.id].instructions)
            assert recipe.title


def test_the_stores_hold_what_the_layers_say(kitchen: Path) -> None:
    tokenizer = build_tokenizer(kitchen / "vocab.txt")
    pieces = tokenizer.pieces
    assert (pieces[0], pieces[100], pieces[CLS], pieces[102], pieces[103]) == (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    )
    store = RecipeStore(kitchen / "loader_data" / "test_lmdb", kitchen / "loader_data" / "test_keys.pkl")
    french = {one.id: one for one in recipe1m.stream_recipes(kitchen / "layer1_fr.json", "fr")}
    assert len(store) == SIZES["test"]
    for index in range(len(store)):
        entry = store.entry(index)
        assert len(entry.rows) == len(LANGUAGES)
        for row in entry.rows:
            assert row[0] == CLS
            assert 100 not in row, "no unknown piece in any language"
            assert len(row) <= 128
        text = "".join(pieces[token].removeprefix("##") for token in entry.rows[5][1:])
        assert text.startswith(french[store.ids[index]].title.replace(" ", ""))


def test_the_same_seed_gives_the_same_set_and_another_seed_another(kitchen: Path, tmp_path: Path) -> None:
    again = mini.make(tmp_path / "again", seed=3, **SIZES)
    first, second = sums(kitchen), sums(again)
    same = [name for name in first if "create_lmdb" not in name]  # that one holds dates of files
    assert {name: second.get(name) for name in same} == {name: first[name] for name in same}
    other = mini.draw_split("test", {"seed": 4, **SIZES})
    ids = recipe1m.read_keys(kitchen / "test_keys.pkl")
    assert not {entry.recipe.id for entry in other} & set(ids)


def test_two_processes_make_it_at_once(tmp_path: Path) -> None:
    root = tmp_path / "raced"
    code = (
        f"from projects.xmrs import mini; mini.make({str(root)!r}, seed=1, train=50, val=6, test=6, side=32)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["raced"], "nothing half-made is left"
    assert read_json(root / MARKER)["train"] == 50


def test_what_is_there_is_never_replaced(kitchen: Path, tmp_path: Path) -> None:
    assert mini.make(kitchen) == kitchen, "no setting asked for: any will do"
    with pytest.raises(InputError, match=r"seed is 3, expected 5"):
        mini.make(kitchen, seed=5)
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"expected embedded data"):
        mini.make(tmp_path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


def test_shuffled_moves_the_training_recipes_translations_only(kitchen: Path) -> None:
    for language in LANGUAGES[1:]:
        path = recipe1m.layer_path(kitchen, language)
        right = {one.id: one for one in recipe1m.stream_recipes(path, language)}
        moved = {
            one.id: one for one in recipe1m.stream_recipes(kitchen / mini.SHUFFLED / path.name, language)
        }
        assert list(right) == list(moved)
        training = [name for name, recipe in right.items() if recipe.partition == "train"]
        assert all(moved[name] == right[name] for name in right if right[name].partition != "train")
        kept = [name for name in training if moved[name].ingredients == right[name].ingredients]
        assert len(kept) < 0.05 * len(training)
        lines = Counter(tuple(right[name].ingredients) for name in training)
        assert lines == Counter(tuple(moved[name].ingredients) for name in training)
    folder = kitchen / mini.SHUFFLED / "loader_data"
    right_store = RecipeStore(kitchen / "loader_data" / "train_lmdb", folder / "train_keys.pkl")
    store = RecipeStore(folder / "train_lmdb", folder / "train_keys.pkl")
    assert np.array_equal(store.entry(0).rows[0], right_store.entry(0).rows[0])
    assert not np.array_equal(store.entry(0).rows[3], right_store.entry(0).rows[3])


def test_strata_hold_the_recipes_with_rare_words(kitchen: Path) -> None:
    described = read_json(kitchen / "strata.json")
    texts = {
        recipe.id: " ".join([*recipe.ingredients, *recipe.instructions]).split()
        for recipe in recipe1m.stream_recipes(kitchen / "layer1.json")
    }
    naming = {word for kind in CONCEPTS.values() for concept in kind for word in concept.english}
    loans = {word for kind in CONCEPTS.values() for concept in kind for word in concept.loans}
    training = recipe1m.read_keys(kitchen / "train_keys.pkl")
    counts = Counter(word for key in training for word in set(texts[key]) & naming)
    for split in ("val", "test"):
        names = described[split]["strata"]
        keys = recipe1m.read_keys(kitchen / f"{split}_keys.pkl")
        for key in keys:
            rare = {word for word in set(texts[key]) & naming if counts[word] <= mini_strata.RARE}
            assert (key in names["rare"]) == bool(rare) == (key not in names["common"])
            assert (key in names["loan"]) == bool(rare & loans)
            assert (key in names["native"]) == (bool(rare) and not rare & loans)
        assert len(described[split]["twins"]) == SIZES[split] // 6


def test_twins_have_the_same_words_and_other_pictures(kitchen: Path) -> None:
    recipes = {recipe.id: recipe for recipe in recipe1m.stream_recipes(kitchen / "layer1.json")}
    images = dict(recipe1m.stream_images(kitchen / "layer2.json"))
    tokenizer = build_tokenizer(kitchen / "vocab.txt")
    for first, second in read_json(kitchen / "strata.json")["test"]["twins"]:
        one, other = recipes[first], recipes[second]
        assert one.ingredients == other.ingredients
        assert one.instructions != other.instructions
        lines = [". ".join([recipe.title, *recipe.instructions]) for recipe in (one, other)]
        bags = [Counter(tokenizer.ids(text)) for text in lines]
        assert bags[0] == bags[1]
        assert images[first] != images[second]


def test_languages_merge_synonyms_and_are_imperfect() -> None:
    tables = mini_languages.dictionary()
    assert set(tables) == {"de", "ru", "fr", "de-en", "ru-en"}
    known = set(mini_languages.vocabulary())
    for direction, table in tables.items():
        assert table["drop"] == pytest.approx(0.05)
        for choices in table["words"].values():
            assert sum(share for _, share in choices) == pytest.approx(1)
        if direction.endswith("-en"):
            assert {word for choices in table["words"].values() for word, _ in choices} <= known
    for kind, concepts in CONCEPTS.items():
        for concept in concepts:
            for language in ("de", "fr", "ru"):
                choices = {str(tables[language]["words"][word]) for word in concept.english}
                assert len(choices) == 1, "all synonyms become one word"
                usual = concept.foreign[language]
                forms = {usual, mini_languages.inflect(usual, language)}
                right = sum(
                    share for word, share in tables[language]["words"][concept.english[0]] if word in forms
                )
                assert right == pytest.approx(0.9), (kind, concept.english)
            for language in ("de", "ru"):
                back = dict(tables[f"{language}-en"]["words"][concept.foreign[language]])
                assert back[concept.english[0]] == pytest.approx(0.9)


def test_words_have_one_meaning() -> None:
    for language in ("de", "fr", "ru"):
        words = [concept.foreign[language] for kind in CONCEPTS.values() for concept in kind]
        assert len(set(words)) == len(words)
    english = [word for kind in CONCEPTS.values() for concept in kind for word in concept.english]
    assert [word for word, count in Counter(english).items() if count > 1] == []
