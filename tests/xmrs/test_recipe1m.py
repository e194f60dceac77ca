"""Recipe1M's files: read as they are distributed, written alike, and refused in one line where they are not."""

import json
import pickle
from pathlib import Path

import pytest

from projects.xmrs import json_items, recipe1m
from projects.xmrs.recipe1m import DetectedIngredients, Recipe
from shared.errors import InputError
from tests.xmrs.corpus_files import edit, recipes, write_corpus


def test_recipes_come_back_as_they_were_written(tmp_path: Path) -> None:
    listed = [*recipes(20), Recipe("x" * 10, 'Crème "brûlée" \u2028 米飯', ["", " "], [], "val", "")]
    for language in ("en", "de-en", "fr"):
        path = recipe1m.layer_path(tmp_path, language)
        assert recipe1m.write_recipes(path, listed, language) == 21
        assert list(recipe1m.stream_recipes(path, language)) == listed
    keys = {name for item in json.loads(path.read_text(encoding="utf-8")) for name in item}
    assert keys == {"id", "partition", "url", "title_fr", "ingredients_fr", "instructions_fr"}


def test_pictures_and_detected_ingredients(tmp_path: Path) -> None:
    images = [("a" * 10, ["1234.jpg", "5678.jpg"]), ("b" * 10, ["9abc.jpg"])]
    recipe1m.write_images(tmp_path / "layer2.json", images)
    assert list(recipe1m.stream_images(tmp_path / "layer2.json")) == images
    entries = [DetectedIngredients("a" * 10, ["rice", "salt"], [True, False])]
    recipe1m.write_detected_ingredients(tmp_path / "det_ingrs.json", entries)
    assert list(recipe1m.stream_detected_ingredients(tmp_path / "det_ingrs.json")) == entries
    found = recipe1m.image_path(Path("/images"), "val", "0ea8ee3700.jpg")
    assert found == Path("/images/val/0/e/a/8/0ea8ee3700.jpg")


@pytest.mark.parametrize("indent", [None, 3])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_items_whatever_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    """The oracle is json.loads; the text is cut at every place, within characters too."""
    monkeypatch.setattr("shared.json_stream._CHUNK", chunk)
    items = [{"id": "é米\ud83d\ude00", "x": [{"y": '"]}{[', "n": 1.5}]}, {}, {"long": "a\\" * 90}]
    items = json.loads(json.dumps(items))
    path = tmp_path / "items.json"
    for content in (items, []):
        path.write_text(
            "\ufeff \n" + json.dumps(content, ensure_ascii=False, indent=indent) + "\n\n", "utf-8"
        )
        assert list(json_items.read_items(path)) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a JSON list, found ''"),
        (b'{"a": 1}', "expected a JSON list"),
        (b'[{"a": 1}, 3]', "item 2: expected an object, found '3]'"),
        (b'[{"a": 1}, {"b": ', "not valid JSON in item 2"),
        (b'[{"a": 1} {"b": 2}]', "not valid JSON in item 2: expected , or ]"),
        (b'[{"a": 1},', "item 2: expected an object, found ''"),
        (b'[{"a": 1}', "expected , or ] after it"),
        (b'[{"a": 1}] x', "something follows the JSON list"),
        (b'[{"a": "\xff"}]', "not UTF-8 text"),
        (b'[{"a": ' + b"[" * 100_000, "not valid JSON in item 1: nested too deeply"),
    ],
)
def test_files_that_are_no_list_of_objects(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "layer1.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(json_items.read_items(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    for read in (recipe1m.stream_recipes, recipe1m.stream_images, recipe1m.stream_detected_ingredients):
        with pytest.raises(InputError, match=r"layer\.json: no such file"):
            list(read(tmp_path / "layer.json"))
    for read in (recipe1m.read_keys, recipe1m.read_classes):
        with pytest.raises(InputError, match=r"x\.pkl: no such file"):
            read(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": None}, "title: expected a text, found nothing"),
        ({"title": 3}, "title: expected a text, found int '3'"),
        ({"ingredients": None}, "ingredients: expected a list of objects, found nothing"),
        ({"ingredients": ["salt"]}, "ingredients: expected a list of objects, found a list of 1 str"),
        ({"ingredients": [{"txt": "salt"}]}, "ingredients: text: expected a text, found nothing"),
        ({"instructions": [{"text": None}]}, "instructions: text: expected a text, found NoneType 'None'"),
        ({"instructions": {"text": "x"}}, "instructions: expected a list of objects, found a dict of 1 str"),
        ({"partition": "dev"}, "partition: expected train, val or test, found 'dev'"),
        ({"partition": None}, "partition: expected a text, found nothing"),
        ({"id": None}, "id: expected a text, found nothing"),
        ({"id": "../../x"}, "id: expected the name of a recipe, found '../../x'"),
        ({"id": "x" * 61}, f"id: expected the name of a recipe, found '{'x' * 61}'"),
        ({"url": 7}, "url: expected a text, found int '7'"),
        ({"title": "x\ud83dy"}, "title: half a surrogate pair in 'x\\ud83dy': not a text"),
        (
            {"instructions": [{"text": "\udc00"}]},
            "instructions: text: half a surrogate pair in '\\udc00': not a text",
        ),
    ],
)
def test_recipes_with_a_wrong_field(tmp_path: Path, fields: dict, message: str) -> None:
    listed = write_corpus(tmp_path, 6)
    edit(tmp_path / "layer1.json", 4, **fields)
    with pytest.raises(InputError) as caught:
        list(recipe1m.stream_recipes(tmp_path / "layer1.json"))
    named = str(fields.get("id") or ("number 5" if "id" in fields else listed[4].id))
    assert str(caught.value) == f"{tmp_path}/layer1.json: recipe {named}: {message}"


