"""Retrieval by strata of a split, and between relation twins: what the claims on the embedded data are read from.

The side file: {split: {"strata": {name: [recipe ids]}, "twins": [[id, id], ...]}}.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs import retrieval
from shared.errors import InputError
from shared.files import read_json

TIE = 1e-5  # similarities closer than this are equal: what differs is the order of additions
SIZE = 300


def metrics(
    path: Path,
    ids: Sequence[str],
    images: np.ndarray,
    recipes: np.ndarray,
    *,
    split: str,
    size: int = SIZE,
    seed: int = retrieval.SUBSET_SEED,
) -> dict[str, Any]:
    """R@1 of each stratum's queries and the accuracy between twins; {} for a split that is not in the file.

    Args:
        path: the side file.
        ids: recipe ids of the rows.
        images, recipes: unit embeddings [N, D] of the pairs.
        split: whose strata to take.
        size: pairs of a subset; queries of all strata meet the same galleries, those of the ten subsets.
        seed: of the subsets.

    Returns:
        {"strata": {name: {"count", "image_to_recipe", "recipe_to_image"}}, "twins": {"count", "image_to_recipe",
        "recipe_to_image"}}; shares of 1. A stratum that no subset meets has its count alone.

    Raises:
        InputError: the file names a recipe that the split lacks.
    """
    described = read_json(path).get(split)
    if described is None:
        return {}
    row_of = {name: row for row, name in enumerate(ids)}

    def rows(names: Sequence[str]) -> np.ndarray:
        try:
            return np.array([row_of[name] for name in names], dtype=np.int64)
        except KeyError as error:
            raise InputError(f"{path}: {split}: recipe {error} is not in the split") from None

    found: dict[str, Any] = {}
    subsets = retrieval.ten_subsets(len(ids), min(size, len(ids)), seed=seed)
    first = [_first_ranks(images[subset] @ recipes[subset].T) for subset in subsets]
    for name, members in described["strata"].items():
        inside = np.zeros(len(ids), bool)
        inside[rows(members)] = True
        found[name] = {"count": len(members)}
        for column, direction in enumerate(("image_to_recipe", "recipe_to_image")):
            hits = [of[column][inside[s]] for of, s in zip(first, subsets, strict=True)]
            met = np.concatenate(hits)
            if len(met):
                found[name][direction] = float(met.mean())
    twins = rows([name for pair in described["twins"] for name in pair]).reshape(-1, 2)
    return {"strata": found, "twins": twin_accuracy(images, recipes, twins)}


def twin_accuracy(images: np.ndarray, recipes: np.ndarray, twins: np.ndarray) -> dict[str, Any]:
    """How often a query prefers its own partner to the twin's; ties count one half. `twins` [P, 2] rows."""
    if not len(twins):
        return {"count": 0}
    own, other = twins.ravel(), twins[:, ::-1].ravel()
    mine = _dots(images[own], recipes[own])
    return {
        "count": len(twins),
        "image_to_recipe": _preference(mine - _dots(images[own], recipes[other])),
        "recipe_to_image": _preference(mine - _dots(images[other], recipes[own])),
    }


def _first_ranks(similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image's recipe, and each recipe's image, comes first among [n, n]; ties are not first."""
    own = similarities.diagonal()
    rivals = similarities.copy()
    np.fill_diagonal(rivals, -np.inf)
    return own > rivals.max(axis=1), own > rivals.max(axis=0)


def _dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", left, right, dtype=np.float64)


def _preference(margins: np.ndarray) -> float:
    return float(np.mean(np.where(np.abs(margins) < TIE, 0.5, margins > 0)))
