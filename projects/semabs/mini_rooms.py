"""Procedural rooms, 2 x 2 m: planes, things on the floor, a table that carries small ones, hidden things.

Axes as in the paper's scenes: x away from the camera, y to the left, z up, metres; the floor is at z = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from projects.semabs import mini_objects
from projects.semabs.mini_names import KIND, NAMES
from projects.semabs.mini_objects import Thing
from shared.scene_meshes import Mesh, box, join
from shared.scene_textures import Material
from shared.scenes import Camera, Rendering, Scene, look_at

FIELD_OF_VIEW = 80.0  # degrees, as in the paper
PLANES = 5  # floor and four walls: materials and instances 0 to 4
_WALL = 0.95  # inner side of the walls: they stand within the bounds
_HEIGHT = 2.4  # of the walls; there is no ceiling: light comes from above
_REAR = -2.5  # of the wall behind the camera
_GAP = 0.05  # between things
_TRIES = 40
HIDDEN_FIRST = 2  # things that come first in a room where something hides: cover and hidden
_LIFT = 1e-3  # of things above what they stand on: faces that coincide hide each other from rays


@dataclass(frozen=True)
class Placed:
    """A thing in the room; `parent`: the number of the thing that it lies on or in, -1 = the floor."""

    thing: Thing
    position: np.ndarray
    yaw: float
    parent: int = -1
    inside: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return self.thing.kind.name

    def mesh(self) -> Mesh:
        """In the room."""
        return self.thing.mesh.turned(self.yaw).moved(*self.position)

    def footprint(self) -> tuple[np.ndarray, np.ndarray]:
        """Its box in the room: low [3], high [3]."""
        return self._box

    @cached_property
    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        vertices = self.mesh().vertices
        return vertices.min(0), vertices.max(0)


@dataclass(frozen=True)
class Room:
    """Things and the colours of the planes [5, 2, 3], the sizes of their checkers [5] (0 = plain)."""

    things: tuple[Placed, ...]
    colours: np.ndarray
    cells: np.ndarray

    def scene(self) -> Scene:
        """Mesh and materials: instance = material = 0 to 4 for the planes, PLANES + number for the things."""
        meshes = _planes()
        materials = plane_surfaces(self.colours, self.cells)
        for number, one in enumerate(self.things, PLANES):
            meshes.append(one.mesh().labelled(instance=number, material=number))
            materials.append(mini_objects.placed(one.thing.surface, one.position, one.yaw))
        return Scene(join(meshes), materials)


def _planes() -> list[Mesh]:
    w, r, h = _WALL, _REAR, _HEIGHT
    slabs = (
        ((r - 0.2, -w - 0.2, -0.2), (w + 0.2, w + 0.2, 0)),
        ((w, -w - 0.2, 0), (w + 0.2, w + 0.2, h)),
        ((r - 0.2, w, 0), (w, w + 0.2, h)),
        ((r - 0.2, -w - 0.2, 0), (w, -w, h)),
        ((r - 0.2, -w, 0), (r, w, h)),
    )
    return [box(low, high).labelled(instance=n, material=n) for n, (low, high) in enumerate(slabs)]


def plane_surfaces(colours: np.ndarray, cells: np.ndarray) -> list[Material]:
    """The materials of the planes, from colours [5, 2, 3] and sizes of checkers [5] (0 = plain)."""
    return [_plane_surface(a, b, float(cell)) for (a, b), cell in zip(colours, cells, strict=True)]


def _plane_surface(first: np.ndarray, second: np.ndarray, cell: float) -> Material:
    a, b = first.astype(np.float32), second.astype(np.float32)

    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        if not cell:
            return np.broadcast_to(a, points.shape)
        odd = np.floor((points + 1e-3) / cell).sum(1) % 2 == 1
        return np.where(odd[:, None], b, a)

    return albedo


def draw_planes(rng: np.random.Generator, *, wild: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Colours [5, 2, 3] and checker sizes [5] of the planes: muted, or with `wild` any colours."""
    grey = rng.uniform(0.12, 0.75, (PLANES, 2, 1))
    tint = rng.uniform(-1, 1, (PLANES, 2, 3)) * (0.25 + 0.6 * wild)
    colours = np.clip(grey * (1 + tint), 0.02, 0.95)
    cells = np.where(rng.random(PLANES) < 0.4, rng.uniform(0.12, 0.5, PLANES), 0.0)
    return colours, cells