def test_a_translation_read_as_the_original(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3)
    with pytest.raises(InputError, match="title: expected a text, found nothing"):
        list(recipe1m.stream_recipes(tmp_path / "layer1_de.json"))


@pytest.mark.parametrize(
    "image", ["../../../etc/passwd", "a/b.jpg", ".hid", "abc", 4, "abc\0d.jpg", "abc\ud83d.jpg"]
)
def test_pictures_that_would_leave_the_image_tree(tmp_path: Path, image: object) -> None:
    write_corpus(tmp_path, 3)
    edit(tmp_path / "layer2.json", 1, images=[{"id": image, "url": ""}])
    with pytest.raises(InputError, match="images: expected the name of a picture"):
        list(recipe1m.stream_images(tmp_path / "layer2.json"))


def test_detected_ingredients_of_unequal_length(tmp_path: Path) -> None:
    recipe1m.write_detected_ingredients(tmp_path / "d.json", [DetectedIngredients("a" * 10, ["x"], [])])
    with pytest.raises(InputError, match="valid: expected 1 booleans"):
        list(recipe1m.stream_detected_ingredients(tmp_path / "d.json"))


@pytest.mark.parametrize("protocol", range(6))
def test_keys_and_classes_of_any_python(tmp_path: Path, protocol: int) -> None:
    keys, of, names = ["0" * 10, "ü"], {"0" * 10: 0, "1" * 10: 1047}, {0: "background", 1047: "pizza"}
    (tmp_path / "keys.pkl").write_bytes(pickle.dumps(keys, protocol))
    assert recipe1m.read_keys(tmp_path / "keys.pkl") == keys
    (tmp_path / "classes.pkl").write_bytes(pickle.dumps(of, protocol) + pickle.dumps(names, protocol))
    found = recipe1m.read_classes(tmp_path / "classes.pkl")
    assert (found.of, found.names) == (of, names)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "expected a second pickle"),
        (
            pickle.dumps([1, 2]) + pickle.dumps({0: "x"}),
            "first pickle: expected {recipe id: class}, found a list of 2 int",
        ),
        (pickle.dumps({"a": True}) + pickle.dumps({0: "x"}), "first pickle: expected"),
        (
            pickle.dumps({"a": 1}) + pickle.dumps(["x"]),
            "second pickle: expected {class: name}, found a list of 1 str",
        ),
        (pickle.dumps({"a": 1}) + pickle.dumps({"x": 0}), "second pickle: expected {class: name}"),
        (pickle.dumps({"a": -1}) + pickle.dumps({0: "x"}), "expected classes from 0 on, found a: -1"),
        (pickle.dumps({"a": 1}) + pickle.dumps({0: "x"})[:-5], "not a complete pickle"),
    ],
)
def test_classes_files_with_other_pickles(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "classes1M.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        recipe1m.read_classes(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_malicious_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    target, path = tmp_path / "was_run", tmp_path / "x.pkl"
    evil = pickle.dumps(Malicious(target))
    for content in (evil, pickle.dumps({"a": 1}) + evil, pickle.dumps([Malicious(target)])):
        path.write_bytes(content)
        for read in (recipe1m.read_keys, recipe1m.read_classes):
            with pytest.raises(InputError, match=r"x\.pkl: (byte \d+: refused|expected)"):
                read(path)
    assert not target.exists()


def test_keys_that_are_no_list_of_texts(tmp_path: Path) -> None:
    for value in ({"a": 1}, [1, 2], "abc"):
        (tmp_path / "keys.pkl").write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match="expected a pickled list of recipe ids, found"):
            recipe1m.read_keys(tmp_path / "keys.pkl")
