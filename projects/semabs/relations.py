"""Spatial relations between the objects of a view, as they are described to the networks.

d is the unit vector from target to reference. With x away from the camera and y to the left: a target is behind
where d points to the camera, on the right where d points to the left, and so on; 0.6 is the least cosine.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

_COSINE = 0.6
_DIRECTIONS = (  # in this order; the first that fits
    ("behind", np.array([-1.0, 0.0, 0.0])),
    ("on the right of", np.array([0.0, 1.0, 0.0])),
    ("on the left of", np.array([0.0, -1.0, 0.0])),
    ("in front of", np.array([1.0, 0.0, 0.0])),
)
_REACH = (0.1, 1.0)  # metres: least and most of how far a relation reaches
CONTAINERS = frozenset(  # what things are in; they are on everything else
    [
        "bathtub", "bin", "bowl", "box", "cabinet", "cart", "drawer", "dresser", "fridge", "garbage can",
        "laundry hamper", "microwave", "pot", "safe", "sink", "washing machine",
    ]
)  # fmt: skip
NEVER_DESCRIBED = ("floor", "rug", "baseboard", "light fixture", "decal", "ceiling")


@dataclass(frozen=True)
class Relation:
    """`target name reference`, the objects by their ids."""

    target: int
    name: str
    reference: int

    @property
    def lateral(self) -> bool:
        """Beside each other, not in or on. (The released scenes leave the target's material empty for these.)"""
        return self.name not in ("in", "on")


@dataclass(frozen=True)
class Extents:
    """Where objects are: centre [M, 3] of their points (NaN: none), low and high corner [M, 3]."""

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, object_ids: np.ndarray, count: int) -> "Extents":
        """Of the objects 0 to count - 1, from points [N, 3] with object ids [N]."""
        known = (object_ids >= 0) & (object_ids < count)
        points, ids = points[known].astype(float), object_ids[known]
        number = np.bincount(ids, minlength=count)
        sums = [np.bincount(ids, points[:, axis], count) for axis in range(3)]
        with np.errstate(invalid="ignore"):
            centre = np.stack(sums, 1) / number[:, None]
        low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
        ordered = points[np.argsort(ids, kind="stable")]
        there = np.flatnonzero(number)
        if len(there):
            starts = (np.cumsum(number) - number)[there]
            low[there] = np.minimum.reduceat(ordered, starts)
            high[there] = np.maximum.reduceat(ordered, starts)
        return cls(centre, low, high)

    def reach(self, reference: int) -> float:
        """How far a relation to `reference` reaches, metres: twice its width, within 0.1 and 1."""
        width = float((self.high[reference] - self.low[reference])[:2].max())
        return float(np.clip(2 * width, *_REACH))


def receptacle_relation(receptacle: str) -> str:
    """ "in" for containers, else "on"."""
    return "in" if receptacle in CONTAINERS else "on"


def lateral_relation(target: np.ndarray, reference: np.ndarray) -> str | None:
    """The relation of two centres [3] apart from each other, None where no direction is clear."""
    away = np.asarray(reference, float) - target
    distance = float(np.linalg.norm(away))
    if not distance > 0:
        return None
    return next((name for name, axis in _DIRECTIONS if float(away @ axis) / distance > _COSINE), None)


def describable(target: str, reference: str) -> bool:
    """Whether a pair of class names may be described."""
    return target != reference and not any(
        word in name for name in (target, reference) for word in NEVER_DESCRIBED
    )


def mine_lateral(
    extents: Extents,
    names: Sequence[str],
    visible: Collection[int],
    *,
    targets: Sequence[int],
    apart_from: Collection[tuple[int, int]] = (),
) -> list[Relation]:
    """All relations "behind", "on the right of", "on the left of", "in front of", by reference, then target.

    Args:
        extents: where the objects are.
        names: class names by id.
        visible: ids that the camera sees: references are, and targets except those behind something.
        targets: ids that may be targets or references.
        apart_from: pairs (target, reference) that are in or on each other, either way round.
    """
    found, told = [], set()
    joined = {frozenset(pair) for pair in apart_from}
    for reference in targets:
        if reference not in visible or not np.isfinite(extents.centre[reference]).all():
            continue
        offsets = extents.centre - extents.centre[reference]
        with np.errstate(invalid="ignore"):
            near = np.linalg.norm(offsets, axis=1) <= extents.reach(reference)
        for target in targets:
            if target == reference or not near[target] or not describable(names[target], names[reference]):
                continue
            name = lateral_relation(extents.centre[target], extents.centre[reference])
            if name is None or frozenset((target, reference)) in joined:
                continue
            if name != "behind" and (target not in visible or names[reference] == "cabinet"):
                continue
            text = names[target], name, names[reference]
            if text not in told:
                told.add(text)
                found.append(Relation(target, name, reference))
    return found
