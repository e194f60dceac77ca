"""Recipe1M as it is distributed: recipes, their translations, pictures, keys and classes; read and written.

Nothing of the size of the corpus is held in memory: the JSON layers come recipe by recipe. Pickles are read
without running them.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects.xmrs.json_items import read_items, write_items
from shared import pickles
from shared.atomic import unreadable
from shared.errors import InputError
from shared.files import atomic_write
from shared.untrusted import load_pickle

PARTITIONS = ("train", "val", "test")
_LONGEST_NAME = (
    60  # characters of an id; Recipe1M has 10, a key of LMDB and a file's name have at most 255 bytes
)
PROTOCOL = 2  # of the pickles that are written: any Python reads it


@dataclass(frozen=True)
class Recipe:
    """One recipe of layer1.json or of a translation of it; empty lines of a list keep their place."""

    id: str
    title: str
    ingredients: list[str]
    instructions: list[str]
    partition: str
    url: str


@dataclass(frozen=True)
class Classes:
    """`of`: recipe id -> class, 0 = background (no label); `names`: class -> its name."""

    of: dict[str, int]
    names: dict[int, str]


@dataclass(frozen=True)
class DetectedIngredients:
    """An entry of det_ingrs.json: the names of the ingredients, and whether each is one."""

    id: str
    ingredients: list[str]
    valid: list[bool]


def layer_path(root: Path, language: str = "en") -> Path:
    """`layer1.json`, or `layer1_<language>.json` of a translation."""
    return root / ("layer1.json" if language == "en" else f"layer1_{language}.json")


def image_path(root: Path, partition: str, image_id: str) -> Path:
    """The file of a picture: four folders named by the first four characters of its id."""
    return root.joinpath(partition, *image_id[:4], image_id)


def stream_recipes(path: Path, language: str = "en") -> Iterator[Recipe]:
    """The recipes of a layer1 file, in its order; `language` of LANGUAGES, for the names of the fields.

    InputError names the file, the recipe and the field that is missing or of another kind.
    """
    suffix = "" if language == "en" else f"_{language}"
    title, ingredients, instructions = f"title{suffix}", f"ingredients{suffix}", f"instructions{suffix}"
    for number, item in enumerate(read_items(path), 1):
        try:
            recipe = Recipe(
                id=item["id"],
                title=item[title],
                ingredients=[line["text"] for line in item[ingredients]],
                instructions=[line["text"] for line in item[instructions]],
                partition=item["partition"],
                url=item.get("url", ""),
            )
            "".join((recipe.id, recipe.title, *recipe.ingredients, *recipe.instructions, recipe.url)).encode()
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
            raise InputError(
                _fault(item, f"{path}: recipe {item.get('id', f'number {number}')}", suffix)
            ) from None
        if recipe.partition not in PARTITIONS or not _is_name(recipe.id):
            raise InputError(_fault(item, f"{path}: recipe {item['id']}", suffix))
        yield recipe


def stream_image_records(path: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """(recipe id, its pictures as {"id", "url"}) of layer2.json, in its order."""
    for number, item in enumerate(read_items(path), 1):
        where = f"{path}: recipe {item.get('id', f'number {number}')}"
        records = _list(item, "images", where)
        for record in records:
            image = record.get("id")
            if not isinstance(image, str) or len(image) < 4 or not _is_name(image):
                raise InputError(f"{where}: images: expected the name of a picture as id, found {image!r}")
        yield _id(item, where), [{"id": one["id"], "url": str(one.get("url", ""))} for one in records]


def stream_images(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(recipe id, ids of its pictures) of layer2.json, in its order."""
    for recipe, records in stream_image_records(path):
        yield recipe, [record["id"] for record in records]


def stream_detected_ingredients(path: Path) -> Iterator[DetectedIngredients]:
    """The entries of det_ingrs.json, in its order."""
    for number, item in enumerate(read_items(path), 1):
        where = f"{path}: recipe {item.get('id', f'number {number}')}"
        found = DetectedIngredients(
            _id(item, where), _texts(item, "ingredients", where), item.get("valid", [])
        )
        if not isinstance(found.valid, list) or len(found.valid) != len(found.ingredients):
            raise InputError(f"{where}: valid: expected {len(found.ingredients)} booleans")
        yield found


def read_keys(path: Path) -> list[str]:
    """The recipe ids of a `<split>_keys.pkl`. InputError where it is no pickled list of texts."""
    keys = load_pickle(path)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InputError(f"{path}: expected a pickled list of recipe ids, found {_kind(keys)}")
    return keys


