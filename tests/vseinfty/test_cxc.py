"""CxC retrieval against the plain definition, and its annotation files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from projects.vseinfty import cxc
from shared.errors import InputError

NUM_IMAGES = 12


def plain_recalls(
    sims: np.ndarray, positives: list[list[int]], *, skip_without: bool
) -> tuple[list[float], np.ndarray]:
    """R@1, 5, 10 by sorting every row; equal scores: the later index first."""
    ranks = []
    for row, targets in zip(sims, positives, strict=True):
        order = np.lexsort((np.arange(len(row)), row))[::-1].tolist()
        if targets or not skip_without:
            ranks.append(min([order.index(target) for target in targets], default=10**9))
    return [100 * float(np.mean(np.array(ranks) < k)) for k in (1, 5, 10)], np.array(ranks)


def make_annotations(folder: Path, seed: int) -> dict[str, Any]:
    """Random annotation files with queries without positives, unknown ids and ratings on the thresholds."""
    rng = np.random.default_rng(seed)
    images = [str(500 + 7 * i) for i in range(NUM_IMAGES)]
    captions = [str(9000 + 3 * i) for i in range(5 * NUM_IMAGES)]

    def listed(ids: list[str], count: int, known: float = 0.9) -> list[list[Any]]:
        chosen = rng.choice(ids, min(count, len(ids)), replace=False)
        ratings = rng.choice([1.0, 2.5, 2.49, 3.0, 2.99, 4.2], len(chosen))
        pairs = [[int(name), float(rating)] for name, rating in zip(chosen, ratings, strict=True)]
        return pairs if rng.random() < known else [[999_999, 5.0]]

    content = {
        "it": {
            "t2i": {name: listed(images, int(rng.integers(0, 3))) for name in captions},
            "i2t": {name: listed(captions, int(rng.integers(1, 8))) for name in images},
        },
        "t2t": {name: listed(captions, int(rng.integers(0, 4))) for name in captions},
        "i2i": {name: listed(images, int(rng.integers(0, 4))) for name in images},
    }
    folder.mkdir(exist_ok=True)
    for part, value in content.items():
        (folder / f"cxc_{part}.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "testall_ids.txt").write_text("".join(f"{name}\n" * 5 for name in images), encoding="utf-8")
    (folder / "testall_capids.txt").write_text("".join(f"{name}\n" for name in captions), encoding="utf-8")
    return {**content, "images": images, "captions": captions}


def plain_positives(listed: list[list[Any]], ids: list[str], minimum: float = -1.0) -> list[int]:
    return [ids.index(str(name)) for name, rating in listed if str(name) in ids and rating >= minimum]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_all_directions_equal_the_plain_definition(tmp_path: Path, seed: int, scale: float) -> None:
    """Oracle; coarse integer embeddings make exact ties, and scores below 0 that the zero diagonal beats."""
    content = make_annotations(tmp_path, seed)
    rng = np.random.default_rng(seed)
    images = (scale * rng.integers(-2, 3, (NUM_IMAGES, 4))).astype(np.float32)
    captions = (scale * rng.integers(-2, 3, (5 * NUM_IMAGES, 4))).astype(np.float32)
    ids, caption_ids = content["images"], content["captions"]
    siblings = [
        [5 * (row // 5) + k for k in range(5) if 5 * (row // 5) + k != row] for row in range(len(captions))
    ]
    left, right = images.astype(np.float64), captions.astype(np.float64)
    text, image = right @ right.T, left @ left.T
    np.fill_diagonal(text, 0)
    np.fill_diagonal(image, 0)
    expected = {
        "t2i": plain_recalls(
            right @ left.T,
            [plain_positives(content["it"]["t2i"][q], ids) for q in caption_ids],
            skip_without=False,
        ),
        "i2t": plain_recalls(
            left @ right.T,
            [plain_positives(content["it"]["i2t"][q], caption_ids) for q in ids],
            skip_without=False,
        ),
        "t2t": plain_recalls(
            text,
            [
                plain_positives(content["t2t"][q], caption_ids, 3.0) + siblings[row]
                for row, q in enumerate(caption_ids)
            ],
            skip_without=True,
        ),
        "i2i": plain_recalls(
            image, [plain_positives(content["i2i"][q], ids, 2.5) for q in ids], skip_without=True
        ),
    }
    annotations = cxc.read(tmp_path)
    found = cxc.retrieval(images, captions, annotations)
    for direction, (recalls, ranks) in expected.items():
        assert [found[direction][f"r{k}"] for k in (1, 5, 10)] == pytest.approx(recalls, abs=1e-9), direction
        assert found[direction]["queries"] == len(ranks)
    assert found["i2i"]["without_positives"] > 0
    assert found["t2i"]["without_positives"] > 0


def test_an_item_scores_zero_with_itself_and_stays_in_the_list() -> None:
    """Its only positive scores below 0, so the query itself comes first; without the rule: rank 0."""
    items = np.array([[1.0, 0.0], [-0.5, 0.1], [-0.6, 0.1]], np.float32)
    assert cxc.best_ranks(
        items, items, [np.array([1]), np.array([2]), np.array([1])], intra=True
    ).tolist() == [1, 0, 0]


def test_the_other_captions_of_an_image_are_text_positives() -> None:
    captions = [str(i) for i in range(10)]
    at = {name: row for row, name in enumerate(captions)}
    listed = {name: [] for name in captions} | {"0": [[7, 3.0], [8, 2.99], ["77", 5.0]]}
    found = cxc.text_positives(listed, captions, at)
    assert found[0].tolist() == [1, 2, 3, 4, 7]
    assert found[6].tolist() == [5, 7, 8, 9]


def edit(folder: Path, name: str, change: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))), encoding="utf-8")


def without(table: dict, name: str) -> dict:
    return {key: value for key, value in table.items() if key != name}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("cxc_it.json", lambda table: without(table, "i2t"), "found no i2t"),
        ("cxc_it.json", lambda table: [1], "expected an object"),
        ("cxc_i2i.json", lambda table: without(table, "507"), "query id 507 is missing"),
        ("cxc_t2t.json", lambda table: {**table, "9003": [[1]]}, r"9003: expected a list of \[id, rating\]"),
        ("cxc_t2t.json", lambda table: {**table, "9003": [[9000, "good"]]}, r"9003: expected a list of"),
        ("cxc_t2t.json", lambda table: {**table, "9003": 5}, r"9003: expected a list of"),
    ],
)
def test_bad_annotations_name_file_and_query(tmp_path: Path, name: str, change: Any, words: str) -> None:
    make_annotations(tmp_path, 0)
    edit(tmp_path, name, change)
    with pytest.raises(InputError, match=words) as error:
        cxc.read(tmp_path)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("testall_ids.txt", ["500"] * 59, "59 lines, but testall_capids.txt has 60"),
        ("testall_ids.txt", ["500"] * 4 + ["507"] * 56, "each image id on 5 consecutive lines"),
        ("testall_ids.txt", ["500"] * 60, "id 500 occurs for more than one item"),
        ("testall_capids.txt", ["9000"] * 60, "id 9000 occurs for more than one item"),
        ("testall_capids.txt", [""] * 60, "found a blank line"),
        ("testall_capids.txt", [], "found no line"),
    ],
)
def test_bad_id_files(tmp_path: Path, name: str, lines: list[str], words: str) -> None:
    make_annotations(tmp_path, 0)
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with pytest.raises(InputError, match=words) as error:
        cxc.read(tmp_path)
    assert name in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    make_annotations(tmp_path, 0)
    (tmp_path / "cxc_i2i.json").unlink()
    with pytest.raises(InputError, match=r"cxc_i2i\.json"):
        cxc.read(tmp_path)


def test_annotations_of_another_split(tmp_path: Path) -> None:
    make_annotations(tmp_path, 0)
    with pytest.raises(
        InputError, match="annotates 12 images and 60 captions, the evaluated split has 3 and 15"
    ):
        cxc.retrieval(np.eye(3, dtype=np.float32), np.ones((15, 3), np.float32), cxc.read(tmp_path))
