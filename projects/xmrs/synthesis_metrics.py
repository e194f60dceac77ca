"""How good synthesised images are: retrieval with them, in four ways, and files of it.

| mode | query | gallery |
|---|---|---|
| fi2t | synthesised image | recipes |
| t2fi | recipe | synthesised images |
| fi2i | synthesised image | real images |
| i2fi | real image | synthesised images |

N: pairs   D: joint space. All embeddings are unit rows [N, D]; pair i is row i everywhere.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs import retrieval
from shared import files

MODES = ("fi2t", "t2fi", "fi2i", "i2fi")
SUMMARY = ("medr", "r1", "r5", "r10", "meanr", "dcg")
CSV_HEADER = ("mode", "fold", "medR", "R@1", "R@5", "R@10", "mean_rank", "DCG")


def rank_modes(
    fake: np.ndarray, images: np.ndarray, recipes: np.ndarray, subset: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Ranks from 1 of each mode [n], among the pairs `subset` (None: all)."""
    of_fake, of_recipes, _ = retrieval.ranks(fake, recipes, subset)
    to_images, of_images, _ = retrieval.ranks(fake, images, subset)
    return dict(zip(MODES, (of_fake, of_recipes, to_images, of_images), strict=True))


def folds(
    fake: np.ndarray, images: np.ndarray, recipes: np.ndarray, subsets: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Each mode over random subsets [folds, size]: {mode: {medr, r1, ..., dcg, "folds": [the same of each]}}."""
    ranked = [rank_modes(fake, images, recipes, subset) for subset in subsets]
    found = {}
    for mode in MODES:
        each = [_numbers(one[mode]) for one in ranked]
        found[mode] = {**_numbers(np.stack([one[mode] for one in ranked])), "folds": each}
    return found


def _numbers(ranks: np.ndarray) -> dict[str, float]:
    whole = retrieval.summary(ranks)
    return {name: whole[name] for name in SUMMARY}


def write_folds(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """rank_random_result.csv: a row per mode and fold, and one of their mean."""
    rows: list[list[Any]] = []
    for mode, numbers in found.items():
        for fold, one in enumerate(numbers["folds"], 1):
            rows.append([mode, fold, *(one[name] for name in SUMMARY)])
        rows.append([mode, "mean", *(numbers[name] for name in SUMMARY)])
    _write_csv(path, CSV_HEADER, rows)


def full_ranking(fake: np.ndarray, images: np.ndarray, recipes: np.ndarray) -> dict[str, np.ndarray]:
    """Ranks of each mode among all pairs [N]."""
    return rank_modes(fake, images, recipes)


def write_full(
    folder: Path, ids: Sequence[str], ranks: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """rank_full_result.csv (a row per recipe), rank_full_result.npz and best_ranks.json; the summaries.

    best_ranks.json: per mode the smallest rank, and the ids of those who have it.
    """
    table = zip(ids, *(ranks[mode].tolist() for mode in MODES), strict=True)
    _write_csv(folder / "rank_full_result.csv", ("id", *MODES), table)
    arrays: dict[str, Any] = {"ids": np.asarray(list(ids), np.str_), **ranks}
    files.save_npz(folder / "rank_full_result.npz", **arrays)
    best = {}
    for mode in MODES:
        smallest = int(ranks[mode].min())
        holders = [ids[row] for row in np.flatnonzero(ranks[mode] == smallest).tolist()]
        best[mode] = {"rank": smallest, "count": len(holders), "ids": holders}
    files.write_json(folder / "best_ranks.json", best)
    return {mode: _numbers(ranks[mode]) for mode in MODES}


def cosines(fake: np.ndarray, images: np.ndarray, recipes: np.ndarray) -> dict[str, float]:
    """Mean cosines of the synthesised images to their recipes and to their real images."""
    return {
        "cos_recipe": float((fake * recipes).sum(1).mean()),
        "cos_image": float((fake * images).sum(1).mean()),
    }


def derangement(count: int, seed: int) -> np.ndarray:
    """A random order [count] in which nothing stays in its place (one cycle through all)."""
    order = np.random.default_rng(seed).permutation(count)
    shuffled = np.empty(count, np.int64)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per mode for the terminal: medR, and R@1, 5, 10 in percent."""
    lines = [f"{'':>24}    medR    R@1    R@5   R@10  mean rank    DCG"]
    for mode, numbers in found.items():
        recalls = " ".join(f"{100 * numbers[name]:6.1f}" for name in ("r1", "r5", "r10"))
        lines.append(
            f"{mode:>24}  {numbers['medr']:6.1f} {recalls} {numbers['meanr']:10.1f} {numbers['dcg']:6.3f}"
        )
    return "\n".join(lines)


def _write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    with files.atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
