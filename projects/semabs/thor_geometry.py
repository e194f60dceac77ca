"""From AI2-THOR's world to scene coordinates: cameras, the fixed frame in front of them, receptacles' boxes.

The paper's scenes are seen from one place: whatever the agent's pose, the camera has the same pose in its scene.
"""

from dataclasses import dataclass

import numpy as np

from shared.errors import InputError

DISTANCE = 3.0  # from the camera to the middle of the scene before scaling, metres
FIELD_OF_VIEW = 80.0  # degrees
_SCALE = 0.6  # of THOR's metres
_MIRROR_DEPTH = 10.0  # metres: what is farther is a mirror's fault


def euler(x: float, y: float, z: float) -> np.ndarray:
    """Rotation [4, 4] round the fixed axes x, then y, then z, radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    around_x = np.array([[1, 0, 0, 0], [0, cx, -sx, 0], [0, sx, cx, 0], [0, 0, 0, 1.0]])
    around_y = np.array([[cy, 0, sy, 0], [0, 1, 0, 0], [-sy, 0, cy, 0], [0, 0, 0, 1.0]])
    around_z = np.array([[cz, -sz, 0, 0], [sz, cz, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    product: np.ndarray = around_z @ around_y @ around_x
    return product


def translation(x: float, y: float, z: float) -> np.ndarray:
    """[4, 4]."""
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def camera_pose(position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Camera to THOR's world [4, 4] of an agent at `position` [3] with `rotation` [3] in degrees.

    The released code hands the angles over as (z, y, x) where x, y, z are meant; agents turn round y only, so
    that this changes nothing, and the scenes were made so.
    """
    x, y, z = np.deg2rad(np.asarray(rotation, float))
    return translation(*np.asarray(position, float)) @ euler(z, y, x)


def to_scene(pose: np.ndarray, distance: float = DISTANCE) -> np.ndarray:
    """THOR's world to scene coordinates [4, 4], for the camera with `pose` [4, 4]."""
    half = np.pi / 2
    steps = (
        translation(0, 0, 2),
        np.diag([1.0, 1.0, -1.0, 1.0]),
        euler(half, 0, 0) @ np.diag([_SCALE, _SCALE, _SCALE, 1.0]),
        euler(0, np.pi, 0),
        translation(distance - 0.5, 2, 0) @ euler(0, half, 0),
        euler(0, -np.pi, -np.pi),
        np.linalg.inv(pose),
    )
    matrix: np.ndarray = np.linalg.multi_dot(steps)
    return matrix


def transformed(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N, 3] after an affine map [4, 4]."""
    moved: np.ndarray = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def intrinsics(side: int) -> np.ndarray:
    """[3, 3] of a square picture of THOR."""
    focal = side / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
    return np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1.0]])


def without_mirrors(depth: np.ndarray) -> np.ndarray:
    """Depth [H, W] with what is farther than 10 m interpolated between its neighbours in reading order."""
    flat = depth.reshape(-1)
    good = flat <= _MIRROR_DEPTH
    if good.all() or not good.any():
        return depth
    places = np.arange(len(flat))
    filled = flat.copy()
    filled[~good] = np.interp(places[~good], places[good], flat[good])
    return filled.reshape(depth.shape)


def is_good(depth: np.ndarray, classes: np.ndarray, names: list[str]) -> bool:
    """Whether a view is kept: not mostly wall, four classes or more, enough of it two to four metres away.

    depth [H, W] metres; classes [H, W]: index into `names`, -1 = nothing.
    """
    seen = classes[classes >= 0]
    walls = [number for number, name in enumerate(names) if name == "wall"]
    return bool(
        np.isin(classes, walls).mean() <= 0.8
        and len({names[number] for number in np.unique(seen)}) >= 4
        and ((depth > 2) & (depth < 4)).mean() >= 0.2
    )


@dataclass(frozen=True)
class Receptacle:
    """A box that things are in: `matrix` [4, 4] takes its axes to the world, `size` [3] its edges, metres."""

    name: str
    matrix: np.ndarray
    size: np.ndarray
    centre: np.ndarray

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Which world points [N, 3] lie in the box: bool [N].

        The box lies round the origin of its axes; `centre` is carried along unused, as in the released code.
        """
        local = transformed(np.linalg.inv(self.matrix), np.asarray(points, float))
        return (np.abs(local) <= self.size / 2).all(1)


def read_receptacle(line: str, source: str = "receptacle") -> Receptacle:
    """A line `name|(row)(row)(row)(row)|(size)|(centre)` of a room's receptacles; InputError for any other."""
    parts = line.strip().split("|")
    if len(parts) < 4:
        raise InputError(f"{source}: expected name|matrix|size|centre, found {line.strip()!r}")
    name, values = "|".join(parts[:-3]), [_numbers(part, source) for part in parts[-3:]]
    if [len(one) for one in values] != [16, 3, 3]:
        counts = [len(one) for one in values]
        raise InputError(f"{source}: {name}: expected 16, 3 and 3 numbers, found {counts}")
    matrix = values[0].reshape(4, 4)
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError(f"{source}: {name}: expected a matrix with an inverse, found {matrix.tolist()}")
    return Receptacle(name, matrix, values[1], values[2])


def _numbers(text: str, source: str) -> np.ndarray:
    plain = text.replace(")(", ",").strip("() ")
    try:
        return np.array([float(one) for one in plain.split(",")])
    except ValueError:
        raise InputError(f"{source}: expected numbers in brackets, found {text!r}") from None
