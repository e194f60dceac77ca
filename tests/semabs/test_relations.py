"""Relations of objects: against the definition written out, and its exceptions one by one."""

import numpy as np
import pytest

from projects.semabs import relations
from projects.semabs.relations import Extents, Relation, lateral_relation, mine_lateral

WORDS = ("chair", "sofa", "mug", "floor", "area rug", "cabinet", "chair", "safe")


def naive(
    points: np.ndarray,
    ids: np.ndarray,
    names: tuple[str, ...],
    visible: set[int],
    joined: set[tuple[int, int]],
) -> list[Relation]:
    """The rules, one pair after the other."""
    found: list[Relation] = []
    for reference in range(len(names)):
        for target in range(len(names)):
            mine, its = points[ids == target], points[ids == reference]
            if target == reference or not len(mine) or not len(its) or reference not in visible:
                continue
            pair = names[target], names[reference]
            if pair[0] == pair[1] or {pair[0], pair[1]} & {"floor", "area rug"}:
                continue
            if (target, reference) in joined or (reference, target) in joined:
                continue
            away = its.mean(0) - mine.mean(0)
            distance = np.sqrt((away**2).sum())
            size = its.max(0) - its.min(0)
            if distance > min(max(2 * max(size[0], size[1]), 0.1), 1.0):
                continue
            away = away / distance
            name = None
            if -away[0] > 0.6:
                name = "behind"
            elif target in visible and names[reference] != "cabinet":
                if away[1] > 0.6:
                    name = "on the right of"
                elif -away[1] > 0.6:
                    name = "on the left of"
                elif away[0] > 0.6:
                    name = "in front of"
            told = [(names[one.target], one.name, names[one.reference]) for one in found]
            if name and (pair[0], name, pair[1]) not in told:
                found.append(Relation(target, name, reference))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_relations_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform(-0.5, 0.5, (8, 3)), rng.uniform(0.1, 0.6, (8, 3))
    ids = rng.integers(0, 8, 800)
    ids[ids == 7] = 6 if seed % 2 else 7  # an object without points
    points = centres[ids] + rng.uniform(-0.5, 0.5, (800, 3)) * sizes[ids]
    visible = set(rng.permutation(8)[:6].tolist())
    joined = {(0, 1), (5, 2)}
    extents = Extents.of(points, ids, 8)
    found = mine_lateral(extents, WORDS, visible, targets=range(8), apart_from=joined)
    assert found == naive(points, ids, WORDS, visible, joined)
    assert found, "an empty scene proves nothing"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ((0.5, 0.1, 0.0), "behind"),
        ((-0.5, 0.1, 0.1), "in front of"),
        ((0.0, 0.5, 0.0), "on the left of"),
        ((0.1, -0.5, 0.0), "on the right of"),
        ((0.5, 0.4, 0.0), "behind"),
        ((0.0, 0.1, 0.7), None),
        ((0.0, 0.0, 0.0), None),
    ],
)
def test_directions_are_the_viewers(target: tuple[float, float, float], told: str | None) -> None:
    """x leads away from the camera, y to the left."""
    assert lateral_relation(np.array(target), np.zeros(3)) == told


def test_extents_of_objects_without_points_are_unknown() -> None:
    extents = Extents.of(np.array([[1.0, 2, 3], [3, 2, 1]]), np.array([1, 1]), 3)
    np.testing.assert_allclose(extents.centre[1], [2, 2, 2])
    np.testing.assert_allclose((extents.low[1], extents.high[1]), [[1, 2, 1], [3, 2, 3]])
    assert np.isnan(extents.centre[[0, 2]]).all()
    assert extents.reach(1) == 1.0


def test_things_are_in_containers_and_on_everything_else() -> None:
    assert len(relations.CONTAINERS) == 16
    assert relations.receptacle_relation("fridge") == "in"
    assert relations.receptacle_relation("dining table") == "on"
