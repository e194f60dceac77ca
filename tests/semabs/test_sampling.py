"""Draws of points: the quick ones have the distribution of the released ones; augmentations are what they say."""

import numpy as np
import pytest

from projects.semabs import sampling

BOUNDS = np.array([[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]])


def test_the_race_draws_sets_as_often_as_weighted_choice_does() -> None:
    """All 10 pairs out of 5 of unequal weight, against the exact probabilities of drawing one after the other."""
    weights = np.array([5.0, 1, 1, 2, 0.5])
    shares = weights / weights.sum()
    exact = {}
    for i in range(5):
        for j in range(i):
            exact[(j, i)] = shares[i] * shares[j] * (1 / (1 - shares[i]) + 1 / (1 - shares[j]))
    assert sum(exact.values()) == pytest.approx(1)
    rng, turns, counts = np.random.default_rng(0), 20_000, dict.fromkeys(exact, 0)
    for _ in range(turns):
        drawn = sampling.draw_points(rng, 5, 2, weights=weights)
        counts[tuple(sorted(drawn.tolist()))] += 1
    for pair, probability in exact.items():
        sigma = (turns * probability * (1 - probability)) ** 0.5
        assert abs(counts[pair] - turns * probability) < 4 * sigma, pair


@pytest.mark.parametrize("method", sampling.METHODS)
def test_positives_are_drawn_as_often_as_negatives(method: str) -> None:
    positive = np.random.default_rng(0).random(30_000) < 0.05
    weights = sampling.balancing_weights(positive)
    assert weights.sum() == pytest.approx(1)
    assert weights[positive].sum() == pytest.approx(0.5)
    rng = np.random.default_rng(1)
    drawn = sampling.draw_points(rng, 30_000, 600, weights=weights, method=method)
    assert len(set(drawn.tolist())) == 600
    assert abs(positive[drawn].mean() - 0.5) < 0.1  # far from the 5 % of uniform draws


@pytest.mark.parametrize("empty", [np.zeros(10, bool), np.ones(10, bool)])
def test_without_a_class_weights_are_uniform(empty: np.ndarray) -> None:
    np.testing.assert_allclose(sampling.balancing_weights(empty), 0.1)


@pytest.mark.parametrize("method", sampling.METHODS)
@pytest.mark.parametrize("weighted", [False, True])
def test_points_repeat_only_where_there_are_too_few_or_it_is_asked_for(method: str, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    weights = sampling.balancing_weights(np.arange(50) < 5) if weighted else None

    def repeated(count: int, replace: bool = False) -> bool:
        drawn = sampling.draw_points(rng, 50, count, weights=weights, replace=replace, method=method)
        assert len(drawn) == count
        assert drawn.min() >= 0
        assert drawn.max() < 50
        return len(set(drawn.tolist())) < count

    assert not repeated(40)
    assert not repeated(50)
    assert repeated(51)
    assert repeated(40, replace=True)


def test_points_without_weight_are_not_drawn() -> None:
    rng, weights = np.random.default_rng(0), np.array([0.0, 1, 1, 0, 1])
    for count in (2, 3, 4):
        assert set(sampling.draw_points(rng, 5, count, weights=weights).tolist()) <= {1, 2, 4}


def test_an_affine_map_scales_then_turns_then_moves() -> None:
    angles, scale, move = np.array([0.3, -0.2, 0.7]), np.array([1.1, 0.9, 1.2]), np.array([1.0, 2, 3])
    matrix = sampling.affine_matrix(move, angles, scale)
    point = np.array([0.5, -0.4, 0.8])

    def turned(vector: np.ndarray, axis: int, angle: float) -> np.ndarray:
        a, b = (axis + 1) % 3, (axis + 2) % 3
        out = vector.copy()
        out[a] = np.cos(angle) * vector[a] - np.sin(angle) * vector[b]
        out[b] = np.sin(angle) * vector[a] + np.cos(angle) * vector[b]
        return out

    expected = point * scale
    for axis in range(3):
        expected = turned(expected, axis, angles[axis])
    np.testing.assert_allclose((matrix @ [*point, 1])[:3], expected + move, atol=1e-12)
    np.testing.assert_allclose(
        sampling.transformed(point[None].astype(np.float32), matrix)[0], expected + move, rtol=1e-6
    )


def test_released_augmentations_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        sampling.draw_released_affine(rng, BOUNDS, position=0.05, orientation=0.15, scale=0.1)
        for _ in range(300)
    ]
    stretch = np.stack([np.linalg.norm(matrix[:3, :3], axis=0) for matrix in drawn])
    assert 1 <= stretch.min() < 1.01
    assert 1.09 < stretch.max() <= 1.1
    moves = np.stack([matrix[:3, 3] for matrix in drawn])
    assert abs(moves.std() - 0.1) < 0.01  # 0.05 of an extent of 2
    turns = np.stack([matrix[1, 0] / matrix[0, 0] for matrix in drawn])
    assert 0.1 < np.abs(turns).max() < np.tan(0.15) + 1e-9


def test_rooms_are_turned_about_the_middle_of_their_floor() -> None:
    rng = np.random.default_rng(0)
    drawn = [sampling.draw_room_affine(rng, BOUNDS) for _ in range(300)]
    middles = np.stack([matrix[:3, 3] for matrix in drawn])  # of the point (0, 0, 0)
    assert (np.abs(middles) <= [0.1, 0.1, 0.03]).all()
    for matrix in drawn:
        np.testing.assert_allclose(matrix[2, :2], 0, atol=1e-12)  # upright
        np.testing.assert_allclose(matrix[:2, 2], 0, atol=1e-12)
        assert matrix[2, 2] > 0
    mirrored = np.array([np.linalg.det(matrix[:3, :3]) < 0 for matrix in drawn])
    assert 0.35 < mirrored.mean() < 0.65
    heading = np.array([np.arctan2(matrix[1, 0], matrix[0, 0]) for matrix in drawn])
    assert np.histogram(heading, bins=4, range=(-np.pi, np.pi))[0].min() > 40
