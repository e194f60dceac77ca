"""Every fast path against the naive definition on random input, ties and near-ties included."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from shared import metrics, ranking
from shared.errors import InputError

DTYPES = (torch.float32, torch.float64)


def naive_ranks(scores: np.ndarray, targets: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, int]:
    """By the definition: sort ascending (stable), read backwards, drop the other targets, find the best one."""
    ranks, ties = [], 0
    for row, wanted in zip(scores, targets, strict=True):
        wanted = [int(item) for item in wanted]
        if not wanted:
            ranks.append(len(row))
            continue
        order = np.argsort(row, kind="stable")[::-1].tolist()
        best = next(item for item in order if item in wanted)
        ranks.append([item for item in order if item == best or item not in wanted].index(best))
        ties += sum(row[item] == row[best] and item not in wanted for item in range(len(row)))
    return np.array(ranks), ties


def own_items(num_queries: int, per_query: int) -> tuple[list[list[int]], list[list[int]]]:
    to_items = [list(range(per_query * i, per_query * (i + 1))) for i in range(num_queries)]
    return to_items, [[j // per_query] for j in range(per_query * num_queries)]


def small_integers(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Exact scores and many ties."""
    return rng.integers(-2, 3, (rows, size)).astype(np.float32)


@pytest.fixture(params=[8, 24, 1024])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Small tiles make many blocks of small sets; tiles of full size hold them whole."""
    monkeypatch.setattr(ranking, "_TILE_CPU", request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(12))
def test_paired_ranks_with_ties(tile: int, seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    num_queries, per_query, size = (int(rng.integers(1, high)) for high in (50, 6, 30))
    queries = small_integers(rng, num_queries, size)
    items = small_integers(rng, per_query * num_queries, size)
    if seed % 3 == 0:
        items = np.repeat(queries, per_query, 0) + small_integers(rng, len(items), size)
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    to_items, to_queries = own_items(num_queries, per_query)
    (forward, ties), (backward, back_ties) = naive_ranks(scores, to_items), naive_ranks(scores.T, to_queries)

    found = metrics.paired_ranks(queries, items, per_query=per_query, dtype=dtype)
    np.testing.assert_array_equal(found.queries, forward)
    np.testing.assert_array_equal(found.items, backward)
    assert found.ties == ties + back_ties
    assert found.queries.dtype == np.int64

    for given in (scores, torch.from_numpy(scores), lambda rows, columns: scores[rows, columns]):
        again = metrics.paired_ranks_of_scores(given, num_queries, per_query=per_query)
        np.testing.assert_array_equal(again.queries, forward)
        np.testing.assert_array_equal(again.items, backward)
        assert again.ties == found.ties


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(8))
def test_ranks_of_any_targets(tile: int, seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    queries, items = small_integers(rng, 37, 11), small_integers(rng, 70, 11)
    targets = [rng.choice(70, int(rng.integers(0, 5)), replace=False) for _ in range(37)]
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    expected, ties = naive_ranks(scores, targets)
    offsets = np.cumsum([0, *map(len, targets)])
    for form in (targets, [list(map(int, rows)) for rows in targets], (offsets, np.concatenate(targets))):
        found = metrics.ranks_of_targets(queries, items, form, dtype=dtype)
        np.testing.assert_array_equal(found.ranks, expected)
        assert found.ties == ties
    mixed = metrics.ranks_of_targets(
        queries.astype(np.float64), torch.from_numpy(items), targets, dtype=dtype
    )
    np.testing.assert_array_equal(mixed.ranks, expected)
    one = rng.integers(0, 70, 37)
    found = metrics.ranks_of_targets(queries, items, one, dtype=dtype)
    np.testing.assert_array_equal(found.ranks, naive_ranks(scores, one[:, None])[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("self_score", [0.0, 1.0, -100.0])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_among_themselves(tile: int, seed: int, self_score: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    items = small_integers(rng, 61, 9)
    targets = [rng.choice(61, int(rng.integers(0, 4)), replace=False) for _ in range(61)]
    targets[5] = np.array([5])  # itself
    scores = (items @ items.T).astype(np.float64)
    np.fill_diagonal(scores, self_score)
    expected, ties = naive_ranks(scores, targets)
    found = metrics.ranks_among_themselves(items, targets, self_score=self_score, dtype=dtype)
    np.testing.assert_array_equal(found.ranks, expected)
    assert found.ties == ties
    asked = np.flatnonzero([len(rows) > 0 for rows in targets])
    part = metrics.ranks_of_targets(
        items[asked],
        items,
        [targets[row] for row in asked],
        self_items=asked,
        self_score=self_score,
        dtype=dtype,
    )
    np.testing.assert_array_equal(part.ranks, expected[asked])


@pytest.mark.parametrize("kind", ["random", "related", "near-ties", "float64"])
@pytest.mark.parametrize("size", [3, 64, 300])
def test_float32_products_give_the_ranks_of_float64(tile: int, kind: str, size: int) -> None:
    """Items that differ by less than float32 can tell: only the second look gets them right."""
    rng = np.random.default_rng(size)
    queries = rng.standard_normal((40, size)).astype(np.float32)
    noise = rng.standard_normal((120, size)).astype(np.float32)
    items = {
        "random": noise,
        "related": np.repeat(queries, 3, 0) + noise,
        "near-ties": np.repeat(queries[:1], 120, 0) * (1 + 1e-7 * noise),
        "float64": np.repeat(queries[:1], 120, 0).astype(np.float64) * (1 + 1e-12 * noise),
    }[kind]
    queries = queries.astype(items.dtype)
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    to_items, to_queries = own_items(40, 3)
    found = metrics.paired_ranks(queries, items, per_query=3)
    np.testing.assert_array_equal(found.queries, naive_ranks(scores, to_items)[0])
    np.testing.assert_array_equal(found.items, naive_ranks(scores.T, to_queries)[0])
    if kind == "near-ties":  # otherwise this test would not need the second look
        rough = (queries @ items.T).astype(np.float64)
        assert (naive_ranks(rough, to_items)[0] != found.queries).any()


def test_equal_vectors_tie_wherever_they_are(tile: int) -> None:
    """Identical captions have one score, whatever the product's blocks do to its last bits."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(200).astype(np.float32)
    items = np.repeat(vector[None], 90, 0)
    queries = rng.standard_normal((30, 200)).astype(np.float32)
    found = metrics.paired_ranks(queries, items, per_query=3)
    np.testing.assert_array_equal(
        found.queries, 89 - (3 * np.arange(30) + 2)
    )  # those at a later index come first
    assert found.ties >= 30 * 87


