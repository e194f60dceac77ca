"""A layer of Recipe1M into another language: lines in order, finished chunks kept, continued after a kill.

The release puts the translations back from the end of the list, so that every recipe gets another's text (and
fails at empty lines). Here they go back to where they came from, and an empty line stays empty.
"""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from projects.xmrs.json_items import write_items
from projects.xmrs.recipe1m import Recipe, layer_path, read_keys, recipe_record, stream_recipes
from projects.xmrs.translators import DIRECTIONS, Translator
from shared.errors import InputError
from shared.files import append_jsonl, read_jsonl
from shared.progress import Progress


def lines_of(recipes: Iterable[Recipe]) -> list[str]:
    """The texts that are translated, in order: title, ingredients, instructions; empty ones are left out."""
    return [
        line
        for recipe in recipes
        for line in (recipe.title, *recipe.ingredients, *recipe.instructions)
        if _has_text(line)
    ]


def translate_recipes(recipes: Sequence[Recipe], translator: Translator) -> list[Recipe]:
    """The recipes with every text translated; lists keep their lengths, empty texts become ''.

    Raises:
        ValueError: the translator returned another number of lines than it got.
    """
    lines = lines_of(recipes)
    translated = translator.translate(lines)
    if len(translated) != len(lines):
        raise ValueError(f"{len(lines)} lines were sent, {len(translated)} came back")
    texts = iter(translated)

    def back(line: str) -> str:
        return next(texts) if _has_text(line) else ""

    return [
        Recipe(
            id=recipe.id,
            title=back(recipe.title),
            ingredients=[back(line) for line in recipe.ingredients],
            instructions=[back(line) for line in recipe.instructions],
            partition=recipe.partition,
            url=recipe.url,
        )
        for recipe in recipes
    ]


def read_wanted(key_files: Iterable[Path]) -> set[str] | None:
    """The recipe ids in all key files together; None (all recipes) where there are no files."""
    paths = list(key_files)
    return {key for path in paths for key in read_keys(path)} if paths else None


def translate_layer(
    root: Path,
    direction: str,
    translator: Translator,
    *,
    wanted: Collection[str] | None = None,
    chunk_recipes: int = 200,
    silent: bool = False,
) -> Path:
    """Write `layer1_<direction>.json` from the layer that the direction reads; an existing one is kept.

    Finished chunks are kept in `layer1_<direction>.json.part`: the same command continues after a kill, with
    the same chunks and so the same numbers.

    Args:
        root: the folder of layer1.json.
        direction: a key of DIRECTIONS.
        translator: translates the lines of a chunk.
        wanted: only these recipes (the corpus has three times as many as have pictures); None takes all.
        chunk_recipes: recipes translated and saved together.
        silent: no progress.

    Raises:
        InputError: no layer to read, a recipe without an id or text field, or a part of another run.
    """
    language = DIRECTIONS[direction]
    source, target = layer_path(root, language), layer_path(root, direction)
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    stat = _stat(source)
    settings = {
        "source": source.name,
        "bytes": stat.st_size,
        "translator": translator.identity,
        "chunk_recipes": chunk_recipes,
        "recipes": "all" if wanted is None else len(wanted),
    }
    done = _begin(part, settings)
    total = sum(1 for _ in _chosen(source, language, wanted))
    recipes = itertools.islice(_chosen(source, language, wanted), done, None)
    with Progress(total, start=done, unit="recipe", label=f"translate {direction}", silent=silent) as bar:
        while chunk := list(itertools.islice(recipes, chunk_recipes)):
            found = translate_recipes(chunk, translator)
            append_jsonl(part, [{"recipes": [recipe_record(recipe, direction) for recipe in found]}])
            bar.update(len(chunk))
    write_items(target, _finished(part))
    part.unlink()
    return target


def _begin(part: Path, settings: dict[str, Any]) -> int:
    """How many recipes are in the part already; its first line says what it is a part of."""
    records = read_jsonl(part) if part.exists() else iter(())
    first = next(records, None)
    if first is None:
        part.unlink(missing_ok=True)
        append_jsonl(part, [settings])
        return 0
    if first != settings:
        key = next(
            name for name in settings if not isinstance(first, dict) or first.get(name) != settings[name]
        )
        found = first.get(key) if isinstance(first, dict) else first
        raise InputError(
            f"{part}: was begun with {key} = {found!r}, now it is {settings[key]!r}; remove it to begin anew"
        )
    return sum(len(chunk["recipes"]) for chunk in records)


def _finished(part: Path) -> Iterator[dict[str, Any]]:
    for chunk in itertools.islice(read_jsonl(part), 1, None):
        yield from chunk["recipes"]


def _chosen(source: Path, language: str, wanted: Collection[str] | None) -> Iterator[Recipe]:
    return (recipe for recipe in stream_recipes(source, language) if wanted is None or recipe.id in wanted)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError:
        raise InputError(f"{path}: no such file; it is what this direction translates from") from None


def _has_text(line: str) -> bool:
    return bool(line.strip())
