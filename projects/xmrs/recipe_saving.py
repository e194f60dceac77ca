"""A recipe as files: its text, and its first picture that is there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from projects.xmrs.recipe1m import Recipe
from projects.xmrs.recipe_text import as_text, file_stem
from shared.files import atomic_path, atomic_write


def save_recipe(folder: Path, recipe: Recipe, images: Sequence[Path]) -> Path:
    """Write `<id>-<title>.txt`, and the first existing picture under the same name; the path of the text."""
    target = folder / f"{file_stem(recipe)}.txt"
    with atomic_write(target, "w") as file:
        file.write(as_text(recipe))
    picture = next((path for path in images if path.is_file()), None)
    if picture is not None:
        with atomic_path(target.with_suffix(picture.suffix.lower() or ".jpg")) as copy:
            shutil.copyfile(picture, copy)
    return target
