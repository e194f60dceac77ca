"""Matches between images as pictures, and one HTML page of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from projects.babel import masks, views
from projects.babel.image_batches import Reader
from projects.babel.matching import WITHIN, Features, Pairs
from projects.babel.pages import printable
from projects.babel.photo_matching import Matched
from shared.files import atomic_write, read_image
from shared.page import render_page, thumbnail_of

RIGHT, WRONG, UNJUDGED = (40, 160, 80), (215, 60, 50), (60, 130, 220)
_HEIGHT = 320  # pixels of a drawn picture
_LINES = 40  # matches that are drawn
_GAP = 8
_CROP = 0.3  # of the shorter side, around a point
_NEAREST = 5
_POOL = 4096  # points that are searched for the nearest ones


def draw(first: np.ndarray, second: np.ndarray, rowcol: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Two pictures side by side with a line per match, uint8 RGB. rowcol: [K, 4], fractions; colours: uint8 [K, 3]."""
    left, right = (
        views.resized(one, (_HEIGHT, max(1, round(_HEIGHT * one.shape[1] / one.shape[0]))))
        for one in (first, second)
    )
    start = left.shape[1] + _GAP
    canvas = np.full((_HEIGHT, start + right.shape[1], 3), 255, np.uint8)
    canvas[:, : left.shape[1]], canvas[:, start:] = left, right
    scale = np.array([_HEIGHT, left.shape[1], _HEIGHT, right.shape[1]]) - 1
    places = (np.clip(rowcol, 0, 1) * scale).round().astype(int) + np.array([0, 0, 0, start])
    for (row0, col0, row1, col1), colour in zip(places.tolist(), colours.tolist(), strict=True):
        cv2.line(canvas, (col0, row0), (col1, row1), colour, 1, cv2.LINE_AA)
        for place in ((col0, row0), (col1, row1)):
            cv2.circle(canvas, place, 3, colour, -1, cv2.LINE_AA)
    return canvas


def patch(picture: np.ndarray, rowcol: np.ndarray) -> np.ndarray:
    """The part of a picture around a point [2] (fractions), a square with the point marked; edges are repeated."""
    side = max(16, round(_CROP * min(picture.shape[:2])))
    half = side // 2
    padded = np.pad(picture, ((half, half), (half, half), (0, 0)), mode="edge")
    row, column = (round(float(p) * (n - 1)) for p, n in zip(rowcol, picture.shape[:2], strict=True))
    cut = cv2.resize(
        padded[row : row + side, column : column + side], (128, 128), interpolation=cv2.INTER_CUBIC
    )
    cv2.circle(cut, (64, 64), 5, UNJUDGED, 2, cv2.LINE_AA)
    return cut


def pair_cards(
    features: Features,
    pairs: Pairs,
    read: Reader,
    names: Sequence[str],
    count: int,
    *,
    within: float = WITHIN,
) -> Iterator[dict[str, Any]]:
    """The first `count` pairs: each point of the first image with the nearest of the second, right or wrong."""
    for p in range(min(count, len(pairs))):
        part = slice(pairs.offsets[p], pairs.offsets[p + 1])
        best = (features.first[part] @ features.second[part].T).argmax(axis=1)
        rowcol = pairs.rowcol[part]
        found = rowcol[best, 2:]
        right = np.linalg.norm(found - rowcol[:, 2:], axis=1) <= within
        first, second = int(pairs.first[p]), int(pairs.second[p])
        colours = np.where(right[:, None], np.array(RIGHT), np.array(WRONG))
        shown = np.concatenate([rowcol[:, :2], found], axis=1)
        drawn = draw(read(first), read(second), shown[:_LINES], colours[:_LINES])
        yield {
            "title": f"{names[first]} — {names[second]}",
            "note": f"{int(right.sum())} of {len(right)} points right within {100 * within:g} % of the image",
            "source": thumbnail_of(drawn, 1000),
        }


def search_cards(
    features: Features, pairs: Pairs, read: Reader, count: int, *, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Random points of first images, and the nearest points of all other images."""
    rng = np.random.default_rng([seed, 0x5EA2C])
    total = len(pairs.points)
    pool = np.sort(rng.permutation(total)[:_POOL])
    pair_of = np.repeat(np.arange(len(pairs)), np.diff(pairs.offsets))
    for query in np.sort(rng.permutation(pool)[:count]).tolist():
        image = int(pairs.first[pair_of[query]])
        order = np.argsort(-(features.second[pool] @ features.first[query]), kind="stable")
        nearest: list[dict[str, Any]] = []
        shown: set[tuple[int, int]] = {(image, int(pairs.points[query]))}
        for place in pool[order].tolist():
            key = (int(pairs.second[pair_of[place]]), int(pairs.points[place]))
            if key[0] == image or key in shown:
                continue
            shown.add(key)  # a keypoint may be in several pairs
            source = thumbnail_of(patch(read(key[0]), pairs.rowcol[place, 2:]))
            nearest.append({"source": source, "right": key[1] == int(pairs.points[query])})
            if len(nearest) == _NEAREST:
                break
        yield {"source": thumbnail_of(patch(read(image), pairs.rowcol[query, :2])), "nearest": nearest}


def photo_card(folder: Path, number: int, matched: Matched) -> dict[str, Any]:
    """Draw the best matches of two photographs into `<number>.jpg`; what the page and results.json say of them."""
    rowcol = matched.rowcol[:_LINES]
    colours = np.tile(np.array(UNJUDGED), (len(rowcol), 1))
    drawn = draw(read_image(matched.first), read_image(matched.second), rowcol, colours)
    name = f"{number:03d}.jpg"
    masks.write_picture(folder / name, drawn)
    return {
        "title": f"{printable(matched.first.name)} — {printable(matched.second.name)}",
        "note": f"{len(matched.rowcol)} points are each other's nearest; the best {len(rowcol)} are drawn ({name})",
        "source": thumbnail_of(drawn, 1000),
        "file": name,
    }


def write_page(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, Any],
    table: Mapping[str, Mapping[str, float]],
    cards: Sequence[Mapping[str, Any]],
    searches: Sequence[Mapping[str, Any]] = (),
    within: float = WITHIN,
) -> None:
    """Write index.html. table: scores by layer; within: of its PCK."""
    html = render_page(
        Path(__file__).with_name("templates") / "matches.html.j2",
        title=title,
        facts=[{"name": name, "value": value} for name, value in facts.items()],
        table=[{"name": layer, **values} for layer, values in table.items()],
        cards=cards,
        searches=searches,
        within=f"{100 * within:g} %",
    )
    with atomic_write(path) as file:
        file.write(html.encode("utf-8", errors="replace"))
