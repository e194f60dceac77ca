"""Matching against a restatement point by point, and against features that must and must not match."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from projects.babel import matching, views
from projects.babel.correspondence import Correspondence
from projects.babel.correspondence_json import write_images
from projects.babel.graph import image_graph
from projects.babel.outputs import Output
from shared import runtime
from shared.errors import InputError

SIDE = 24


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Correspondence, list[int | None]]:
    """Six images: 0-3 share 40 points, 4 shares too few, 5 is unknown to the file."""
    rng = np.random.default_rng(0)
    images = []
    for i in range(4):
        images.append(
            (f"0/pictures/{i} a.jpg", {str(p): tuple(rng.uniform(0.05, 0.95, 2)) for p in range(40)})
        )
    images.append(("0/pictures/4 a.jpg", {str(p): (0.5, 0.5) for p in range(35, 45)}))
    path = tmp_path_factory.mktemp("scene") / "correspondence.json"
    write_images(path, images)
    correspondence = Correspondence.open(path, silent=True)
    return correspondence, correspondence.indices_of([f"0/pictures/{i} a.jpg" for i in range(6)])


class Painted(nn.Module):
    """A net whose features at layer "x" are the picture itself, and at "flat" are all equal."""

    def forward(self, images: Tensor, layers: tuple[str, ...] = ()) -> Output:
        maps = {"x": images, "flat": torch.ones_like(images[:, :, ::4, ::4])}
        return Output(torch.zeros(len(images), 2), features={name: maps[name] for name in layers})


def pairs_of(scene: tuple[Correspondence, list[int | None]], **options: int) -> matching.Pairs:
    correspondence, images = scene
    return matching.choose_pairs(correspondence, image_graph(correspondence, images, 10), images, **options)


def test_pairs_are_neighbours_with_common_points(scene: tuple[Correspondence, list[int | None]]) -> None:
    pairs = pairs_of(scene, points_per_pair=16)
    assert sorted(tuple(sorted(pair)) for pair in zip(pairs.first, pairs.second, strict=True)) == [
        (i, j) for i in range(4) for j in range(i + 1, 4)
    ]
    assert (pairs.first > pairs.second).any(), "both directions occur"
    assert (pairs.first < pairs.second).any(), "both directions occur"
    assert np.diff(pairs.offsets).tolist() == [16] * 6
    correspondence, images = scene
    for p in range(len(pairs)):
        part = slice(pairs.offsets[p], pairs.offsets[p + 1])
        for ends, columns in ((pairs.first, slice(0, 2)), (pairs.second, slice(2, 4))):
            points, rowcol = correspondence.keypoints(images[ends[p]])
            where = {int(point): place.tolist() for point, place in zip(points, rowcol, strict=True)}
            assert [where[int(k)] for k in pairs.points[part]] == pairs.rowcol[part, columns].tolist()
    again, other = pairs_of(scene, points_per_pair=16), pairs_of(scene, points_per_pair=16, seed=1)
    assert again.rowcol.tolist() == pairs.rowcol.tolist() != other.rowcol.tolist()
    assert len(pairs_of(scene, max_pairs=2)) == 2


def test_no_neighbours_is_an_error(scene: tuple[Correspondence, list[int | None]]) -> None:
    correspondence, images = scene
    graph = image_graph(correspondence, images, 41)
    with pytest.raises(InputError, match="no two of the 6 images share enough points"):
        matching.choose_pairs(correspondence, graph, images)


@pytest.mark.parametrize("size", [SIDE, None])
def test_features_are_those_of_each_image_alone(
    scene: tuple[Correspondence, list[int | None]], size: int | None
) -> None:
    pairs = pairs_of(scene, points_per_pair=8)
    pictures = np.random.default_rng(1).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    with runtime.start(device="cpu") as rt:
        found = matching.encode(
            Painted(),  # type: ignore[arg-type]
            pairs,
            lambda row: pictures[row],
            layers=("x", "flat"),
            size=size,
            batch_size=3,
            runtime=rt,
        )["x"]
    for p in range(len(pairs)):
        part = slice(pairs.offsets[p], pairs.offsets[p + 1])
        for end, rows, columns in ((pairs.first, found.first, [1, 0]), (pairs.second, found.second, [3, 2])):
            image = views.normalised(pictures[end[p]]).transpose(2, 0, 1)
            grid = torch.from_numpy(pairs.rowcol[part][:, columns])[None, None] * 2 - 1
            naive = nn.functional.grid_sample(
                torch.from_numpy(image.copy())[None], grid, align_corners=True, padding_mode="zeros"
            )[0, :, 0].T
            naive = naive / (naive.norm(dim=1, keepdim=True) + 1e-6)
            np.testing.assert_allclose(rows[part], naive.numpy(), atol=1e-5)


def test_scores_agree_with_a_loop() -> None:
    rng = np.random.default_rng(2)
    counts = [7, 0, 12, 1, 20]
    total = sum(counts)
    pairs = matching.Pairs(
        np.array([0, 1, 2, 0, 3]),
        np.array([1, 2, 0, 3, 1]),  # images are first ones and second ones
        np.concatenate([[0], np.cumsum(counts)]),
        rng.integers(0, 25, total),  # some points are in several pairs
        rng.random((total, 4), np.float32),
    )
    second = rng.normal(size=(total, 6)).astype(np.float32)
    first = second + 0.8 * rng.normal(size=second.shape).astype(np.float32)
    features = matching.Features(*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)))
    found = matching.scores(features, pairs, candidates=total, within=0.3)

    def pair_of(t: int) -> int:
        return int(np.searchsorted(pairs.offsets, t, side="right")) - 1

    hits = close = 0
    for q in range(total):
        p = pair_of(q)
        others = [c for c in range(total) if pairs.second[pair_of(c)] != pairs.first[p]]
        best = max(others, key=lambda c: float(features.first[q] @ features.second[c]))
        hits += int(pairs.points[best] == pairs.points[q])
        own = range(int(pairs.offsets[p]), int(pairs.offsets[p + 1]))
        near = max(own, key=lambda c: float(features.first[q] @ features.second[c]))
        close += int(np.linalg.norm(pairs.rowcol[near, 2:] - pairs.rowcol[q, 2:]) <= 0.3)
    assert found["r1"] == pytest.approx(100 * hits / total)
    assert found["pck"] == pytest.approx(100 * close / total)
    assert 0 < hits < total
    assert 0 < close < total
    assert (found["points"], found["pairs"], found["candidates"]) == (total, 5, total)


def test_groups_and_chance() -> None:
    """Equal features: the right ones always win; features without meaning: chance."""
    rng = np.random.default_rng(3)
    total = 4096
    pairs = matching.Pairs(
        np.arange(64),
        np.arange(64) + 100,
        np.arange(0, total + 1, 64),
        np.arange(total),
        rng.random((total, 4)),
    )
    rows = rng.normal(size=(2, total, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    perfect = matching.scores(matching.Features(rows[0], rows[0]), pairs, candidates=32)
    assert perfect["r1"] == perfect["pck"] == 100
    chance = matching.scores(matching.Features(rows[0], rows[1]), pairs, candidates=32)
    assert chance["r1_chance"] == pytest.approx(100 / 32)
    assert chance["r1"] == pytest.approx(chance["r1_chance"], abs=1.2)  # 4 standard errors
    assert chance["pck"] == pytest.approx(chance["pck_chance"], abs=1.5)


def test_mutual_matches_agree_with_a_loop() -> None:
    rng = np.random.default_rng(4)
    a, b = (torch.from_numpy(rng.normal(size=(n, 5)).astype(np.float32)) for n in (30, 20))
    indices, similarity = matching.mutual_matches(a, b)
    table = (a @ b.T).numpy()
    naive = {
        (i, int(table[i].argmax())) for i in range(30) if int(table[:, int(table[i].argmax())].argmax()) == i
    }
    assert {tuple(pair) for pair in indices.tolist()} == naive
    assert similarity.tolist() == sorted(similarity.tolist(), reverse=True)
    assert similarity.tolist() == [table[i, j] for i, j in indices.tolist()]


def test_features_that_are_not_finite(scene: tuple[Correspondence, list[int | None]], tmp_path: Path) -> None:
    class Broken(Painted):
        def forward(self, images: Tensor, layers: tuple[str, ...] = ()) -> Output:
            return super().forward(images * torch.nan, layers)

    with (
        runtime.start(device="cpu") as rt,
        pytest.raises(InputError, match="features of layer x are not finite"),
    ):
        matching.encode(
            Broken(),  # type: ignore[arg-type]
            pairs_of(scene),
            lambda row: np.zeros((SIDE, SIDE, 3), np.uint8),
            layers=("x",),
            size=SIDE,
            runtime=rt,
        )


def test_a_point_does_not_find_itself() -> None:
    """The keypoint of the query's own image, the second image of another pair, is no answer."""
    pairs = matching.Pairs(
        np.array([0, 2]),
        np.array([1, 0]),
        np.array([0, 1, 2]),
        np.array([7, 7]),
        np.full((2, 4), 0.5, np.float32),
    )
    rows = np.array([[1, 0], [0, 1]], np.float32)  # of point 7 in images 0 and 2; in images 1 and 0
    found = matching.scores(matching.Features(rows, np.array([[0, 1], [1, 0]], np.float32)), pairs)
    assert found["r1"] == 100, "only the right image is left, for both"
    pairs = matching.Pairs(pairs.first, pairs.second, pairs.offsets, np.array([7, 8]), pairs.rowcol)
    assert matching.scores(matching.Features(rows, rows), pairs)["r1_chance"] == pytest.approx(75.0)
