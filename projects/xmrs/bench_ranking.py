"""Bench cases of retrieval: the ten subsets of the 10k and 1k protocols, both directions."""

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from projects.xmrs import retrieval
from shared.bench import Case, Sides, Target

NUM_TEST_PAIRS = 51_303  # of Recipe1M
_PRODUCTS = "float32 products alone"
_RELEASED = "released: sorts each row, twice"


def embeddings(num_pairs: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [N, D] that retrieve about as well as the paper's model: medR 3 among 10,000."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((num_pairs, dim), dtype=np.float32)
    recipes = images + 0.28 * dim**0.5 * rng.standard_normal(images.shape, dtype=np.float32)
    for rows in (images, recipes):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return images, recipes


def released_ranks(queries: np.ndarray, items: np.ndarray, size: int, runs: int) -> np.ndarray:
    """One direction, ranks from 1 [runs, size]: a product per run, a full sort and a list search per query."""
    random.seed(retrieval.SUBSET_SEED)
    found = []
    for _ in range(runs):
        chosen = random.sample(range(len(queries)), size)
        similarities = np.dot(queries[chosen], items[chosen].T)
        positions = []
        for query in range(size):
            order = np.argsort(similarities[query])[::-1].tolist()
            positions.append(order.index(query) + 1)
        found.append(positions)
    return np.array(found)


def released_both(images: np.ndarray, recipes: np.ndarray, size: int, runs: int) -> list[np.ndarray]:
    """Both directions, each with products of its own."""
    return [released_ranks(images, recipes, size, runs), released_ranks(recipes, images, size, runs)]


def our_ranks(images: np.ndarray, recipes: np.ndarray, size: int, runs: int) -> list[np.ndarray]:
    """Both directions from one product per subset."""
    subsets = retrieval.ten_subsets(len(images), size, runs=runs)
    found = [retrieval.ranks(images, recipes, subset)[:2] for subset in subsets]
    return [np.stack(direction) for direction in zip(*found, strict=True)]


def products(images: np.ndarray, recipes: np.ndarray, size: int, runs: int) -> float:
    """What no exact ranking can do without: one product per subset."""
    total = 0.0
    left, right = torch.from_numpy(images), torch.from_numpy(recipes)
    for subset in retrieval.ten_subsets(len(images), size, runs=runs):
        rows = torch.from_numpy(subset)
        total += float((left[rows] @ right[rows].T)[0, 0])
    return total


def ranking(size: int, runs: int, quick: bool) -> Sides:
    """Subsets of the test set; `quick`: three of a few pairs."""
    count, dim, size, runs = (120, 16, 100, 3) if quick else (NUM_TEST_PAIRS, 1024, size, runs)
    given = (*embeddings(count, dim), size, runs)
    return {
        _RELEASED: partial(released_both, *given),
        "ours": partial(our_ranks, *given),
        _PRODUCTS: partial(products, *given),
    }


def check_ranking(outputs: Mapping[str, Any]) -> str:
    """Every rank of both directions; float32 products may put close neighbours the other way round."""
    differing = total = 0
    for found, expected in zip(outputs["ours"], outputs[_RELEASED], strict=True):
        difference = np.abs(found - expected)
        assert difference.max() <= 2, f"a rank differs by {difference.max()}"
        differing, total = differing + int(np.count_nonzero(difference)), total + difference.size
    assert differing <= 0.002 * total, f"{differing} of {total} ranks differ"
    return f"{total - differing} of {total} ranks are equal (the released ones are those of float32 products)"


CASES = [
    Case(
        "ranking_10k",
        "10k protocol: one of the ten subsets of 10,000 of 51,303 pairs, both directions",
        partial(ranking, 10_000, 1),
        check_ranking,
        (Target("ours", _RELEASED, 6.0), Target("ours", _PRODUCTS, 1 / 1.3)),
    ),
    Case(
        "ranking_1k",
        "1k protocol: ten subsets of 1,000 of 51,303 pairs, both directions",
        partial(ranking, 1_000, retrieval.RUNS),
        check_ranking,
        (Target("ours", _RELEASED), Target("ours", _PRODUCTS)),
    ),
]
