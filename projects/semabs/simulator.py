"""What scene generation asks of a simulator, be it AI2-THOR or the embedded procedural rooms.

Coordinates are the paper's scene coordinates: metres, x away from the camera, y to the left, z up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class SceneObject:
    """An object of a view; its id is its place in `View.objects`.

    name: class name ("empty" for free space, "unlabelled" for what has no name); receptacles: ids of what it lies
    on or in; region: bool [N], the points of the view inside it as a container, None = its own points.
    """

    name: str
    material: str = ""
    receptacles: tuple[int, ...] = ()
    region: np.ndarray | None = None


@dataclass(frozen=True)
class View:
    """One look into a room (H x W pixels, N points).

    rgb uint8 [H, W, 3]; depth float32 [H, W] metres; segmentation int [H, W], -1 = nothing; intrinsics [3, 3];
    pose [4, 4] camera to scene; points float [N, 3], object_ids int [N]: the room as a cloud, empty space included;
    randomized_rgb: the same view in other colours.
    """

    room: str
    rgb: np.ndarray
    depth: np.ndarray
    segmentation: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray
    points: np.ndarray
    object_ids: np.ndarray
    objects: tuple[SceneObject, ...]
    randomized_rgb: np.ndarray | None = None


class Simulator(Protocol):
    """Rooms that can be looked at."""

    @property
    def rooms(self) -> Sequence[str]:
        """Names of the rooms, e.g. FloorPlan26_physics."""

    def view(self, room: str, seed: int) -> View | None:
        """A look into a room from a place drawn with `seed`; None where no good one was found."""

    def close(self) -> None:
        """Stop what was started."""