def read_classes(path: Path) -> Classes:
    """The two pickles of `classes1M.pkl`: recipe id -> class, then class -> name.

    InputError where one of them is another thing, or asks for anything but plain data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    file = pickles.MappedFile(content)
    of = pickles.load(file, str(path))
    if not _is_dict(of, str, int):
        raise InputError(f"{path}: first pickle: expected {{recipe id: class}}, found {_kind(of)}")
    if file.tell() >= len(content):
        raise InputError(f"{path}: expected a second pickle, {{class: name}}, found the end of the file")
    names = pickles.load(file, str(path))
    if not _is_dict(names, int, str):
        raise InputError(f"{path}: second pickle: expected {{class: name}}, found {_kind(names)}")
    wrong = next((f"{name}: {value}" for name, value in of.items() if value < 0), None)
    if wrong:
        raise InputError(f"{path}: expected classes from 0 on, found {wrong}")
    return Classes(of, names)


def recipe_record(recipe: Recipe, language: str = "en") -> dict[str, Any]:
    """A recipe as it stands in layer1.json, or in the file of a translation."""
    suffix = "" if language == "en" else f"_{language}"
    text = {
        f"title{suffix}": recipe.title,
        f"ingredients{suffix}": [{"text": line} for line in recipe.ingredients],
        f"instructions{suffix}": [{"text": line} for line in recipe.instructions],
    }
    origin = {"partition": recipe.partition, "url": recipe.url}
    return {"id": recipe.id, **(text | origin if language == "en" else origin | text)}


def write_recipes(path: Path, recipes: Iterable[Recipe], language: str = "en") -> int:
    """Write a layer1 file atomically; the number of recipes."""
    return write_items(path, (recipe_record(recipe, language) for recipe in recipes))


def write_images(path: Path, images: Iterable[tuple[str, list[str]]]) -> int:
    """Write layer2.json from (recipe id, ids of its pictures); the number of recipes."""
    records = ((name, [{"id": image, "url": ""} for image in ids]) for name, ids in images)
    return write_items(path, ({"id": name, "images": listed} for name, listed in records))


def write_detected_ingredients(path: Path, entries: Iterable[DetectedIngredients]) -> int:
    """Write det_ingrs.json; the number of recipes."""
    lines = (
        {"id": one.id, "valid": one.valid, "ingredients": [{"text": text} for text in one.ingredients]}
        for one in entries
    )
    return write_items(path, lines)


def write_keys(path: Path, keys: Iterable[str]) -> None:
    """Write a `<split>_keys.pkl`."""
    with atomic_write(path) as file:
        pickle.dump(list(keys), file, PROTOCOL)


def write_classes(path: Path, of: Mapping[str, int], names: Mapping[int, str]) -> None:
    """Write `classes1M.pkl`: two pickles, one after the other."""
    with atomic_write(path) as file:
        pickle.dump(dict(of), file, PROTOCOL)
        pickle.dump(dict(names), file, PROTOCOL)


def _fault(item: Mapping[str, Any], where: str, suffix: str) -> str:
    """Which field of a recipe is not as it should be."""
    try:
        _id(item, where)
        _text(item, f"title{suffix}", where)
        for field in (f"ingredients{suffix}", f"instructions{suffix}"):
            _texts(item, field, where)
        partition = _text(item, "partition", where)
        _text({"url": "", **item}, "url", where)
    except InputError as error:
        return str(error)
    return f"{where}: partition: expected train, val or test, found {partition!r}"


def _id(item: Mapping[str, Any], where: str) -> str:
    name = _text(item, "id", where)
    if not _is_name(name):
        raise InputError(f"{where}: id: expected the name of a recipe, found {name!r}")
    return name


def _is_name(name: str) -> bool:
    """Whether it can be part of a file's name (ids and pictures become paths)."""
    is_short = 0 < len(name) <= _LONGEST_NAME
    return (
        is_short and "/" not in name and "\0" not in name and not name.startswith(".") and _is_unicode(name)
    )


def _text(item: Mapping[str, Any], field: str, where: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        found = "nothing" if field not in item else _kind(value)
        raise InputError(f"{where}: {field}: expected a text, found {found}")
    if not _is_unicode(value):
        raise InputError(f"{where}: {field}: half a surrogate pair in {value[:40]!r}: not a text")
    return value


def _is_unicode(value: str) -> bool:
    """JSON can say what no text file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list(item: Mapping[str, Any], field: str, where: str) -> list[dict[str, Any]]:
    value = item.get(field)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        found = "nothing" if field not in item else _kind(value)
        raise InputError(f"{where}: {field}: expected a list of objects, found {found}")
    return value


def _texts(item: Mapping[str, Any], field: str, where: str) -> list[str]:
    return [_text(one, "text", f"{where}: {field}") for one in _list(item, field, where)]


def _is_dict(value: Any, key: type, of: type) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, key) and isinstance(one, of) and not isinstance(one, bool)
        for name, one in value.items()
    )


def _kind(value: Any) -> str:
    """What was found, in a few words."""
    if isinstance(value, list | dict | tuple):
        kinds = sorted({type(one).__name__ for one in value})
        return f"a {type(value).__name__} of {len(value)} {', '.join(kinds[:3])}".rstrip()
    return f"{type(value).__name__} {str(value)[:40]!r}"
