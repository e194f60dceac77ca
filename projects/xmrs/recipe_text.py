"""A recipe as text for people, the name of its files, and recipes by their ids."""

import re
from collections.abc import Iterable
from pathlib import Path

from projects.xmrs.recipe1m import Recipe, layer_path, stream_image_records, stream_recipes
from shared.errors import InputError

ID_LENGTH = 10  # characters of a recipe id, by which a file's name begins
_REMOVED = str.maketrans("", "", './\\*":?|<>')
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]")
_LONGEST = 200  # bytes of a name: file systems take 255, and an ending is added


def as_text(recipe: Recipe) -> str:
    """Title, ingredients and numbered instructions, one a line."""
    ingredients = "".join(f" - {line}\n" for line in recipe.ingredients)
    instructions = "".join(f" - {number} {line}\n" for number, line in enumerate(recipe.instructions, 1))
    return f"{recipe.title}\nIngredients:\n{ingredients}Instructions:\n{instructions}"


def file_stem(recipe: Recipe) -> str:
    """`<id>-<title>` without the characters that file systems dislike, blanks as `_`, at most 200 bytes."""
    stem = _BLANKS.sub("_", f"{recipe.id}-{recipe.title}".translate(_REMOVED))
    return stem.encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore")


def id_of_file(name: str) -> str:
    """The recipe id at the beginning of a file's name, or the id itself."""
    return Path(name).name[:ID_LENGTH]


def find_recipes(root: Path, ids: Iterable[str], language: str = "en") -> list[Recipe]:
    """The recipes of these ids, in their order; the layer is read once, up to the last of them.

    InputError names the ids that the layer does not hold.
    """
    wanted = list(ids)
    path = layer_path(root, language)
    found: dict[str, Recipe] = {}
    missing = set(wanted)
    if missing:
        for recipe in stream_recipes(path, language):
            if recipe.id in missing:
                found[recipe.id] = recipe
                missing.remove(recipe.id)
                if not missing:
                    break
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"{path}: no recipe {min(missing)!r}{others}")
    return [found[one] for one in wanted]


def find_images(root: Path, ids: Iterable[str]) -> dict[str, list[str]]:
    """The names of the pictures of these recipes; [] where layer2.json has none."""
    found: dict[str, list[str]] = {one: [] for one in ids}
    waiting = set(found)
    for name, records in stream_image_records(root / "layer2.json"):
        if name in waiting:
            found[name] = [record["id"] for record in records]
            waiting.remove(name)
            if not waiting:
                break
    return found