def draw(
    rng: np.random.Generator,
    names: Sequence[str] = NAMES,
    *,
    objects: int | None = None,
    distractor: bool = True,
    hidden: str | None = None,
) -> Room:
    """A room of things with these names.

    Args:
        rng: of everything.
        names: what may occur.
        objects: how many; None: 4 to 7.
        distractor: often two things of one name stand on two sides of a third.
        hidden: "in": a closed container holds a small thing; "behind": something low stands out of sight.
    """
    count = int(rng.integers(4, 8)) if objects is None else objects
    colours, cells = draw_planes(rng)
    things: list[Placed] = []
    if hidden and count:
        things += _hide(rng, names, hidden)
    if count >= 4:
        laden = _laden(rng, _others(names, things), things) if rng.random() < 0.5 else []
        things += laden
        if distractor and rng.random() < 0.95:
            middle = laden[0] if laden else None
            things += _flanked(rng, _others(names, things), things, middle)
    for name in rng.permutation(np.array(_others(names, things))) if count else ():
        if len(things) >= count:
            break
        found = _stand(mini_objects.draw(str(name), rng), rng, things)
        if found is not None:
            things.append(found)
    return Room(tuple(things), colours, cells)


def _others(names: Sequence[str], things: Sequence[Placed]) -> list[str]:
    """The names that the room has nothing of yet."""
    taken = {one.name for one in things}
    return [name for name in names if name not in taken]


def _stand(
    thing: Thing, rng: np.random.Generator, others: Sequence[Placed], *, near: np.ndarray | None = None
) -> Placed | None:
    """On free floor, its front more or less to the camera; `near` [2]: about there. None: no room."""
    boxes = [one.footprint() for one in others if one.parent < 0]
    for _ in range(_TRIES):
        yaw = rng.uniform(-0.9, 0.9) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
        one = Placed(thing, np.zeros(3), float(yaw))
        low, high = one.footprint()
        first, last = np.array([-0.55, -0.88]) - low[:2], np.array([0.88, 0.88]) - high[:2]
        place = rng.uniform(first, np.maximum(first, last))
        if near is not None:
            place = np.clip(near + rng.uniform(-0.06, 0.06, 2), first, np.maximum(first, last))
        here = low[:2] + place - _GAP, high[:2] + place + _GAP
        if not any(((here[0] < b[1][:2]) & (here[1] > b[0][:2])).all() for b in boxes):
            return replace(one, position=np.array([*place, _LIFT]))
    return None


def _laden(rng: np.random.Generator, names: Sequence[str], others: Sequence[Placed]) -> list[Placed]:
    """A table with one or two small things on it."""
    tables = [name for name in names if KIND[name].carries]
    small = [name for name in names if KIND[name].small]
    if not tables or not small:
        return []
    near = np.array([rng.uniform(0.0, 0.4), rng.uniform(-0.3, 0.3)])
    table = _stand(mini_objects.draw(str(rng.choice(tables)), rng), rng, others, near=near)
    if table is None:
        return []
    found = [table]
    number = len(others)
    sides = rng.permutation([-0.16, 0.16])
    turn = np.array([[np.cos(table.yaw), -np.sin(table.yaw)], [np.sin(table.yaw), np.cos(table.yaw)]])
    for name, side in zip(rng.permutation(small)[: rng.integers(1, 3)], sides, strict=False):
        place = turn @ (np.array([0.0, side]) + rng.uniform(-0.04, 0.04, 2)) + table.position[:2]
        top = float(table.thing.high[2]) + 2 * _LIFT
        thing = mini_objects.draw(str(name), rng)
        found.append(Placed(thing, np.array([*place, top]), float(rng.uniform(-np.pi, np.pi)), number))
    return found


