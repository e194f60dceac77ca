"""Crisscrossed-Captions files for a split of the embedded data: judgements computed from shared concepts.

The rating of two items is 5 times the share of concepts that they have in common, with a little noise, so
that a model which reads concepts agrees with it. Formats as `cxc.py` and `correlation.py` read them.

n: images   5n: captions   C: concepts
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.files import write_json

FIRST_CAPTION_ID = 100_000
MAX_RATING = 5.0
LISTED = 5  # judged items of a query, at most
RATED_QUERIES = 300  # of each correlation task, four pairs each


def write(
    folder: Path, split: str, images: np.ndarray, captions: np.ndarray, rng: np.random.Generator
) -> None:
    """Write `{split}_{ids,capids}.txt`, `cxc_{it,i2i,t2t}.json` and `{sts,sis,sits}_{split}.csv`.

    images: [n, C] bool, the concepts that an image shows; captions: [5n, C] bool, those that a caption names.
    """
    folder.mkdir(parents=True)
    per_image = len(captions) // len(images)
    of_images, of_captions = np.arange(len(images)), FIRST_CAPTION_ID + np.arange(len(captions))
    _write_lines(folder / f"{split}_ids.txt", np.repeat(of_images, per_image).tolist())
    _write_lines(folder / f"{split}_capids.txt", of_captions.tolist())

    kinds = {"image": (images, of_images), "text": (captions, of_captions)}
    listed = {
        (query, item): _judgements(*kinds[query], *kinds[item], same=query == item)
        for query, item in (("text", "image"), ("image", "text"), ("text", "text"), ("image", "image"))
    }
    write_json(folder / "cxc_it.json", {"t2i": listed["text", "image"], "i2t": listed["image", "text"]})
    write_json(folder / "cxc_t2t.json", listed["text", "text"])
    write_json(folder / "cxc_i2i.json", listed["image", "image"])
    for task, query, item in (("sts", "text", "text"), ("sis", "image", "image"), ("sits", "text", "image")):
        rows = _rated_pairs(*kinds[query], *kinds[item], rng)
        names = [f"{kind}{number}" for number, kind in enumerate((query, item), start=1)]
        pairs = [f"{_name(query, a)},{_name(item, b)},{rating:.2f},c2i_sampling" for a, b, rating in rows]
        _write_lines(
            folder / f"{task}_{split}.csv", [",".join([*names, "agg_score", "sampling_method"]), *pairs]
        )


def _shared(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Rating [Q, N]: 5 times the shared concepts over the smaller of the two sets."""
    common = queries.astype(np.float32) @ items.T.astype(np.float32)
    smaller = np.minimum(queries.sum(1)[:, None], items.sum(1)[None, :])
    return MAX_RATING * common / smaller


def _judgements(
    queries: np.ndarray, query_ids: np.ndarray, items: np.ndarray, item_ids: np.ndarray, *, same: bool
) -> dict[str, list[list[float]]]:
    """Query id -> [[item id, rating], ...]: items with all concepts, or half of them within a kind."""
    judged: dict[str, list[list[float]]] = {}
    lowest = MAX_RATING / 2 if same else MAX_RATING
    for start in range(0, len(queries), 512):  # no [5n, 5n] matrix
        block = _shared(queries[start : start + 512], items)
        if same:
            block[np.arange(len(block)), start + np.arange(len(block))] = (
                0  # nothing is judged against itself
            )
        best = np.argsort(-block, axis=1, kind="stable")[:, :LISTED]
        for row, columns in enumerate(best):
            kept = [column for column in columns if block[row, column] >= lowest]
            ratings = [[int(item_ids[column]), round(float(block[row, column]), 2)] for column in kept]
            judged[str(query_ids[start + row])] = ratings
    return judged


def _rated_pairs(
    queries: np.ndarray,
    query_ids: np.ndarray,
    items: np.ndarray,
    item_ids: np.ndarray,
    rng: np.random.Generator,
) -> list[tuple[int, int, float]]:
    """Pairs of high, middle and low ratings of some queries."""
    chosen = rng.choice(len(queries), min(RATED_QUERIES, len(queries)), replace=False)
    rows = []
    for query, ratings in zip(chosen, _shared(queries[chosen], items), strict=True):
        order = np.argsort(-ratings, kind="stable")
        low, middle = rng.integers(len(items), size=2), rng.integers(1, min(20, len(items)))
        for item in {int(order[1 % len(items)]), int(order[middle]), *map(int, low)} - {int(query)}:
            rating = np.clip(ratings[item] + rng.normal(0, 0.3), 0, MAX_RATING)
            rows.append((int(query_ids[query]), int(item_ids[item]), float(rating)))
    return rows


def _name(kind: str, number: int) -> str:
    return f"MINI_{number:012d}.jpg" if kind == "image" else f"MINI:sentid:{number}"


def _write_lines(path: Path, lines: Sequence[object]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
