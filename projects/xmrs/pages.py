"""Answers for people and programs: lines on the terminal, JSON, and one HTML page with thumbnails.

As in the paper's figures: a recipe with the pictures found for it (and the one synthesised from it), a
picture with its recipes, and the words that a recipe's embedding attends to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from projects.xmrs import attention
from projects.xmrs.attention import Weighed
from projects.xmrs.inference import Answer
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.sources import PictureSource, RecipeSource, printable
from shared.files import atomic_write, write_json
from shared.page import render_page, thumbnail, thumbnail_of

MAX_QUERIES = 50  # of each direction on a page; the JSON file holds all
_INGREDIENTS, _STEPS = 12, 6  # lines of a recipe on a page
_WORDS = 10  # of the strongest ones, on the terminal and in the JSON file
_SKIPPED = 200


@dataclass(frozen=True)
class Searched:
    """What was asked and found.

    Attributes:
        title, model: of the page, and of the model.
        pictures, recipes: what was searched.
        asked_recipes, asked_pictures: where the queries are from.
        for_recipes, for_pictures: an answer per query; `correct` marks are shown where they are known.
        weighed: attention over the words of each asked recipe, or none.
        layer, head: which of it is shown; head None = the mean.
        synthesised: a picture [S, S, 3] uint8 per asked recipe, or none.
        skipped: a line per item that could not be read.
    """

    title: str
    model: str
    pictures: PictureSource | None = None
    recipes: RecipeSource | None = None
    asked_recipes: RecipeSource | None = None
    asked_pictures: PictureSource | None = None
    for_recipes: Sequence[Answer] = ()
    for_pictures: Sequence[Answer] = ()
    weighed: Sequence[Weighed] = ()
    layer: int = -1
    head: int | None = None
    synthesised: Sequence[np.ndarray] = ()
    skipped: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # further entries of the JSON file


def as_data(found: Searched) -> dict[str, Any]:
    """Everything as plain data for results.json."""
    of_recipes = []
    for i, answer in enumerate(found.for_recipes):
        assert found.asked_recipes is not None
        one = {
            "query": _recipe_facts(found.asked_recipes, answer.query),
            "matches": [{**_rank(n, m), **_picture_facts(found, m.position)} for n, m in _numbered(answer)],
        }
        if found.weighed:
            strongest = attention.strongest(found.weighed[i], _weights(found, i), _WORDS)
            one["attention"] = [{"word": word, "weight": round(weight, 6)} for word, weight in strongest]
        if len(found.synthesised):
            one["synthesised"] = _synthesised_name(i)
        of_recipes.append(one)
    of_pictures = []
    for answer in found.for_pictures:
        assert found.asked_pictures is not None
        assert found.recipes is not None
        matches = [{**_rank(n, m), **_recipe_facts(found.recipes, m.position)} for n, m in _numbered(answer)]
        query = {"picture": found.asked_pictures.names[answer.query]}
        of_pictures.append({"query": query, "matches": matches})
    return {
        "model": found.model,
        **found.facts,
        "skipped": list(found.skipped),
        "pictures_for_recipes": of_recipes,
        "recipes_for_pictures": of_pictures,
    }


def as_text(found: Searched, *, colour: bool = False, attended: bool = False) -> str:
    """Everything as lines for the terminal.

    attended: with the attention of the recipes' words; colour: as shades of red, else as stars.
    """
    lines = []
    data = as_data(found)
    for i, one in enumerate(data["pictures_for_recipes"]):
        lines.append(f"\n{_plain(one['query']['title'] or one['query']['recipe'])}")
        lines += [_line(m, m["picture"] + (f"  {m['note']}" if m["note"] else "")) for m in one["matches"]]
        if "synthesised" in one:
            lines.append(f"  synthesised: {one['synthesised']}")
        if found.weighed and attended:
            shown = attention.as_text(found.weighed[i], _weights(found, i), colour=colour)
            lines.append(f"  attention: {shown}")
    for one in data["recipes_for_pictures"]:
        lines.append(f"\n{_plain(one['query']['picture'])}")
        lines += [_line(m, m["title"] or m["recipe"]) for m in one["matches"]]
    return "\n".join(lines)


def write(folder: Path, found: Searched) -> Path:
    """Write results.json, the synthesised pictures and index.html; returns the page."""
    for i, picture in enumerate(found.synthesised):
        _, encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        with atomic_write(folder / _synthesised_name(i)) as file:
            file.write(encoded.tobytes())
    write_json(folder / "results.json", as_data(found))
    return write_page(folder / "index.html", found)


def write_page(path: Path, found: Searched) -> Path:
    """Write the page alone."""
    shown_recipes, shown_pictures = found.for_recipes[:MAX_QUERIES], found.for_pictures[:MAX_QUERIES]
    marked = any(m.correct is not None for a in (*shown_recipes, *shown_pictures) for m in a.matches)
    html = render_page(
        Path(__file__).with_name("templates") / "retrieval.html.j2",
        title=found.title,
        model=found.model,
        marked=marked,
        of_recipes=[_recipe_query_view(found, i, answer) for i, answer in enumerate(shown_recipes)],
        of_pictures=[_picture_query_view(found, answer) for answer in shown_pictures],
        attention_shown=_attention_shown(found),
        left_out=len(found.for_recipes) + len(found.for_pictures) - len(shown_recipes) - len(shown_pictures),
        skipped=list(found.skipped[:_SKIPPED]),
        skipped_more=max(0, len(found.skipped) - _SKIPPED),
    )
    with atomic_write(path) as file:
        file.write(html.encode("utf-8", errors="replace"))
    return path


def _recipe_query_view(found: Searched, i: int, answer: Answer) -> dict[str, Any]:
    assert found.asked_recipes is not None
    cards = []
    for match in answer.matches:
        assert found.pictures is not None
        cards.append(
            {
                "name": found.pictures.names[match.position],
                "note": found.pictures.note(match.position),
                "score": match.score,
                "correct": match.correct,
                "thumbnail": thumbnail(found.pictures.file(match.position)),
            }
        )
    words = []
    if found.weighed:
        weights = _weights(found, i)
        shades = attention.shades(weights).tolist()
        words = [
            {"text": word.text, "shade": shade, "weight": weight}
            for word, shade, weight in zip(found.weighed[i].words, shades, weights.tolist(), strict=True)
        ]
    return {
        **_recipe_view(found.asked_recipes.recipe(answer.query)),
        "cards": cards,
        "words": words,
        "synthesised": thumbnail_of(found.synthesised[i]) if len(found.synthesised) else None,
    }


def _picture_query_view(found: Searched, answer: Answer) -> dict[str, Any]:
    assert found.asked_pictures is not None
    assert found.recipes is not None
    return {
        "name": found.asked_pictures.names[answer.query],
        "note": found.asked_pictures.note(answer.query),
        "thumbnail": thumbnail(found.asked_pictures.file(answer.query)),
        "matches": [
            {**_recipe_view(found.recipes.recipe(m.position)), "score": m.score, "correct": m.correct}
            for m in answer.matches
        ],
    }


def _recipe_view(recipe: Recipe) -> dict[str, Any]:
    ingredients = [line for line in recipe.ingredients if line.strip()]
    steps = [line for line in recipe.instructions if line.strip()]
    return {
        "id": printable(recipe.id),
        "title": recipe.title or recipe.id,
        "ingredients": ingredients[:_INGREDIENTS],
        "steps": steps[:_STEPS],
        "more": len(ingredients) > _INGREDIENTS or len(steps) > _STEPS,
    }


def _recipe_facts(source: RecipeSource, position: int) -> dict[str, Any]:
    recipe = source.recipe(position)
    return {"recipe": source.names[position], "title": recipe.title}


def _picture_facts(found: Searched, position: int) -> dict[str, Any]:
    assert found.pictures is not None
    file = found.pictures.file(position)
    return {
        "picture": found.pictures.names[position],
        "note": found.pictures.note(position),
        "file": None if file is None else printable(str(file)),
    }


def _numbered(answer: Answer) -> list[tuple[int, Any]]:
    return list(enumerate(answer.matches, 1))


def _rank(number: int, match: Any) -> dict[str, Any]:
    known = {} if match.correct is None else {"correct": match.correct}
    return {"rank": number, "score": round(match.score, 6), **known}


def _weights(found: Searched, i: int) -> np.ndarray:
    return found.weighed[i].of(found.layer, found.head)


def _attention_shown(found: Searched) -> str:
    if not found.weighed:
        return ""
    layers = len(found.weighed[0].weights)
    head = "mean of the heads" if found.head is None else f"head {found.head}"
    return f"layer {found.layer % layers + 1} of {layers}, {head}"


def _synthesised_name(i: int) -> str:
    return f"synthesised/{i + 1:03d}.jpg"


def _line(match: Mapping[str, Any], what: str) -> str:
    mark = {True: " *", False: "  ", None: ""}[match.get("correct")]
    return f"  {match['rank']:2}  {match['score']:+.3f}{mark}  {_plain(what)}"


def _plain(text: str) -> str:
    """Without control characters, which a file could send to the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
