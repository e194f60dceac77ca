"""Recipes of the user: JSON in the manner of Recipe1M, or a plain text file each, or a folder of both.

JSON: one object, a list of them, or one per line (.jsonl), with `title`, `ingredients` and `instructions`;
a line is a text or {"text": ...}; `id` is optional. Text: the title, then a line "Ingredients:" and a line
"Instructions:" with their lines below (as `recipe_info.py` prints it); without these two words, lines that
begin with a dash are ingredients and the others instructions.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from projects.xmrs.recipe1m import Recipe
from shared.errors import InputError
from shared.files import read_json, read_jsonl, read_lines, stream_json_items

SUFFIXES = (".json", ".jsonl", ".txt")
_NAMES = {
    "title": ("title", "name"),
    "ingredients": ("ingredients",),
    "instructions": ("instructions", "directions", "steps"),
}
_BULLET = re.compile(r"^\s*(?:[-*•]\s+)?")
_STEP = re.compile(r"^(\d{1,3})(?:[.):]\s*|\s+)")
_HEADINGS = {
    "ingredients": "ingredients",
    "instructions": "instructions",
    "directions": "instructions",
    "method": "instructions",
}


def read(path: Path) -> Iterator[Recipe]:
    """The recipes of a file, or of all files below a folder in the order of their names.

    Long lists are read one at a time. InputError names the file, the recipe and the field; also where there
    is no recipe at all. A recipe without any text is yielded like the others.
    """
    if path.is_dir():
        found = sorted(
            Path(place) / name
            for place, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(SUFFIXES)
        )
        if not found:
            raise InputError(f"recipes: {path}: no recipes found (looked for {' '.join(SUFFIXES)})")
    else:
        found = [path]
    for file in found:
        yield from _read_file(file)


def has_text(recipe: Recipe) -> bool:
    """Whether there is anything to read in a recipe."""
    return any(line.strip() for line in (recipe.title, *recipe.ingredients, *recipe.instructions))


def from_text(text: str, name: str) -> Recipe:
    """A recipe from the lines of a text; see the head of this file."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    parts: dict[str, list[str]] = {"ingredients": [], "instructions": []}
    has_headings = any(_heading(line) for line in lines[1:])
    part = "instructions"
    for line in lines[1:]:
        if heading := _heading(line):
            part = heading
            continue
        if not has_headings:
            part = "ingredients" if line[0] in "-*•" else "instructions"
        line = _BULLET.sub("", line, count=1)
        number = _STEP.match(line)
        if part == "instructions" and number and int(number[1]) == len(parts[part]) + 1:
            line = line[number.end() :]  # the number of the step, and no "200 g of ..."
        parts[part].append(line)
    return Recipe(name, lines[0] if lines else "", parts["ingredients"], parts["instructions"], "", "")


def _heading(line: str) -> str | None:
    return _HEADINGS.get(line.rstrip(": ").lower()) if line.endswith(":") else None


def _read_file(path: Path) -> Iterator[Recipe]:
    ending = path.suffix.lower()
    if ending == ".json":
        items: Iterator[Any] = stream_json_items(path, "item") if _is_list(path) else _single(path)
    elif ending == ".jsonl":
        items = read_jsonl(path)
    else:
        yield from_text("\n".join(read_lines(path)), path.stem)
        return
    count = 0
    for item in items:
        count += 1
        yield _recipe(item, path, count)
    if not count:
        raise InputError(f"{path}: expected a recipe, found none")


def _single(path: Path) -> Iterator[Any]:
    yield read_json(path)


def _is_list(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError:
        return False  # what opens it next says why


def _recipe(item: Any, path: Path, number: int) -> Recipe:
    where = f"{path}: recipe {number}"
    if not isinstance(item, Mapping):
        raise InputError(f"{where}: expected an object with a title, found {type(item).__name__}")
    fields = {part: next((item[n] for n in names if n in item), None) for part, names in _NAMES.items()}
    if all(value is None for value in fields.values()):
        raise InputError(f"{where}: expected title, ingredients or instructions, found {_keys(item)}")
    title = fields["title"] or ""
    if not isinstance(title, str):
        raise InputError(f"{where}: title: expected a text, found {type(title).__name__}")
    name = str(item.get("id") or f"{path.stem} {number}")
    lines = {part: _texts(fields[part], f"{where}: {part}") for part in ("ingredients", "instructions")}
    return Recipe(name, title, lines["ingredients"], lines["instructions"], "", str(item.get("url") or ""))


def _texts(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [line.strip() for line in value.splitlines() if line.strip()]
    if value is None:
        return []
    texts: list[str] = []
    for line in _listed(value, where):
        text = line.get("text") if isinstance(line, Mapping) else line
        if not isinstance(text, str):
            raise InputError(f"{where}: expected texts, found {type(text).__name__}")
        texts.append(text)
    return texts


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list of texts, found {type(value).__name__}")
    return value


def _keys(item: Mapping[str, Any]) -> str:
    return ", ".join(list(map(str, item))[:5]) or "an empty object"
