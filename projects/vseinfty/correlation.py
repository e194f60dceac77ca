"""CxC correlation tasks: does the model rank pairs as people do? (Parekh et al. 2021; not in the release)

STS rates caption pairs, SIS image pairs, SITS caption-image pairs, on a scale of 0 to 5. Ratings of pairs
that share an item are correlated, hence the paper's sampled Spearman: for each of 1,000 bootstrap samples
take half of the queries and for each of them one of its rated items, and correlate model and human scores
over these pairs; report mean and standard deviation over the samples (x 100).
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import InputError

TASKS: Mapping[str, tuple[str, str]] = {
    "sts": ("text", "text"),
    "sis": ("image", "image"),
    "sits": ("text", "image"),
}
"""Task -> what the first and the second column of its csv file name; the first column is the query."""
MAX_RATING = 5.0


@dataclass(frozen=True)
class Ratings:
    """Rated pairs of one task: COCO ids of both items [P] and the mean rating in [0, 5] [P]."""

    path: Path
    first: np.ndarray
    second: np.ndarray
    scores: np.ndarray


def id_number(name: str) -> int | None:
    """COCO id in `COCO_val2014:sentid:190268`, `COCO_val2014_000000009175.jpg`; None where there is none."""
    digits = re.search(r"(\d+)(?:\.\w+)?$", name.strip())
    return int(digits.group(1)) if digits else None


def read_ratings(path: Path) -> Ratings:
    """`{sts,sis,sits}_{val,test}.csv` of the CxC release: header, then `id, id, rating, sampling method` per
    line.

    Raises InputError with file and line for a missing file, a short line, a name without id or a rating
    outside [0, 5].
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing; the CxC rating files are sts_*.csv, sis_*.csv and sits_*.csv"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a UTF-8 csv file: {error}") from None
    if len(rows) < 2 or len(rows[0]) < 3 or re.fullmatch(r"[\d.]+", rows[0][2]):
        raise InputError(
            f"{path}: expected a header line `id,id,rating,method` and rated pairs, found {rows[:1]}"
        )
    first, second, scores = [], [], []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        where = f"{path} line {number}"
        if len(row) < 3:
            raise InputError(f"{where}: expected `id,id,rating,method`, found {len(row)} fields")
        ids = id_number(row[0]), id_number(row[1])
        if ids[0] is None or ids[1] is None:
            raise InputError(f"{where}: no COCO id in {row[0 if ids[0] is None else 1]!r}")
        first.append(ids[0])
        second.append(ids[1])
        scores.append(_rating(row[2], where))
    return Ratings(path, np.array(first, np.int64), np.array(second, np.int64), np.array(scores))


def correlations(
    ratings: Mapping[str, Ratings],
    images: np.ndarray,
    captions: np.ndarray,
    *,
    image_ids: Sequence[str],
    caption_ids: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (x 100) of the sampled Spearman correlation of each task in `ratings`.

    images [n, E] and captions [m, E] are embeddings in the order of `image_ids` [n] and `caption_ids` [m].
    Pairs with an item outside these ids are left out and counted (`missing`); InputError where none is left.
    """
    sides = {"image": (images, _positions(image_ids)), "text": (captions, _positions(caption_ids))}
    results = {}
    for task, of in ratings.items():
        (queries, query_rows), (items, item_rows) = (sides[kind] for kind in TASKS[task])
        rows = np.array([query_rows.get(number, -1) for number in of.first.tolist()])
        columns = np.array([item_rows.get(number, -1) for number in of.second.tolist()])
        known = (rows >= 0) & (columns >= 0)
        if not known.any():
            raise InputError(
                f"{of.path}: none of its {len(known)} pairs is among the evaluated items "
                f"({len(query_rows)} x {len(item_rows)}); is it the file of another split?"
            )
        model = pair_scores(queries, items, rows[known], columns[known])
        mean, std = sampled_spearman(model, of.scores[known], rows[known], samples=samples, seed=seed)
        pairs = {"pairs": int(known.sum()), "missing": int((~known).sum())}
        results[task] = {"mean": 100 * mean, "std": 100 * std, **pairs}
    return results


def pair_scores(
    queries: np.ndarray, items: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, block: int = 8192
) -> np.ndarray:
    """Dot products [P] of `queries[rows]` and `items[columns]`, in float64."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        left, right = queries[rows[part]].astype(np.float64), items[columns[part]].astype(np.float64)
        scores[part] = np.einsum("pe,pe->p", left, right)
    return scores


def sampled_spearman(
    model: np.ndarray, human: np.ndarray, queries: np.ndarray, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over `samples` of Spearman's correlation between `model` [P] and `human`
    [P].

    Each sample draws half of the distinct `queries` [P] without replacement and one pair of each, uniformly.
    """
    from scipy.stats import rankdata

    order = np.argsort(queries, kind="stable")
    distinct, counts = np.unique(queries, return_counts=True)
    first = np.cumsum(counts) - counts
    half = len(distinct) // 2
    if half < 2:
        raise InputError(
            f"sampled Spearman correlation needs rated pairs of at least 4 queries, found {len(distinct)}"
        )
    rng = np.random.default_rng(seed)
    values = np.empty(samples)
    for sample in range(samples):
        chosen = rng.permutation(len(distinct))[:half]
        pairs = order[first[chosen] + rng.integers(0, counts[chosen])]
        values[sample] = _pearson(rankdata(model[pairs]), rankdata(human[pairs]))
    return float(values.mean()), float(values.std())


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side is constant (no order to agree with)."""
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else 0.0


def _positions(ids: Sequence[str]) -> dict[int, int]:
    positions: dict[int, int] = {}
    for row, name in enumerate(ids):
        number = id_number(name)
        if number is None:
            raise InputError(f"no COCO id in {name!r} (item {row} of the evaluated split)")
        positions.setdefault(number, row)
    return positions


def _rating(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= MAX_RATING:
        raise InputError(f"{where}: expected a rating from 0 to {MAX_RATING:g}, found {text!r}")
    return value
