"""Splits: pairs of the correspondence graph with their matches, labels, and what is left out."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from projects.babel import augmentation, data, pair_sampling
from projects.babel.data import DataSet, Split
from projects.babel.pictures import PictureStore
from shared.data import BatchPlan, item_generator, load
from shared.errors import InputError
from shared.files import read_json, write_json
from tests.babel.tiny_wikiscenes import CONCEPTS, make_set

HOW: dict[str, Any] = {"concepts": CONCEPTS, "size": 32, "graph_threshold": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


def opened(root: Path, **settings: Any) -> Split:
    """The training split."""
    given = {"correspondence": root / "correspondence.json", **HOW, **settings}
    return data.open_split(name="train", file=root / "train.txt", root=root, **given)


def plan(*indices: int, epoch: int = 0) -> BatchPlan:
    return BatchPlan(epoch, 0, np.array(indices))


def test_a_batch_is_the_augmented_pairs_and_their_common_points(root: Path) -> None:
    """Beside the plain way: every keypoint of the JSON file by its name, pair by pair."""
    split = opened(root, seed=3)
    batch = split.fetch_train(plan(0, 4, 7, 9, epoch=2))
    keypoints = read_json(root / "correspondence.json")
    rows, start = batch.indices.tolist(), 0
    for p in range(4):
        first, second = rows[p], rows[p + 4]
        rng = item_generator(3, 2, first)
        assert split.draw_partner(rng, first) == second
        found, draws = [], []
        for place, row in ((p, first), (p + 4, second)):
            pixels = np.asarray(Image.open(root / split.rows[row].path).convert("RGB"))
            draw = augmentation.Augmentation(32).draw(rng, pixels.shape[1], pixels.shape[0])
            np.testing.assert_array_equal(batch.images[place], augmentation.apply(pixels, draw, 32))
            named = keypoints.get(split.rows[row].path.removeprefix("WikiScenes/cathedrals/"), {})
            top, left, height, width = draw.box
            places = {}
            for name, (x, y) in named.items():
                row_, col = (y * pixels.shape[0] - top) / height, (x * pixels.shape[1] - left) / width
                if 0 <= row_ <= 1 and 0 <= col <= 1:
                    places[name] = (row_, 1 - col if draw.mirrored else col)
            found.append(places)
            draws.append(draw)
        common = [name for name in found[0] if name in found[1]]
        expected = sorted((*found[0][name], *found[1][name]) for name in common)
        count = int(batch.matches.counts[p])
        assert count == len(common)
        assert (batch.matches.pair[start : start + count] == p).all()
        actual = np.array(sorted(batch.matches.rowcol[start : start + count].tolist())).reshape(-1, 4)
        np.testing.assert_allclose(actual, np.reshape(expected, (-1, 4)), atol=1e-5)
        start += count
    assert start == len(batch.matches.pair) > 10


def test_partners_are_neighbours_or_else_any_image() -> None:
    rng = np.random.default_rng(0)
    drawn = [pair_sampling.draw_partner(rng, 3, np.array([1, 3, 8]), 10) for _ in range(3000)]
    share = np.bincount(drawn, minlength=10) / 3000
    np.testing.assert_allclose(share[[1, 8]], 1 / 3 + 1 / 30, atol=0.03)  # drawing itself means: any image
    np.testing.assert_allclose(share[[0, 2, 3, 4, 5, 6, 7, 9]], 1 / 30, atol=0.015)
    alone = [pair_sampling.draw_partner(rng, 3, np.zeros(0, np.int64), 10) for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(alone, minlength=10) / 3000, 0.1, atol=0.03)


def test_pairs_share_a_landmark_and_points(root: Path) -> None:
    split = opened(root)
    batches = [split.fetch_train(plan(*range(len(split)), epoch=epoch)) for epoch in range(3)]
    counts = torch.cat([batch.matches.counts for batch in batches])
    assert (counts >= 5).float().mean() > 0.4
    again = opened(root).fetch_train(plan(*range(len(split)), epoch=1))
    assert torch.equal(again.images, batches[1].images)
    assert not torch.equal(again.indices, batches[2].indices), "another epoch draws others"


def test_a_photo_of_no_reconstruction_has_no_matches(root: Path) -> None:
    split = opened(root)
    lonely = [i for i, row in enumerate(split.rows) if "Façade 2" in row.path]
    assert len(lonely) == 3
    batch = split.fetch_train(plan(*lonely))
    assert batch.matches.counts.tolist() == [0, 0, 0]
    assert batch.matches.rowcol.shape == (0, 4)


def test_shuffled_matches_are_the_same_pairs_with_permuted_points(root: Path) -> None:
    indices = plan(*range(len(opened(root))))
    honest = opened(root).fetch_train(indices)
    shuffled = opened(root, shuffle_matches=True).fetch_train(indices)
    assert torch.equal(honest.images, shuffled.images)
    assert torch.equal(honest.matches.rowcol[:, :2], shuffled.matches.rowcol[:, :2])
    assert torch.equal(honest.matches.counts, shuffled.matches.counts)
    moved = (honest.matches.rowcol[:, 2:] != shuffled.matches.rowcol[:, 2:]).any(1).float().mean()
    assert moved > 0.8
    start = 0
    for count in honest.matches.counts.tolist():
        one, other = (b.matches.rowcol[start : start + count, 2:] for b in (honest, shuffled))
        assert sorted(one.tolist()) == sorted(other.tolist())
        start += count


def test_first_labels_and_all_labels(root: Path) -> None:
    split = opened(root)
    batch, multi = split.fetch_train(plan(1)), opened(root, multi_label=True).fetch_train(plan(1))
    assert split.rows[1].labels == ("window", "facade")
    assert batch.labels[0].tolist() == [0, 1, 0]
    assert multi.labels[0].tolist() == [1, 1, 0]
    assert batch.first[0] == multi.first[0] == 1
    assert split.labels[1].tolist() == [1, 1, 0]


def test_labels_can_be_withheld(root: Path) -> None:
    split = opened(root, labelled=0.4)
    batch = split.fetch_train(plan(*range(len(split))))
    used = batch.labels[: len(split)].sum(1) > 0
    assert used.sum() == 6
    assert torch.equal(batch.first[: len(split)] >= 0, used)
    full = opened(root).fetch_train(plan(*range(len(split))))
    assert torch.equal(full.images, batch.images)
    assert torch.equal(full.labels[: len(split)][used], batch.labels[: len(split)][used])
    other = opened(root, labelled=0.4, seed=1).fetch_train(plan(*range(len(split))))
    assert not torch.equal(other.labels[: len(split)].sum(1) > 0, used)


def test_validation_sees_whole_images_once(root: Path) -> None:
    split = opened(root)
    batch = split.fetch_val(plan(3, 8))
    for image, row in zip(batch.images, (3, 8), strict=True):
        np.testing.assert_array_equal(image, augmentation.whole(split.picture(row), 32))
    assert batch.first.tolist() == split.first[[3, 8]].tolist()
    drawn = split.fetch_val(plan(3, 8), random_crops=True)
    assert not torch.equal(drawn.images, batch.images)
    assert torch.equal(drawn.images, split.fetch_val(plan(3, 8), random_crops=True).images)
    assert not torch.equal(drawn.images, split.fetch_val(plan(3, 8, epoch=1), random_crops=True).images)


def test_data_workers_give_the_same(root: Path) -> None:
    split = opened(root)
    plans = [plan(0, 5), plan(2, 3)]
    inline, forked = (list(load(split.fetch_train, plans, workers=workers)) for workers in (0, 1))
    for own, theirs in zip(inline, forked, strict=True):
        assert torch.equal(own.images, theirs.images)
        assert torch.equal(own.matches.rowcol, theirs.matches.rowcol)


def test_small_pictures_are_read_once(root: Path) -> None:
    path = root / opened(root).rows[0].path
    store = PictureStore([path, path], limit=1 << 20)
    first = store.read(0)
    assert store.read(0) is first
    assert store.read(1) is not first
    nothing = PictureStore([path], limit=first.nbytes - 1)
    assert nothing.read(0) is not nothing.read(0)


def test_splits_of_a_data_set(root: Path) -> None:
    files: dict[str, Any] = {name: str(root / f"{name}.txt") for name in ("train", "val", "val_easy")}
    dataset = DataSet("tiny", str(root), str(root / "correspondence.json"), **files, **HOW, labelled=0.5)
    dataset.prepare()
    assert len(dataset.open("train")) == 15
    val = dataset.open("val")
    assert (len(val), len(dataset.open("val_easy"))) == (12, 3)
    assert (val.targets.sum(1) == 1).all(), "labels of validation are never withheld"
    with pytest.raises(InputError, match="split: expected one of train, val_easy, val, found 'dev'"):
        dataset.open("dev")


def test_missing_pictures_are_an_error_or_counted(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    split = opened(root)
    for row in split.rows[2:4]:
        (tmp_path / "set" / row.path).unlink()
    with pytest.raises(
        InputError, match=r"train.txt: 2 of its 15 images are not in .*skip_missing"
    ) as refusal:
        opened(tmp_path / "set")
    assert split.rows[2].path in str(refusal.value)
    rest = opened(tmp_path / "set", skip_missing=True)
    assert len(rest) == 13
    assert rest.missing == tuple(row.path for row in split.rows[2:4])
    shutil.rmtree(tmp_path / "set/WikiScenes")
    with pytest.raises(InputError, match="15 of its 15"):
        opened(tmp_path / "set", skip_missing=True)


def test_keypoints_outside_their_image_are_counted(root: Path, tmp_path: Path) -> None:
    keypoints = read_json(root / "correspondence.json")
    name = next(iter(keypoints))
    keypoints[name] |= {"x1": [1.5, 0.5], "x2": [0.5, -0.1]}
    write_json(tmp_path / "correspondence.json", keypoints)
    split = opened(root, correspondence=tmp_path / "correspondence.json")
    assert split.num_outside == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"labelled": 0.0}, "data.labelled"),
        ({"graph_threshold": 0}, "data.graph_threshold"),
        ({"size": 4}, "data.size"),
        ({"concepts": ("facade", "window")}, "unknown concept 'tower'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], words: str, root: Path) -> None:
    with pytest.raises(InputError, match=words):
        opened(root, **settings)
