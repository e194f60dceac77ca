"""Retrieval as the paper reports it: ten random subsets of 1,000 or 10,000 pairs, both directions.

Pair i is image i and recipe i. A rank counts from 1: the place of a query's own pair when all items of the
subset are sorted by the dot product of unit vectors. What a rank is when scores are equal is defined in
`shared.ranking`. Recalls are fractions, as in the released output; the paper's tables show percent.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from shared.metrics import paired_ranks

SUBSET_SEED = 1234
RUNS = 10
IMAGE_TO_RECIPE, RECIPE_TO_IMAGE = "image_to_recipe", "recipe_to_image"
RECALLS = ("r1", "r5", "r10")

Embeddings = np.ndarray | Tensor
Summary = dict[str, Any]
"""medr (mean of the runs' medians), r1 r5 r10, meanr, dcg, ties, size, medr_per_run [runs]."""


def ten_subsets(num_items: int, size: int, *, seed: int = SUBSET_SEED, runs: int = RUNS) -> np.ndarray:
    """The pairs of each run, int64 [runs, size]: Python's `random.sample`, seeded, as in the release.

    InputError when there are fewer pairs than a subset holds.
    """
    if type(size) is not int or size < 1:
        raise InputError(f"medr: expected the number of pairs of a subset, found {size!r}")
    if runs < 1:
        raise InputError(f"runs: expected at least one subset, found {runs}")
    if num_items < size:
        raise InputError(f"medr: subsets of {size} pairs asked for, but there are only {num_items} pairs")
    stream = random.Random(seed)
    return np.array([stream.sample(range(num_items), size) for _ in range(runs)], np.int64)


def rank(
    queries: Embeddings,
    items: Embeddings,
    *,
    size: int = 1000,
    seed: int = SUBSET_SEED,
    runs: int = RUNS,
) -> Summary:
    """One direction over ten subsets: `queries` [N, D] want the item of the same row of `items` [N, D]."""
    return rank_subsets(queries, items, ten_subsets(_pairs(queries, items), size, seed=seed, runs=runs))[
        IMAGE_TO_RECIPE
    ]


def rank_both(
    images: Embeddings,
    recipes: Embeddings,
    *,
    size: int = 1000,
    seed: int = SUBSET_SEED,
    runs: int = RUNS,
) -> dict[str, Summary]:
    """{"image_to_recipe": ..., "recipe_to_image": ...} over ten subsets, from one product per subset.

    images, recipes: unit rows [N, D], NumPy or tensors (of a GPU as well). InputError for N < size, and for
    embeddings of different counts or sizes or that are not finite.
    """
    return rank_subsets(images, recipes, ten_subsets(_pairs(images, recipes), size, seed=seed, runs=runs))


def rank_subsets(
    images: Embeddings, recipes: Embeddings, subsets: np.ndarray | Sequence[Sequence[int]]
) -> dict[str, Summary]:
    """`rank_both` on given `subsets` [runs, size] of the pairs."""
    _pairs(images, recipes)
    found = [ranks(images, recipes, np.asarray(subset, np.int64)) for subset in subsets]
    ties = sum(one[2] for one in found)
    return {
        IMAGE_TO_RECIPE: summary(np.stack([one[0] for one in found]), ties=ties),
        RECIPE_TO_IMAGE: summary(np.stack([one[1] for one in found]), ties=ties),
    }


def ranks(
    images: Embeddings, recipes: Embeddings, subset: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Ranks from 1, int64 [n] each, of the images and of the recipes among the pairs `subset` (None: all).

    Third: how many wrong pairs score exactly as high as a right one.
    """
    _pairs(images, recipes)
    if subset is not None:
        images, recipes = _rows(images, subset), _rows(recipes, subset)
    found = paired_ranks(images, recipes, per_query=1)
    return found.queries + 1, found.items + 1, found.ties


def summary(found: np.ndarray, *, ties: int = 0) -> Summary:
    """What is reported of ranks from 1, [runs, size] (or [size]): means over the runs of each run's number.

    dcg: mean of 1 / log2(rank + 1).
    """
    found = np.atleast_2d(found)
    medians = np.median(found, axis=1)
    return {
        "medr": float(medians.mean()),
        **{f"r{k}": float((found <= k).mean(1).mean()) for k in (1, 5, 10)},
        "meanr": float(found.mean()),
        "dcg": float((1 / np.log2(found + 1.0)).mean()),
        "ties": ties,
        "size": found.shape[1],
        "medr_per_run": medians.tolist(),
    }


def sum_of_recalls(found: Mapping[str, Any]) -> float:
    """R@1 + R@5 + R@10, by which the best model is chosen."""
    return float(sum(found[name] for name in RECALLS))


def table(results: Mapping[str, Mapping[str, Summary]]) -> str:
    """A line per entry of {name: `rank_both`}: medR, and R@1, 5, 10 in percent, of both directions."""
    width = max(len("set"), *map(len, results))
    head = "  medR   R@1   R@5  R@10"
    lines = [
        f"{'':{width}} | {'image -> recipe':{len(head)}} | {'recipe -> image':{len(head)}}",
        f"{'set':{width}} | {head} | {head}",
    ]
    for name, both in results.items():
        halves = [
            f"{both[way]['medr']:6.1f} " + " ".join(f"{100 * both[way][key]:5.1f}" for key in RECALLS)
            for way in (IMAGE_TO_RECIPE, RECIPE_TO_IMAGE)
        ]
        lines.append(f"{name:{width}} | {halves[0]} | {halves[1]}")
    return "\n".join(lines)


def _pairs(images: Embeddings, recipes: Embeddings) -> int:
    if images.ndim != 2 or tuple(images.shape) != tuple(recipes.shape) or not len(images):
        raise InputError(
            "embeddings: expected [pairs, dimensions] of the same shape for images and recipes, "
            f"found {list(images.shape)} and {list(recipes.shape)}"
        )
    return len(images)


def _rows(embeddings: Embeddings, rows: np.ndarray) -> Embeddings:
    if isinstance(embeddings, Tensor):
        return embeddings[torch.from_numpy(rows).to(embeddings.device)]
    return embeddings[rows]
