"""CxC correlation tasks: reader, pairing with the split, and the sampled Spearman correlation."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from projects.vseinfty import correlation
from shared.errors import InputError

HEADER = "caption1,caption2,agg_score,sampling_method\n"


def write(folder: Path, name: str, lines: str) -> Path:
    path = folder / name
    path.write_text(lines, encoding="utf-8")
    return path


def test_names_of_the_release_are_read_as_coco_ids() -> None:
    assert correlation.id_number("COCO_val2014:sentid:190268") == 190268
    assert correlation.id_number("COCO_val2014_000000009175.jpg") == 9175
    assert correlation.id_number("391895") == 391895
    assert correlation.id_number("no number") is None


def test_reads_pairs_and_ratings(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "sts_val.csv",
        HEADER
        + "COCO_val2014:sentid:190268,COCO_val2014:sentid:315773,1.24,c2c_isim\n"
        + "COCO_val2014:sentid:98,COCO_val2014:sentid:480512,5.0,c2c_cocaption\n\n",
    )
    ratings = correlation.read_ratings(path)
    assert ratings.first.tolist() == [190268, 98]
    assert ratings.second.tolist() == [315773, 480512]
    assert ratings.scores.tolist() == [1.24, 5.0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "expected a header line"),
        ("COCO:1,COCO:2,1.5,x\nCOCO:1,COCO:2,1.5,x\n", "expected a header line"),
        (HEADER + "COCO:1,COCO:2\n", "line 2: expected `id,id,rating,method`, found 2 fields"),
        (HEADER + "COCO:1,COCO:2,3.0,x\nCOCO:1,none,3.0,x\n", "line 3: no COCO id in 'none'"),
        (HEADER + "COCO:1,COCO:2,6.5,x\n", "rating from 0 to 5, found '6.5'"),
        (HEADER + "COCO:1,COCO:2,nan,x\n", "rating from 0 to 5, found 'nan'"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, lines: str, words: str) -> None:
    path = write(tmp_path, "sts_val.csv", lines)
    with pytest.raises(InputError, match=r"sts_val\.csv") as error:
        correlation.read_ratings(path)
    assert words in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sts_test.csv: missing"):
        correlation.read_ratings(tmp_path / "sts_test.csv")


def test_one_pair_per_query_makes_every_sample_a_subset_of_the_pairs() -> None:
    """With one pair per query and agreeing orders each sample's correlation is exactly 1, reversed exactly
    -1.
    """
    human = np.linspace(0, 5, 11)
    assert correlation.sampled_spearman(human**3, human, np.arange(11), samples=20) == (1.0, 0.0)
    assert correlation.sampled_spearman(-human, human, np.arange(11), samples=20) == (-1.0, 0.0)


def test_equals_scipy_on_the_same_samples() -> None:
    """Oracle: the definition in plain loops with the same draws, scipy's correlation, ties included."""
    rng = np.random.default_rng(3)
    queries = rng.integers(0, 40, 150)
    human = np.round(rng.uniform(0, 5, 150) * 2) / 2
    model = human + rng.standard_normal(150)
    pairs_of = [np.flatnonzero(queries == query) for query in np.unique(queries)]
    draws = np.random.default_rng(7)
    values = []
    for _ in range(30):
        chosen = draws.permutation(len(pairs_of))[: len(pairs_of) // 2]
        picks = draws.integers(0, [len(pairs_of[query]) for query in chosen])
        pairs = [pairs_of[query][pick] for query, pick in zip(chosen, picks, strict=True)]
        assert len(set(queries[pairs])) == len(pairs) == len(pairs_of) // 2
        values.append(spearmanr(model[pairs], human[pairs]).statistic)
    mean, std = correlation.sampled_spearman(model, human, queries, samples=30, seed=7)
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert std == pytest.approx(np.std(values), abs=1e-12)
    assert std > 0


def test_three_tasks_use_the_right_modality(tmp_path: Path) -> None:
    """Ratings that follow one modality's similarities give 100 there; pairs outside the split are counted."""
    rng = np.random.default_rng(0)
    images, captions = (rng.standard_normal((count, 6)).astype(np.float32) for count in (12, 60))
    image_ids, caption_ids = [str(7 * i) for i in range(12)], [str(1000 + 3 * i) for i in range(60)]
    sides = {
        "image": (images, [f"COCO_val2014_{7 * i:012d}.jpg" for i in range(12)]),
        "text": (captions, [f"COCO_val2014:sentid:{1000 + 3 * i}" for i in range(60)]),
    }
    for task, (first, second) in correlation.TASKS.items():
        (left, left_names), (right, right_names) = sides[first], sides[second]
        products = left.astype(np.float64) @ right.astype(np.float64).T
        ratings = 5 * (products - products.min()) / np.ptp(products)
        lines = [
            f"{left_names[i]},{right_names[j]},{ratings[i, j]:.15f},x"
            for i in range(len(left))
            for j in rng.choice(len(right), 4, replace=False)
        ]
        lines.append(f"COCO:999999,{right_names[0]},3.0,x")
        write(tmp_path, f"{task}_test.csv", "a,b,agg_score,method\n" + "\n".join(lines) + "\n")
    ratings = {task: correlation.read_ratings(tmp_path / f"{task}_test.csv") for task in correlation.TASKS}
    how = {"image_ids": image_ids, "caption_ids": caption_ids, "samples": 50}
    found = correlation.correlations(ratings, images, captions, **how)
    for task in correlation.TASKS:
        assert found[task]["mean"] == pytest.approx(100, abs=1e-9)
        assert found[task]["missing"] == 1
    swapped = correlation.correlations(ratings, images, captions[::-1].copy(), **how)
    assert swapped["sis"]["mean"] == pytest.approx(100, abs=1e-9)
    assert abs(swapped["sts"]["mean"]) < 60
    assert abs(swapped["sits"]["mean"]) < 60


def test_a_file_of_another_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "sis_test.csv", "image1,image2,agg_score,m\nCOCO_1.jpg,COCO_2.jpg,3.0,x\n")
    ratings = {"sis": correlation.read_ratings(tmp_path / "sis_test.csv")}
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(InputError, match=r"sis_test\.csv: none of its 1 pairs"):
        correlation.correlations(ratings, rows, rows, image_ids=["5", "6", "7"], caption_ids=["8", "9", "10"])


def test_too_few_queries() -> None:
    with pytest.raises(InputError, match="at least 4 queries, found 2"):
        correlation.sampled_spearman(np.ones(4), np.ones(4), np.array([0, 0, 1, 1]))
