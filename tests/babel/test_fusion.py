"""Fusing views on points against dictionaries and loops; point clouds there and back."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from projects.babel.colmap import UNKNOWN
from projects.babel.fusion import Fusion, PointScores, sample_labels, sample_scores
from projects.babel.palette import concept_colours
from projects.babel.point_cloud import write_ply
from shared.errors import InputError
from tests.babel.ply import vertices

CONCEPTS = ("window", "tower", "portal")


def random_views(rng: np.random.Generator, points: int, views: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each view sees some points, one of them twice."""
    found = []
    for _ in range(views):
        rows = rng.permutation(points)[: rng.integers(2, points)]
        rows = np.append(rows, rows[0])
        found.append((rows, rng.dirichlet(np.ones(4) * 0.3, len(rows)).astype(np.float32)))
    return found


def test_fusion_agrees_with_lists() -> None:
    rng = np.random.default_rng(0)
    views = random_views(rng, 40, 5)
    views = [(rows[rows < 38], scores[rows < 38]) for rows, scores in views]  # points 38 and 39: no view
    fusion = Fusion(40, 4)
    for rows, scores in views:
        fusion.add(rows, scores)
    ties = 0
    for n in range(40):
        own = [score for rows, scores in views for row, score in zip(rows, scores, strict=True) if row == n]
        assert fusion.seen[n] == len(own)
        if not own:
            assert fusion.labels("mean")[n] == fusion.labels("majority")[n] == UNKNOWN
            assert fusion.means()[n].tolist() == [0] * 4
            assert fusion.confidence()[n] == 0
            continue
        mean = np.stack(own).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(fusion.means()[n], mean, rtol=1e-6)
        assert fusion.labels("mean")[n] == mean.argmax()
        assert fusion.confidence("mean")[n] == pytest.approx(mean.max() / mean.sum())
        votes = [int(score.argmax()) for score in own]
        most = max(votes.count(k) for k in range(4))
        winners = [k for k in range(4) if votes.count(k) == most]
        ties += len(winners) > 1
        winner = max(winners, key=lambda k: mean[k])
        assert fusion.labels("majority")[n] == winner
        assert fusion.confidence("majority")[n] == pytest.approx(most / len(votes))
    assert ties > 2, "ties are decided by the mean"
    assert fusion.labels("mean").tolist() != fusion.labels("majority").tolist()
    assert (fusion.seen[38:] == 0).all()
    assert fusion.views == 5
    with pytest.raises(InputError, match="kind: expected one of mean, majority, found 'best'"):
        fusion.labels("best")


def test_scores_and_labels_are_taken_from_the_pixel_below_the_keypoint() -> None:
    """Edges of the picture are 0 and 1: of 4 columns, the first ends at .25."""
    mask = np.arange(12).reshape(3, 4)
    places = np.array([[0, 0], [1, 1], [0.34, 0.26], [0.32, 0.24], [0.99, 0.51]], np.float32)
    assert sample_labels(mask, places).tolist() == [0, 11, 5, 0, 10]
    scores = torch.from_numpy(np.stack([mask, 100 - mask]).astype(np.float32))
    centres = np.array([[(i + 0.5) / 3, (j + 0.5) / 4] for i in range(3) for j in range(4)], np.float32)
    found = sample_scores(scores, centres)
    np.testing.assert_allclose(found[:, 0], mask.reshape(-1), atol=1e-4)
    np.testing.assert_allclose(found[:, 1], 100 - mask.reshape(-1), atol=1e-4)
    between = sample_scores(scores, np.array([[1.0 / 3, 0.5], [0, 0], [1, 1]], np.float32))[:, 0]
    np.testing.assert_allclose(between, [(1 + 2 + 5 + 6) / 4, 0, 11], atol=1e-4)


def test_point_scores_agree_with_counting() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 3, 300), rng.integers(0, 4, 300)  # no point is a portal (3)
    truth[:20], predicted[10:40] = UNKNOWN, UNKNOWN
    scores = PointScores.empty(4)
    scores.add(truth[:150], predicted[:150])
    scores.add(truth[150:], predicted[150:])
    kept = [(t, p) for t, p in zip(truth, predicted, strict=True) if UNKNOWN not in (t, p)]
    found = scores.metrics(CONCEPTS)
    assert found["points"] == len(kept) == 260
    assert found["accuracy"] == pytest.approx(100 * np.mean([t == p for t, p in kept]))
    assert found["foreground"] == pytest.approx(100 * np.mean([t == p for t, p in kept if t]))
    for k, name in enumerate(CONCEPTS[:2], 1):
        both = sum(t == k and p == k for t, p in kept)
        assert found["recall"][name] == pytest.approx(100 * both / sum(t == k for t, p in kept))
        assert found["iou"][name] == pytest.approx(100 * both / sum(k in (t, p) for t, p in kept))
    assert "portal" not in found["iou"], "a concept that does not occur has no IoU"
    assert found["miou"] == pytest.approx(np.mean(list(found["iou"].values())))


@pytest.mark.parametrize("ascii", [False, True])
def test_point_clouds(tmp_path: Path, ascii: bool) -> None:
    """As an independent reader sees them."""
    rng = np.random.default_rng(2)
    xyz, rgb = rng.normal(size=(70, 3)).astype(np.float32), rng.integers(0, 256, (70, 3), np.uint8)
    extra: dict[str, np.ndarray] = {
        "label": rng.integers(0, 4, 70).astype(np.uint8),
        "confidence": rng.random(70, np.float32),
        "views": np.arange(70, dtype=np.float32),
    }
    path = tmp_path / "points of a façade.ply"
    write_ply(path, xyz, rgb, extra=extra, ascii=ascii, comments=("labels: 0 background\nelement face 9",))
    reconstruction = pycolmap.Reconstruction()
    reconstruction.import_PLY(str(path))
    points = [reconstruction.points3D[i + 1] for i in range(70)]
    np.testing.assert_allclose(np.stack([point.xyz for point in points]), xyz, rtol=1e-6)
    assert np.stack([point.color for point in points]).tolist() == rgb.tolist()
    raw = vertices(path)
    for name, values in extra.items():
        np.testing.assert_allclose(raw[name], values, rtol=1e-6, err_msg=name)
    head = path.read_bytes().split(b"end_header\n")[0].decode()
    assert ("format ascii 1.0" in head) == ascii
    assert "property uchar label\nproperty float confidence\nproperty float views" in head
    write_ply(path, xyz[:0], rgb[:0], ascii=ascii)
    assert b"element vertex 0\n" in path.read_bytes()


def test_colours_are_apart_and_stay_with_their_position() -> None:
    colours = concept_colours(30)
    assert colours.shape == (31, 3)
    assert len({tuple(colour) for colour in colours.tolist()}) == 31
    assert concept_colours(6).tolist() == colours[:7].tolist()
    first = colours[:11].astype(int)
    distance = np.abs(first[:, None] - first[None]).sum(2)[~np.eye(11, dtype=bool)]
    assert distance.min() > 60
