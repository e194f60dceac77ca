"""Synthesised images side by side with the photos, as in the paper's figure: a PNG and an HTML page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from projects.xmrs import synthesis
from projects.xmrs.gan_evaluation import Subject
from shared.errors import InputError
from shared.files import atomic_write
from shared.page import render_page, thumbnail_of

GRID, PAGE = "synthesis_grid.png", "index.html"
_GAP = 4  # pixels between images
_INGREDIENTS, _STEPS = 12, 6  # lines of a recipe on the page


@dataclass(frozen=True)
class Row:
    """A recipe of the figure: its photo, the image without noise, and images of different noise."""

    id: str
    title: str
    ingredients: list[str]
    instructions: list[str]
    images: list[np.ndarray]  # uint8 [S, S, 3]: photo, zero noise, noise 1, 2, ...


def rows_of(subject: Subject, rows: np.ndarray, samples: int) -> list[Row]:
    """The figure's rows of recipes `rows`, with `samples` draws of noise each."""
    chosen = subject.split.recipes[rows]
    columns = [[np.asarray(subject.photo(row)) for row in rows.tolist()]]
    for seed in [None, *range(1, samples + 1)]:
        images = synthesis.synthesise(
            subject.generator,
            chosen,
            seed=subject.seed + (seed or 0),
            zero_noise=seed is None,
            batch_size=subject.batch_size,
        )
        columns.append([np.asarray(subject.picture(image)) for image in images])
    found = []
    for place, row in enumerate(rows.tolist()):
        recipe = subject.recipes.get(subject.ids[row])
        found.append(
            Row(
                subject.ids[row],
                recipe.title if recipe else subject.ids[row],
                recipe.ingredients[:_INGREDIENTS] if recipe else [],
                recipe.instructions[:_STEPS] if recipe else [],
                [column[place] for column in columns],
            )
        )
    return found


def grid(rows: list[Row]) -> Image.Image:
    """One picture: a line per recipe, photo first."""
    side = rows[0].images[0].shape[0]
    width = max(len(row.images) for row in rows)
    step = side + _GAP
    sheet = Image.new("RGB", (width * step + _GAP, len(rows) * step + _GAP), (255, 255, 255))
    for line, row in enumerate(rows):
        for column, image in enumerate(row.images):
            sheet.paste(Image.fromarray(image), (_GAP + column * step, _GAP + line * step))
    return sheet


def write_figure(
    folder: Path, subject: Subject, metrics: Mapping[str, Any], table: str, *, recipes: int, samples: int
) -> Path:
    """Draw the figure of `recipes` recipes, chosen by the seed, with `samples` draws of noise; see `write`."""
    if not recipes >= 1 or samples < 0:
        raise InputError(f"grid: expected at least 1 recipe and 0 samples, found {recipes} and {samples}")
    count = min(recipes, len(subject.ids))
    chosen = np.sort(np.random.default_rng(subject.seed).choice(len(subject.ids), count, replace=False))
    numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    return write(folder, subject.name, rows_of(subject, chosen, samples), numbers, table)


def write(folder: Path, model: str, rows: list[Row], metrics: Mapping[str, float], table: str) -> Path:
    """Write synthesis_grid.png and index.html; returns the page."""
    with atomic_write(folder / GRID) as file:
        grid(rows).save(file, "PNG")
    html = render_page(
        Path(__file__).with_name("templates") / "gan_test.html.j2",
        model=model,
        samples=len(rows[0].images) - 2,
        rows=[
            {
                "id": row.id,
                "title": row.title,
                "ingredients": row.ingredients,
                "instructions": row.instructions,
                "images": [thumbnail_of(image) for image in row.images],
            }
            for row in rows
        ],
        numbers=metrics,
        table=table,
    )
    with atomic_write(folder / PAGE, "w") as file:
        file.write(html)
    return folder / PAGE