def test_a_collapsed_model_is_at_chance(tile: int) -> None:
    queries, items = np.ones((30, 16), np.float32) / 4, np.ones((150, 16), np.float32) / 4
    found = metrics.paired_ranks(queries, items, per_query=5)
    np.testing.assert_array_equal(found.queries, 149 - (5 * np.arange(30) + 4))
    np.testing.assert_array_equal(found.items, 29 - np.arange(150) // 5)
    assert found.ties == 30 * 145 + 150 * 29


def test_given_scores_stay_in_their_precision() -> None:
    scores = np.array([[1.0, 1.0 + 1e-15], [1.0, 2.0]])
    assert metrics.paired_ranks_of_scores(scores, 2, per_query=1).queries.tolist() == [1, 0]
    rounded = metrics.paired_ranks_of_scores(scores.astype(np.float32), 2, per_query=1)
    assert rounded.queries.tolist() == [1, 0]  # a tie with a later index
    assert rounded.ties == 2  # in the first row and in the first column
    loose = metrics.paired_ranks_of_scores(scores, 2, per_query=1, rounding=1e-14)
    assert loose.ties == 2


def test_memory_maps_and_views_are_read(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((20, 40))
    path = f"{tmp_path}/sims.npy"
    np.save(path, matrix)
    expected = metrics.paired_ranks_of_scores(matrix, 20, per_query=2)
    for given in (np.load(path, mmap_mode="r"), np.asfortranarray(matrix), matrix.T.copy().T):
        found = metrics.paired_ranks_of_scores(given, 20, per_query=2)
        np.testing.assert_array_equal(found.queries, expected.queries)
        np.testing.assert_array_equal(found.items, expected.items)


def test_settings_of_torch_are_kept() -> None:
    queries, items = torch.randn(20, 64), torch.randn(40, 64)
    expected = metrics.paired_ranks(queries, items, per_query=2)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = metrics.paired_ranks(queries, items, per_query=2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(found.queries, expected.queries)
    np.testing.assert_array_equal(found.items, expected.items)


def test_no_matrix_in_memory() -> None:
    """5,000 x 25,000 similarities are 500 MB in float32; a process of its own tells its peak."""
    code = """if True:
        import resource, torch
        from shared import metrics
        queries, items = torch.randn(5000, 8), torch.randn(25000, 8)
        metrics.paired_ranks(queries[:20], items[:100], per_query=5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        metrics.paired_ranks(queries, items, per_query=5)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100 * 1024  # KB


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_numbers_that_are_none_are_one_line(broken: float) -> None:
    queries, items = np.ones((4, 3), np.float32), np.ones((8, 3), np.float32)
    items[3, 1] = broken
    with pytest.raises(InputError, match="the embeddings of 1 of 8 items hold NaN or infinity"):
        metrics.paired_ranks(queries, items, per_query=2)
    scores = np.ones((4, 8))
    scores[2, 5] = broken
    with pytest.raises(InputError, match=r"similarities of rows .* hold NaN or infinity"):
        metrics.paired_ranks_of_scores(scores, 4, per_query=2)


def test_wrong_shapes() -> None:
    queries, items = np.ones((4, 3), np.float32), np.ones((8, 3), np.float32)
    with pytest.raises(ValueError, match="4 queries need 12 items, found 8"):
        metrics.paired_ranks(queries, items, per_query=3)
    with pytest.raises(ValueError, match="queries have 3 dimensions, items 2"):
        metrics.paired_ranks(queries, items[:, :2], per_query=2)
    with pytest.raises(ValueError, match="targets for 4 queries expected, found 3"):
        metrics.ranks_of_targets(queries, items, [[0], [1], [2]])
    with pytest.raises(ValueError, match="a target outside the 8 items"):
        metrics.ranks_of_targets(queries, items, [[0], [1], [2], [8]])
    with pytest.raises(ValueError, match="no items to rank"):
        metrics.ranks_of_targets(queries, items[:0], [[], [], [], []])
    assert metrics.ranks_of_targets(queries[:0], items, []).ranks.shape == (0,)
    with pytest.raises(ValueError, match=r"similarities \[4, 8\] expected, found \[8, 4\]"):
        metrics.paired_ranks_of_scores(np.ones((8, 4)), 4, per_query=2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_ranks_on_a_gpu(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    queries = torch.nn.functional.normalize(torch.randn(700, 64), dim=1)
    items = torch.nn.functional.normalize(
        queries.repeat_interleave(5, 0) + 0.3 * torch.randn(3500, 64), dim=1
    )
    expected = metrics.paired_ranks(queries, items, per_query=5)
    targets = [[i, (i + 1) % 3500] for i in range(3500)]
    intra = metrics.ranks_among_themselves(items, targets)
    torch.set_float32_matmul_precision("high")  # TF32 would be wrong here
    try:
        found = metrics.paired_ranks(queries.cuda(), items.cuda(), per_query=5, dtype=dtype)
        found_intra = metrics.ranks_among_themselves(items.cuda(), targets, dtype=dtype)
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(found.queries, expected.queries)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found_intra.ranks, intra.ranks)


def test_recall_summary() -> None:
    found = metrics.recall_summary(np.array([0, 0, 3, 4, 9, 10, 200]))
    assert found == pytest.approx(
        {"r1": 200 / 7, "r5": 400 / 7, "r10": 500 / 7, "medr": 5, "meanr": 226 / 7 + 1}
    )
    assert metrics.recall_summary(np.array([0, 1]), ks=(1,)) == {"r1": 50.0, "medr": 1.0, "meanr": 1.5}
    with pytest.raises(ValueError, match="no ranks"):
        metrics.recall_summary(np.array([]))


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_is_that_of_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(60) < 0.3
    labels[0] = True
    for scores in (rng.random(60), rng.integers(0, 4, 60).astype(float), np.zeros(60)):
        expected = sklearn_metrics.average_precision_score(labels, scores)
        assert metrics.average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_odd_input() -> None:
    assert np.isnan(metrics.average_precision(np.array([False, False]), np.array([0.1, 0.2])))
    with pytest.raises(ValueError, match="NaN"):
        metrics.average_precision(np.array([True]), np.array([np.nan]))
    with pytest.raises(ValueError, match="one length"):
        metrics.average_precision(np.array([True]), np.array([0.1, 0.2]))


@pytest.mark.parametrize("seed", range(5))
def test_confusion_and_iou_are_those_of_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, 5, (2, 3, 8, 8)).astype(np.uint8)
    labels[labels == 4] = 255
    found = metrics.confusion_matrix(labels, predictions, 6, ignore_index=255)
    kept = labels != 255
    expected = sklearn_metrics.confusion_matrix(labels[kept], predictions[kept], labels=range(6))
    np.testing.assert_array_equal(found, expected)
    iou = metrics.intersection_over_union(found)
    scores = sklearn_metrics.jaccard_score(
        labels[kept], predictions[kept], labels=range(5), average=None, zero_division=0
    )
    np.testing.assert_allclose(iou[:5], scores)
    assert np.isnan(iou[5])  # occurs nowhere; class 4 is predicted but never right
    assert iou[4] == 0


def test_confusion_matrix_of_odd_input() -> None:
    with pytest.raises(ValueError, match="label from 0 to 7, expected 0 to 2"):
        metrics.confusion_matrix(np.array([0, 7]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="prediction from -1 to 1"):
        metrics.confusion_matrix(np.array([0, 1]), np.array([-1, 1]), 3)
    with pytest.raises(ValueError, match="2 labels and 3 predictions"):
        metrics.confusion_matrix(np.zeros(2, int), np.zeros(3, int), 3)
    assert metrics.confusion_matrix(np.zeros(0, int), np.zeros(0, int), 2).tolist() == [[0, 0], [0, 0]]
