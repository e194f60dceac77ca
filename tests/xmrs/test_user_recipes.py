"""Recipes of the user's files, and words put together from token ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from projects.xmrs import user_recipes, words
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.tokens import Tokenizer, encode_recipes
from shared.errors import InputError
from tests.xmrs.sets import SPECIAL

SOUP = Recipe("a", "Soup", ["2 tomatoes", "salt"], ["Boil.", "Serve hot."], "", "")


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "item",
    [
        {"id": "a", "title": "Soup", "ingredients": [{"text": "2 tomatoes"}, {"text": "salt"}],
         "instructions": [{"text": "Boil."}, {"text": "Serve hot."}], "partition": "test", "url": ""},
        {"id": "a", "name": "Soup", "ingredients": ["2 tomatoes", "salt"], "directions": ["Boil.", "Serve hot."]},
        {"id": "a", "title": "Soup", "ingredients": "2 tomatoes\n\nsalt\n", "steps": "Boil.\nServe hot."},
    ],
)  # fmt: skip
def test_json_as_recipe1m_and_plain_lists(tmp_path: Path, item: dict) -> None:
    assert list(user_recipes.read(write(tmp_path / "a.json", item))) == [SOUP]
    assert list(user_recipes.read(write(tmp_path / "b.json", [item, item]))) == [SOUP, SOUP]
    lines = json.dumps(item) + "\n\n" + json.dumps(item) + "\n"
    assert list(user_recipes.read(write(tmp_path / "c.jsonl", lines))) == [SOUP, SOUP]


@pytest.mark.parametrize(
    "text",
    [
        "Soup\nIngredients:\n - 2 tomatoes\n - salt\nInstructions:\n - 1 Boil.\n - 2 Serve hot.\n",
        "\ufeff\n  Soup\n\nINGREDIENTS:\n2 tomatoes\n* salt\n\nMethod:\n1. Boil.\n2) Serve hot.",
        "Soup\n- 2 tomatoes\n- salt\nBoil.\nServe hot.\n",
    ],
)
def test_text_with_and_without_headings(tmp_path: Path, text: str) -> None:
    [found] = user_recipes.read(write(tmp_path / "a.txt", text))
    assert (found.title, found.ingredients, found.instructions) == (
        SOUP.title,
        SOUP.ingredients,
        SOUP.instructions,
    )
    assert found.id == "a"


def test_a_number_that_is_no_step_stays() -> None:
    found = user_recipes.from_text("Tea\nInstructions:\n200 g of sugar\n3 minutes", "x")
    assert found.instructions == ["200 g of sugar", "3 minutes"]
    assert user_recipes.from_text("Tea\nIngredients:\n- 200 g sugar", "x").ingredients == ["200 g sugar"]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "B")
    write(tmp_path / "a" / "z.json", [{"title": "Z1"}, {"title": "Z2"}])
    write(tmp_path / "photo.jpg", "not a recipe")
    assert [one.title for one in user_recipes.read(tmp_path)] == ["Z1", "Z2", "B"]
    assert [one.id for one in user_recipes.read(tmp_path)] == ["z 1", "z 2", "b"]


def test_a_recipe_without_text_is_yielded_and_known(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"title": " ", "ingredients": []}, {"title": "x"}])
    assert [user_recipes.has_text(one) for one in user_recipes.read(path)] == [False, True]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "[]", "expected a recipe, found none"),
        ("a.json", "[{", "not valid JSON"),
        ("a.json", '{"titel": 1}', "recipe 1: expected title, ingredients or instructions, found titel"),
        ("a.json", '["soup"]', "recipe 1: expected an object"),
        ("a.json", '[{"title": "x"}, {"title": 3}]', "recipe 2: title: expected a text, found int"),
        ("a.json", '{"title": "x", "ingredients": 5}', "recipe 1: ingredients: expected a list"),
        ("a.json", '{"title": "x", "ingredients": [{"t": 1}]}', "recipe 1: ingredients: expected texts"),
        ("a.jsonl", '{"title": "x"}\n{"title": \n', "a.jsonl:2: not valid JSON"),
    ],
)
def test_other_files_are_an_input_error(tmp_path: Path, name: str, content: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        list(user_recipes.read(write(tmp_path / name, content)))


def test_missing_and_undecodable_files_are_an_input_error(tmp_path: Path) -> None:
    for name in ("absent.json", "absent.txt"):
        with pytest.raises(InputError, match="no such file"):
            list(user_recipes.read(tmp_path / name))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        list(user_recipes.read(tmp_path / "latin.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recipes found"):
        list(user_recipes.read(tmp_path / "empty"))


PIECES = [SPECIAL.get(i, f"[unused{i}]") for i in range(104)]
PIECES += ["tom", "##ato", "##es", "soup", ".", "half", "-", "cooked", "(", "hot", ")", "salt", ",", "2"]


def ids(*pieces: str) -> np.ndarray:
    return np.array([PIECES.index(piece) for piece in pieces])


def test_pieces_become_words() -> None:
    found = words.words_of(ids("[CLS]", "tom", "##ato", "##es", "soup", "[SEP]", "[PAD]", "[PAD]"), PIECES)
    assert [(w.text, w.first, w.last) for w in found] == [
        ("[CLS]", 0, 1), ("tomatoes", 1, 4), ("soup", 4, 5), ("[SEP]", 5, 6),
    ]  # fmt: skip
    assert [w.text for w in words.words_of(ids("[CLS]", "##ato"), PIECES)] == ["[CLS]", "##ato"]
    assert words.words_of(np.array([9999]), PIECES)[0].text == "[UNK]"


def test_words_become_text() -> None:
    given = ids(
        "[CLS]", "2", "half", "-", "cooked", "tom", "##ato", "##es", "(", "hot", ")", ",", "salt", "."
    )
    assert words.text_of(given, PIECES) == "2 half-cooked tomatoes (hot), salt."
    assert words.text_of(ids("[CLS]", "[SEP]"), PIECES) == ""


def test_a_stored_row_is_read_back_as_a_recipe() -> None:
    tokenizer = Tokenizer(PIECES)
    given = Recipe("r", "tomato soup", ["2 tomatoes", "salt"], ["soup.", "half-cooked, hot"], "test", "")
    [(row, lengths)] = encode_recipes(tokenizer, [given])
    found = words.recipe_of(row, lengths, PIECES, name="r", partition="test")
    assert (found.title, found.ingredients) == (given.title, given.ingredients)
    assert found.instructions == ["soup", "half-cooked, hot"]
