"""Golden calls of retrieval: the ten random subsets, ranks in them, and the rankings of the GAN's test."""

from collections.abc import Callable

import numpy as np

from projects.xmrs import retrieval
from projects.xmrs.retrieval import IMAGE_TO_RECIPE, RECIPE_TO_IMAGE
from tests.goldens.case import Case

DIRECTIONS = {"i2t": IMAGE_TO_RECIPE, "t2i": RECIPE_TO_IMAGE}


def embeddings(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Images and recipes [N, D] of the case: l2-normalised rows, each recipe near its image."""
    shape = (case.data["pairs"], case.data["dim"])
    images = case.input(f"{case.data['inputs']}.img", shape)
    recipes = images + np.float32(case.data["noise"]) * case.input(f"{case.data['inputs']}.rec", shape)
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, recipes))
    return first, second


def retrieval_rank(case: Case) -> None:
    """Subsets, every rank of both directions, medians per run and recalls."""
    expected, options = case.npz(), {"seed": case.data["python_seed"], "runs": case.data["runs"]}
    images, recipes = embeddings(case)
    subsets = retrieval.ten_subsets(len(images), case.data["medr"], **options)
    np.testing.assert_array_equal(subsets, expected["subset_ids"])
    found = [retrieval.ranks(images, recipes, subset) for subset in subsets]
    both = retrieval.rank_both(images, recipes, size=case.data["medr"], **options)
    for column, (name, way) in enumerate((("image", IMAGE_TO_RECIPE), ("recipe", RECIPE_TO_IMAGE))):
        ranks_agree(case, np.stack([one[column] for one in found]), expected[f"{name}_ranks"])
        medians = both[way]["medr_per_run"]
        np.testing.assert_allclose(medians, expected[f"{name}_medr_per_run"], atol=case.data["median_atol"])
        case.close([both[way][key] for key in retrieval.RECALLS], expected[f"{name}_recall"], what=way)


def rank_gan(case: Case) -> None:
    """The GAN's validation (ten subsets), its full ranking, and its test's splits."""
    expected = case.npz()
    images, recipes = embeddings(case)
    ten = retrieval.rank(images, recipes, size=case.data["medr"], seed=case.data["python_seed"])
    case.close([ten[key] for key in ("medr", *retrieval.RECALLS)], expected["rank_i2t"], what="rank")
    whole = retrieval.ranks(images, recipes)
    for column, short in enumerate(DIRECTIONS):
        ranks_agree(case, whole[column], expected[f"rank_only_ranks_{short}"])
        found = retrieval.summary(whole[column])
        case.close([found[key] for key in ("medr", *retrieval.RECALLS)], expected[f"rank_only_{short}"][:4])
        case.close(found["dcg"], expected[f"rank_only_{short}"][4], atol=case.data["dcg_atol"], what="DCG")
    splits = retrieval.ten_subsets(len(images), case.data["split_size"], seed=case.data["python_seed"])
    np.testing.assert_array_equal(splits, expected["splits"])
    for short, way in DIRECTIONS.items():
        found = retrieval.rank_subsets(images, recipes, splits)[way]
        numbers = [found[key] for key in ("medr", *retrieval.RECALLS, "meanr")]
        case.close(numbers, expected[f"rank_3_{short}"][:5], what=way)
        case.close(found["dcg"], expected[f"rank_3_{short}"][5], atol=case.data["dcg_atol"], what="DCG")


def ranks_agree(case: Case, found: np.ndarray, expected: np.ndarray) -> None:
    """At most the case's share of the ranks differs, and by no more than one place."""
    difference = np.abs(found.astype(np.int64) - expected.astype(np.int64))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= case.data["differing"] * difference.size


CALLS: dict[str, Callable[[Case], None]] = {"retrieval_rank": retrieval_rank, "rank_gan": rank_gan}