def _flanked(
    rng: np.random.Generator, names: Sequence[str], others: Sequence[Placed], middle: Placed | None
) -> list[Placed]:
    """Two things of one name on two sides of `middle`, or of a new thing: left and right, or behind and in front."""
    sides = [name for name in names if not KIND[name].carries and KIND[name].height < 0.6]
    middles = [name for name in names if KIND[name].height > 0.3 and not KIND[name].carries]
    if len(sides) < 2 or len(middles) < 2:
        return []
    for _ in range(12):
        name = str(rng.choice(np.array(sides)))
        found: list[Placed] = []
        reference = middle
        if reference is None:
            thing = mini_objects.draw(str(rng.choice(np.array([one for one in middles if one != name]))), rng)
            centre = np.array([rng.uniform(0.0, 0.4), rng.uniform(-0.2, 0.2)])
            reference = _stand(thing, rng, others, near=centre)
            if reference is None:
                continue
            found = [reference]
        axis = np.array([0.0, 1.0]) if rng.random() < 0.75 else np.array([1.0, 0.0])
        low, high = reference.footprint()
        for sign in (-1, 1):
            thing = mini_objects.draw(name, rng)
            reach = np.abs((high - low)[:2] @ axis) / 2 + max(thing.high[:2].max(), -thing.low[:2].min())
            near = reference.position[:2] + sign * axis * (reach + rng.uniform(0.07, 0.15))
            one = _stand(thing, rng, [*others, *found], near=near)
            if one is not None:
                found.append(one)
        if sum(one.name == name for one in found) == 2:
            return found
    return []


def _hide(rng: np.random.Generator, names: Sequence[str], how: str) -> list[Placed]:
    """A container with a small thing in it, or something broad with a small thing right behind it."""
    small = [name for name in names if KIND[name].small and KIND[name].height < 0.2]
    if how == "in":
        outer = [name for name in names if KIND[name].holds]
    else:
        outer = [name for name in names if KIND[name].height > 0.33 and not KIND[name].carries]
    if not small or not outer:
        return []
    cover = _stand(
        mini_objects.draw(str(rng.choice(outer)), rng), rng, [], near=np.array([-0.1, rng.uniform(-0.4, 0.4)])
    )
    if cover is None:
        return []
    thing = mini_objects.draw(str(rng.choice(small)), rng)
    low, high = cover.footprint()
    if how == "in":
        share = 0.5 * (high - low).min() / float(np.max(thing.high - thing.low))
        inner = replace(thing, mesh=thing.mesh.scaled(*[min(1.0, share)] * 3))
        place = np.array([*(low + high)[:2] / 2, 0.25 * high[2]])
        return [cover, Placed(inner, place, 0.0, 0, inside=True)]
    behind = high[0] + _GAP - float(thing.low[0])
    away = (low + high)[:2] / 2
    ray = (away - [-1.2, 0.0]) / np.linalg.norm(away - [-1.2, 0.0])
    place = np.array([behind, away[1] + ray[1] * (behind - away[0]), _LIFT])
    return [cover, Placed(thing, place, 0.0)]


def draw_camera(rng: np.random.Generator, side: int) -> Camera:
    """A camera in front of the room, at a person's height, that looks at its middle; square picture."""
    position = np.array([rng.uniform(-1.15, -0.95), rng.uniform(-0.35, 0.35), rng.uniform(0.75, 1.15)])
    target = np.array([rng.uniform(0.1, 0.25), rng.uniform(-0.1, 0.1), rng.uniform(0.05, 0.2)])
    focal = side / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
    return look_at(position, target, width=side, height=side, focal=focal)


def render(
    room: Room, camera: Camera, rng: np.random.Generator, *, wild: float = 0.0, samples: int = 1
) -> Rendering:
    """The room in the light of the day."""
    return room.scene().render(camera, mini_objects.draw_light(rng, wild=wild), samples=samples)


def picture(
    rng: np.random.Generator,
    *,
    names: Sequence[str] = NAMES,
    objects: int | None = None,
    side: int = 128,
) -> tuple[np.ndarray, np.ndarray]:
    """A room with the name of every pixel: uint8 [side, side, 3], int16 [side, side] into NAMES, -1 = none of them."""
    room = draw(rng, names, objects=objects)
    seen = render(room, draw_camera(rng, side), rng)
    lookup = np.array([-1] * PLANES + [NAMES.index(one.name) for one in room.things] + [-1], np.int16)
    return mini_objects.developed(seen.rgb), lookup[seen.instance]
