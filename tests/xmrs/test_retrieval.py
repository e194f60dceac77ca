"""Ranks, subsets and what is reported of them, against the plain definitions."""

import random

import numpy as np
import pytest
import torch

from projects.xmrs import bench_ranking, retrieval
from projects.xmrs.retrieval import IMAGE_TO_RECIPE, RECIPE_TO_IMAGE
from shared.errors import InputError


def embeddings(pairs: int, dim: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((pairs, dim)).astype(np.float32)
    recipes = images + np.float32(noise) * rng.standard_normal((pairs, dim)).astype(np.float32)
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, recipes))


def naive_ranks(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """From 1; of equal scores the later item comes first."""
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    found = []
    for query, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda item: (row[item], item), reverse=True)
        found.append(order.index(query) + 1)
    return np.array(found)


def test_both_directions_are_those_of_full_sorts() -> None:
    images, recipes = embeddings(90, 8)
    subsets = retrieval.ten_subsets(90, 40, seed=5, runs=3)
    found = retrieval.rank_both(images, recipes, size=40, seed=5, runs=3)
    for way, queries, items in ((IMAGE_TO_RECIPE, images, recipes), (RECIPE_TO_IMAGE, recipes, images)):
        expected = np.stack([naive_ranks(queries[subset], items[subset]) for subset in subsets])
        assert found[way]["medr_per_run"] == [float(np.median(run)) for run in expected]
        assert found[way]["medr"] == pytest.approx(np.mean([np.median(run) for run in expected]))
        for k in (1, 5, 10):
            assert found[way][f"r{k}"] == pytest.approx((expected <= k).mean())
        assert found[way]["meanr"] == pytest.approx(expected.mean())
        assert found[way]["dcg"] == pytest.approx((1 / np.log2(expected + 1)).mean())
        assert 0.2 < found[way]["r1"] < 0.95
    assert found[IMAGE_TO_RECIPE] != found[RECIPE_TO_IMAGE]


def test_one_direction_is_the_first_of_both_and_the_other_with_sides_swapped() -> None:
    images, recipes = embeddings(50, 6)
    both = retrieval.rank_both(images, recipes, size=30)
    assert retrieval.rank(images, recipes, size=30) == both[IMAGE_TO_RECIPE]
    assert retrieval.rank(recipes, images, size=30) == both[RECIPE_TO_IMAGE]


def test_of_equal_scores_the_later_item_comes_first() -> None:
    coarse = np.random.default_rng(1).integers(-1, 2, (60, 3)).astype(np.float32)
    of_images, of_recipes, ties = retrieval.ranks(coarse, coarse)
    np.testing.assert_array_equal(of_images, naive_ranks(coarse, coarse))
    np.testing.assert_array_equal(of_recipes, naive_ranks(coarse, coarse))
    assert ties > 60


def test_tensors_and_arrays_give_the_same() -> None:
    images, recipes = embeddings(50, 6)
    tensors = retrieval.rank_both(torch.from_numpy(images), torch.from_numpy(recipes), size=30)
    assert tensors == retrieval.rank_both(images, recipes, size=30)


def test_a_subset_of_all_pairs_is_a_permutation() -> None:
    images, recipes = embeddings(40, 6)
    found = retrieval.rank_both(images, recipes, size=40, runs=2)
    whole = retrieval.summary(retrieval.ranks(images, recipes)[0])
    assert found[IMAGE_TO_RECIPE]["medr_per_run"] == [whole["medr"]] * 2
    assert found[IMAGE_TO_RECIPE]["r1"] == pytest.approx(whole["r1"])


def test_subsets_are_those_of_pythons_sample_and_leave_its_stream_alone() -> None:
    random.seed(77)
    before = random.getstate()
    found = retrieval.ten_subsets(500, 100)
    assert random.getstate() == before
    random.seed(1234)
    np.testing.assert_array_equal(found, [random.sample(range(500), 100) for _ in range(10)])
    random.setstate(before)
    assert not np.array_equal(found, retrieval.ten_subsets(500, 100, seed=1))


def test_medians_may_be_half_and_their_mean_is_reported() -> None:
    found = retrieval.summary(np.array([[1, 2, 3, 4], [1, 1, 5, 12]]))
    assert found["medr_per_run"] == [2.5, 3.0]
    assert found["medr"] == 2.75
    assert (found["r1"], found["r5"], found["r10"]) == (3 / 8, 7 / 8, 7 / 8)
    assert found["meanr"] == pytest.approx(29 / 8)
    assert retrieval.sum_of_recalls(found) == pytest.approx(17 / 8)


@pytest.mark.parametrize(
    ("size", "runs", "words"),
    [(51, 10, "only 50 pairs"), (0, 10, "medr: expected"), (True, 10, "medr: expected"), (10, 0, "runs: ")],
)
def test_impossible_subsets_are_an_input_error(size: int, runs: int, words: str) -> None:
    images, recipes = embeddings(50, 4)
    with pytest.raises(InputError, match=words):
        retrieval.rank_both(images, recipes, size=size, runs=runs)


@pytest.mark.parametrize("shape", [(50, 5), (49, 4), (50,), (0, 4)])
def test_embeddings_of_another_shape_are_an_input_error(shape: tuple[int, ...]) -> None:
    images, _ = embeddings(50, 4)
    with pytest.raises(InputError, match="same shape"):
        retrieval.rank_both(images, np.zeros(shape, np.float32), size=10)


def test_embeddings_that_are_not_finite_are_an_input_error() -> None:
    images, recipes = embeddings(50, 4)
    recipes[7, 2] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        retrieval.rank_both(images, recipes, size=50)


def test_the_table_shows_percent() -> None:
    images, recipes = embeddings(40, 6)
    both = retrieval.rank_both(images, recipes, size=40, runs=1)
    last = retrieval.table({"test en 40": both}).splitlines()[-1]
    assert last.startswith("test en 40 | ")
    assert f"{100 * both[IMAGE_TO_RECIPE]['r5']:.1f}" in last.split("|")[1]
    assert f"{100 * both[RECIPE_TO_IMAGE]['r10']:.1f}" in last.split("|")[2]


@pytest.mark.parametrize("case", bench_ranking.CASES, ids=lambda case: case.name)
def test_the_bench_compares_the_same_ranks(case: object) -> None:
    outputs = {name: side() for name, side in case.make(True).items()}  # type: ignore[attr-defined]
    assert "600 of 600 ranks are equal" in case.check(outputs)  # type: ignore[attr-defined]
    outputs["ours"][0][0, :5] += 3
    with pytest.raises(AssertionError):
        case.check(outputs)  # type: ignore[attr-defined]
