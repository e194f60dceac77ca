"""Rankings with synthesised images and their files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from projects.xmrs import synthesis_metrics
from projects.xmrs.retrieval import ten_subsets


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.standard_normal((count, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    recipes = unit(rng, 40)
    images, fake = (one + 0.3 * unit(rng, 40) for one in (recipes, recipes))
    return (
        fake / np.linalg.norm(fake, axis=1)[:, None],
        images / np.linalg.norm(images, axis=1)[:, None],
        recipes,
    )


def naive(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    order = np.argsort(-(queries @ items.T), axis=1)
    return np.array([list(row).index(i) + 1 for i, row in enumerate(order)])


def test_modes_are_the_right_way_round(sets: tuple[np.ndarray, ...]) -> None:
    fake, images, recipes = sets
    found = synthesis_metrics.rank_modes(fake, images, recipes)
    assert np.array_equal(found["fi2t"], naive(fake, recipes))
    assert np.array_equal(found["t2fi"], naive(recipes, fake))
    assert np.array_equal(found["fi2i"], naive(fake, images))
    assert np.array_equal(found["i2fi"], naive(images, fake))
    part = np.array([7, 3, 20])
    some = synthesis_metrics.rank_modes(fake, images, recipes, part)
    assert np.array_equal(some["i2fi"], naive(images[part], fake[part]))


def test_folds_and_their_table(sets: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    fake, images, recipes = sets
    subsets = ten_subsets(40, 10, runs=3)
    found = synthesis_metrics.folds(fake, images, recipes, subsets)
    ranks = [naive(fake[rows], recipes[rows]) for rows in subsets]
    assert found["fi2t"]["r1"] == pytest.approx(np.mean([(one == 1).mean() for one in ranks]))
    assert found["fi2t"]["medr"] == pytest.approx(np.mean([np.median(one) for one in ranks]))
    assert found["fi2t"]["dcg"] == pytest.approx(np.mean([1 / np.log2(one + 1) for one in ranks]))
    assert found["fi2t"]["folds"][1]["meanr"] == pytest.approx(ranks[1].mean())
    synthesis_metrics.write_folds(tmp_path / "rank_random_result.csv", found)
    with open(tmp_path / "rank_random_result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (3 + 1)
    assert [row["fold"] for row in rows[:4]] == ["1", "2", "3", "mean"]
    assert [row["mode"] for row in rows[::4]] == list(synthesis_metrics.MODES)
    assert float(rows[3]["R@1"]) == found["fi2t"]["r1"]
    assert float(rows[5]["mean_rank"]) == found["t2fi"]["folds"][1]["meanr"]
    text = synthesis_metrics.table(found)
    assert len(text.splitlines()) == 5
    assert f"{100 * found['fi2i']['r5']:.1f}" in text.splitlines()[3]


def test_full_ranking_files(sets: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    fake, images, recipes = sets
    ids = [f"id{i:08d}" for i in range(40)]
    ranks = synthesis_metrics.full_ranking(fake, images, recipes)
    summaries = synthesis_metrics.write_full(tmp_path, ids, ranks)
    assert summaries["fi2t"]["medr"] == np.median(ranks["fi2t"])
    best = json.loads((tmp_path / "best_ranks.json").read_text())
    for mode, of_mode in ranks.items():
        holders = [ids[i] for i in range(40) if of_mode[i] == of_mode.min()]
        assert best[mode] == {"rank": of_mode.min(), "count": len(holders), "ids": holders}
    lines = (tmp_path / "rank_full_result.csv").read_text().splitlines()
    assert lines[0] == "id,fi2t,t2fi,fi2i,i2fi"
    assert lines[8] == ",".join([ids[7], *(str(ranks[mode][7]) for mode in synthesis_metrics.MODES)])
    with np.load(tmp_path / "rank_full_result.npz") as arrays:
        assert np.array_equal(arrays["i2fi"], ranks["i2fi"])
        assert arrays["ids"].tolist() == ids


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_derangement_leaves_nothing_in_place(count: int) -> None:
    for seed in range(20):
        order = synthesis_metrics.derangement(count, seed)
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()
