"""Retrieval protocols against the plain definition: full sorts of float64 similarities."""

import numpy as np
import pytest
import torch

from projects.vseinfty import metrics


def plain_ranks(sims: np.ndarray, per_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions in rows and columns sorted in descending order; equal scores: the later index first."""

    def order(row: np.ndarray) -> list[int]:
        return np.lexsort((np.arange(len(row)), row))[::-1].tolist()

    image_ranks = []
    for i, row in enumerate(sims):
        places = order(row)
        image_ranks.append(min(places.index(per_image * i + k) for k in range(per_image)))
    caption_ranks = [order(column).index(c // per_image) for c, column in enumerate(sims.T)]
    return np.array(image_ranks), np.array(caption_ranks)


def plain_metrics(sims: np.ndarray, per_image: int) -> dict[str, float]:
    """The definitions of the paper's tables."""
    found = {}
    for suffix, ranks in zip(("", "i"), plain_ranks(sims, per_image), strict=True):
        for k in (1, 5, 10):
            found[f"r{k}{suffix}"] = 100 * float(np.mean(ranks < k))
        found[f"medr{suffix}"] = float(np.floor(np.median(ranks)) + 1)
        found[f"meanr{suffix}"] = float(np.mean(ranks) + 1)
    found["ar"] = (found["r1"] + found["r5"] + found["r10"]) / 3
    found["ari"] = (found["r1i"] + found["r5i"] + found["r10i"]) / 3
    found["rsum"] = 3 * (found["ar"] + found["ari"])
    return found


def assert_same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert set(expected) <= set(found)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def random_set(seed: int, num_images: int, per_image: int, dim: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((num_images, dim)).astype(np.float32)
    noise = rng.standard_normal((num_images * per_image, dim)).astype(np.float32)
    return images, np.repeat(images, per_image, axis=0) + 0.8 * noise


def coarse_set(seed: int, num_images: int, per_image: int) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: many exactly equal scores."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(-1, 2, (count, 3)).astype(np.float32) for count in (num_images, num_images * per_image)
    )


@pytest.mark.parametrize("per_image", [1, 5])
@pytest.mark.parametrize("make", [random_set, coarse_set])
@pytest.mark.parametrize("seed", range(3))
def test_from_embeddings_and_from_similarities(make, per_image: int, seed: int) -> None:
    images, captions = make(seed, 17, per_image)
    sims = images.astype(np.float64) @ captions.astype(np.float64).T
    expected = plain_metrics(sims, per_image)
    assert_same(metrics.retrieval(images, captions, captions_per_image=per_image), expected)
    assert_same(
        metrics.retrieval(torch.from_numpy(images), torch.from_numpy(captions), captions_per_image=per_image),
        expected,
    )
    assert_same(metrics.retrieval_from_similarities(sims, 17, captions_per_image=per_image), expected)


def test_similarities_are_asked_for_in_tiles() -> None:
    """A function that yields similarities never has to yield them all."""
    images, captions = random_set(5, 1200, 5)
    sims = images.astype(np.float64) @ captions.astype(np.float64).T
    asked = []

    def block(rows: slice, columns: slice) -> np.ndarray:
        asked.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return sims[rows, columns]

    found = metrics.retrieval_from_similarities(block, 1200)
    assert found == metrics.retrieval_from_similarities(sims, 1200)
    assert max(asked) < sims.size / 2


def test_ties_are_counted() -> None:
    """Two images with the same embedding: both captions of either meet one equal competitor."""
    images = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    found = metrics.retrieval(images, images, captions_per_image=1)
    assert found["ties"] > 0
    assert (
        metrics.retrieval_from_similarities(images @ images.T, 3, captions_per_image=1)["ties"]
        == found["ties"]
    )
    distinct = np.eye(3, dtype=np.float32) * np.array([[1], [2], [3]], np.float32)
    distinct += np.arange(9, dtype=np.float32).reshape(3, 3) / 100
    assert metrics.retrieval(distinct, distinct, captions_per_image=1)["ties"] == 0


def test_nearly_equal_scores_are_told_apart_as_in_float64() -> None:
    """Scores that differ by less than float32 can tell at their size."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 64)).astype(np.float32)
    captions = np.repeat(images, 5, axis=0)
    captions[:, 0] += np.float32(1e-6) * rng.integers(-3, 4, 200).astype(np.float32)
    twins = np.tile(captions[:5], (40, 1))  # every image has almost the same captions
    twins += np.float32(1e-7) * rng.standard_normal(twins.shape).astype(np.float32)
    for texts in (captions, twins):
        sims = images.astype(np.float64) @ texts.astype(np.float64).T
        assert_same(metrics.retrieval(images, texts), plain_metrics(sims, 5))


@pytest.mark.parametrize("from_similarities", [False, True])
def test_folds_are_consecutive_fifths(from_similarities: bool) -> None:
    """23 images: five folds of 4, the last 3 images left out; the mean is over the folds."""
    images, captions = random_set(1, 23, 5)
    sims = images.astype(np.float64) @ captions.astype(np.float64).T
    expected = [plain_metrics(sims[4 * i : 4 * i + 4, 20 * i : 20 * i + 20], 5) for i in range(5)]
    if from_similarities:
        found = metrics.retrieval_folds_from_similarities(sims, 23)
    else:
        found = metrics.retrieval_folds(images, captions)
    for fold, values in zip(found["folds"], expected, strict=True):
        assert_same(fold, values)
    assert_same(found["mean"], {name: float(np.mean([e[name] for e in expected])) for name in expected[0]})


def test_nearest() -> None:
    images, captions = random_set(2, 9, 5)
    sims = images.astype(np.float64) @ captions.astype(np.float64).T
    assert metrics.nearest(images, captions).tolist() == sims.argmax(axis=1).tolist()
    assert metrics.nearest(captions, images).tolist() == sims.argmax(axis=0).tolist()


@pytest.mark.parametrize(("num_images", "num_captions"), [(3, 14), (0, 0), (3, 16)])
def test_wrong_counts(num_images: int, num_captions: int) -> None:
    with pytest.raises(ValueError, match=f"{num_images} images need"):
        metrics.retrieval(np.ones((num_images, 2), np.float32), np.ones((num_captions, 2), np.float32))


def test_table_has_a_row_per_set() -> None:
    images, captions = random_set(1, 20, 5)
    text = metrics.table(
        {
            "5K": metrics.retrieval(images, captions),
            "fold mean": metrics.retrieval_folds(images, captions)["mean"],
        }
    )
    rows = text.splitlines()
    assert len(rows) == 4
    assert rows[2].startswith("5K ")
    assert rows[2].endswith(f"{metrics.retrieval(images, captions)['rsum']:.1f}")


def test_running_mean() -> None:
    meter = metrics.RunningMean()
    assert meter.mean == 0
    meter.update(2.0, 3)
    meter.update(5.0)
    assert (meter.last, meter.total, meter.count) == (5.0, 11.0, 4)
    assert meter.mean == pytest.approx(11 / 4.0001)
