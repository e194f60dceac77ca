"""The cathedrals of the embedded data: procedural outsides, put together from their elements.

A landmark stands at the origin, its facade in the plane y = 0 looking towards -y; lengths are metres. What is no
concept (nave, roofs, ground, houses, trees, people) has part 0. There are no insides.
"""

from dataclasses import dataclass

import numpy as np

from projects.babel import mini_materials
from projects.babel.mini_elements import CONCEPTS, PART, Builder, Element, Style, lancet, portal, rose, statue
from projects.babel.mini_materials import MATERIALS
from shared.scene_meshes import arch_outline, ball, box, column, join, lathe, prism, pyramid
from shared.scenes import Scene

__all__ = ["CONCEPTS", "PART", "Element", "Landmark", "build"]


@dataclass
class Landmark:
    """A cathedral: its scene and what there is to photograph."""

    scene: Scene
    elements: list[Element]
    solid: np.ndarray  # [F] bool: faces that a reconstruction keeps (not the ground, trees, people)


def build(rng: np.random.Generator, *, free_statues: int = 1) -> Landmark:
    """A new cathedral with so many statues on the square before it."""
    make = Builder(rng)
    style = Style(
        pointed=float(rng.choice([0.0, 0.45, 0.8, 1.0])),
        window=int(rng.integers(3)),
        portal_rings=int(rng.integers(2, 5)),
        statue_height=make.between(2.2, 3.2),
    )
    width, eaves = make.between(16, 26), make.between(15, 24)
    _facade(make, style, width, eaves)
    _nave(make, style, width, eaves)
    tower_width = _towers(make, style, width, eaves)
    _chapel(make, style, width / 2 + tower_width)
    for _ in range(free_statues):
        _plinth_statue(make, style, width)
    _surroundings(make, width)
    mesh = join(make.meshes)
    passing = [MATERIALS.index(name) for name in ("ground", "bark", "leaves", "cloth", "cloth2")]
    scene = Scene(mesh, mini_materials.materials(rng))
    return Landmark(scene, make.elements, ~np.isin(mesh.material, passing))


def _facade(make: Builder, style: Style, width: float, eaves: float) -> None:
    rise = make.between(0.25, 0.55) * width
    kind = int(make.rng.integers(3))
    half = width / 2
    if kind == 0:
        outline = [[-half, 0], [half, 0], [half, eaves], [0, eaves + rise], [-half, eaves]]
    elif kind == 1:  # a screen with a lower gable
        outline = [[-half, 0], [half, 0], [half, eaves], [half * 0.5, eaves]]
        outline += [[0, eaves + rise * 0.6], [-half * 0.5, eaves], [-half, eaves]]
    else:  # lower aisles
        outline = [[-half, 0], [half, 0], [half, eaves * 0.7], [half * 0.55, eaves]]
        outline += [[0, eaves + rise * 0.7], [-half * 0.55, eaves], [-half, eaves * 0.7]]
    element = make.add(Element("facade", np.array([0, 0, eaves * 0.55]), width, eaves + rise, place="west"))
    make.put(prism(np.array(outline, float), 0.0, 2.0), "stone", element)
    portal_height = make.between(0.32, 0.42) * eaves
    upper = eaves * make.between(0.75, 0.85)
    for level, reach in ((portal_height * 1.22, half), (upper, half * (0.6 if kind == 2 else 1))):
        make.put(box((-reach, -0.35, level), (reach, 0.1, level + 0.45)), "trim", element)
    for side in (-1, 1):
        if make.chance(0.7):
            x = side * (half - 0.6)
            make.put(box((x - 0.6, -0.9, 0), (x + 0.6, 0.1, eaves * 0.65)), "trim", element)
    _portals(make, style, width, portal_height)
    above, below = eaves * 0.97, portal_height * 1.3
    _rose_or_lancets(make, style, width, below, above)
    _statue_row(make, style, element, width, portal_height * 1.22 + 0.45)


def _portals(make: Builder, style: Style, width: float, height: float) -> None:
    count = int(make.rng.choice([1, 2, 3], p=[0.35, 0.2, 0.45]))
    places = {1: [0.0], 2: [-0.24, 0.24], 3: [-0.31, 0.0, 0.31]}[count]
    portal_width = min(0.26 * width, 0.75 * height) * (1.0 if count > 1 else 1.25)
    for place in places:
        middle = place == 0
        tall = height * (1.0 if middle else 0.85)
        portal(make, style, place * width, portal_width * (1 if middle else 0.85), tall)


def _rose_or_lancets(make: Builder, style: Style, width: float, below: float, above: float) -> None:
    space = above - below
    if make.chance(0.65):
        radius = min(0.36 * space, 0.2 * width)
        rose(make, 0.0, below + 0.52 * space, radius)
        sides = (-0.33, 0.33) if make.chance(0.7) else ()
    else:
        sides = tuple(np.linspace(-0.33, 0.33, int(make.rng.integers(3, 6))))
    for place in sides:
        tall = make.between(0.5, 0.75) * space
        lancet(make, style, place * width, below + 0.1 * space, min(0.12 * width, 0.45 * tall), tall)


def _statue_row(make: Builder, style: Style, element: int, width: float, level: float) -> None:
    count = int(make.rng.choice([0, 2, 4, 6], p=[0.25, 0.25, 0.25, 0.25]))
    height = 0.75 * style.statue_height
    for place in np.linspace(-0.42, 0.42, count) if count else ():
        if abs(place) > 0.1:
            x = place * width
            make.put(box((x - 0.5, -0.95, level - 0.3), (x + 0.5, 0.1, level)), "trim", element)
            statue(make, style, (x, -0.5, level), height, "facade")


def _nave(make: Builder, style: Style, width: float, eaves: float) -> None:
    half, height, length = 0.4 * width, 0.8 * eaves, make.between(28, 45)
    make.put(box((-half, 1.9, 0), (half, 2 + length, height)), "stone")
    roof = prism(np.array([[-half - 0.5, 0], [half + 0.5, 0], [0, 0.75 * half]]), 2.0, 2.5 + length)
    make.put(roof.moved(z=height), "roof")
    side = 1 if make.chance(0.5) else -1
    for number in range(4):
        y = 8 + number * length / 5
        for one in (side, -side):
            make.put(box((one * half - 0.8, y - 3.2, 0), (one * half + 0.8, y - 2.2, 0.9 * height)), "trim")
        x, turn = side * half, side * np.pi / 2
        lancet(make, style, x, 0.3 * height, 2.2, 0.5 * height, y=y, turn=turn, place="nave")


def _towers(make: Builder, style: Style, width: float, eaves: float) -> float:
    """Towers beside the facade or on the crossing; returns how far they stick out of the facade's sides."""
    kind = int(make.rng.choice([0, 1, 2, 3], p=[0.08, 0.27, 0.45, 0.2]))
    size, height = make.between(5, 7.5), make.between(1.35, 2.1) * eaves
    cap = int(make.rng.integers(4))
    if kind == 0:
        return 0.0
    if kind == 3:
        _tower(make, style, (0.0, 20.0), size * 1.15, max(height, 1.7 * eaves), cap)
        return 0.0
    sides = (-1, 1) if kind == 2 else (int(make.rng.choice([-1, 1])),)
    for side in sides:
        tall = height * (1.0 if side == sides[0] or make.chance(0.8) else 0.8)
        _tower(make, style, (side * (width / 2 + size / 2 - 0.2), size / 2 - 0.8), size, tall, cap)
    return size


def _tower(
    make: Builder, style: Style, foot: tuple[float, float], size: float, height: float, cap: int
) -> None:
    x, y = foot
    half, shaft = size / 2, 0.7 * height
    middle = np.array([x, y - half, 0.7 * height])
    place = "north" if x < 0 else "south" if x > 0 else "crossing"
    element = make.add(Element("tower", middle, 1.6 * size, 0.6 * height, place=place))
    make.put(box((x - half, y - half, 0), (x + half, y + half, shaft)), "stone", element)
    for level in (0.33 * shaft, 0.66 * shaft, shaft):
        band = box((x - half - 0.25, y - half - 0.25, level - 0.5), (x + half + 0.25, y + half + 0.25, level))
        make.put(band, "trim", element)
    for side in (-1, 1):
        for depth in (-1, 1):
            corner = (x + side * half, y + depth * half)
            post = box(
                (corner[0] - 0.45, corner[1] - 0.45, 0), (corner[0] + 0.45, corner[1] + 0.45, shaft + 0.8)
            )
            make.put(post, "trim", element)
            if cap != 2:
                make.put(pyramid(0.5, shaft + 0.8, shaft + 3).moved(*corner), "roof", element)
    _tower_top(make, (x, y), half, shaft, height, cap, element)
    # the belfry's windows are the tower's openings, no stained glass: they belong to the tower
    for shift in (-0.22, 0.22):
        opening = arch_outline(0.22 * size, 0.24 * shaft, pointed=style.pointed)
        for turn in (0.0, np.pi / 2, -np.pi / 2):
            made = prism(opening, -0.07 - half, 0.1 - half).moved(x=shift * size).turned(turn)
            make.put(made.moved(x, y, 0.7 * shaft), "dark", element)
    lancet(make, style, x, 0.4 * shaft, 0.24 * size, 0.2 * shaft, y=y - half, place="tower")


def _tower_top(
    make: Builder, foot: tuple[float, float], half: float, shaft: float, height: float, cap: int, element: int
) -> None:
    """What stands on the shaft: 0 a spire, 1 an octagonal spire on a drum, 2 battlements, 3 a dome with a lantern."""
    x, y = foot
    if cap == 0:
        make.put(pyramid(0.95 * half, shaft, height).moved(x, y), "roof", element)
    elif cap == 1:
        make.put(pyramid(0.8 * half, shaft, shaft + 2, sides=8).moved(x, y), "trim", element)
        make.put(pyramid(0.85 * half, shaft, 1.05 * height, sides=8).moved(x, y), "roof", element)
    elif cap == 2:
        for along in np.linspace(-half + 0.4, half - 0.4, 5):
            for across in (-half, half):
                for dx, dy in ((along, across), (across, along)):
                    left, front = x + dx - 0.35, y + dy - 0.35
                    right, back = x + dx + 0.35, y + dy + 0.35
                    make.put(box((left, front, shaft), (right, back, shaft + 1.1)), "stone", element)
    else:
        make.put(column(0.75 * half, shaft, shaft + 2.2, 12).moved(x, y), "trim", element)
        dome = ball(0.8 * half, 16, half=True).scaled(1, 1, 1.25)
        make.put(dome.moved(x, y, shaft + 2.2), "roof", element)
        make.put(column(0.18, 0, 2.2, 8).moved(x, y, shaft + 2.2 + half), "trim", element)


def _chapel(make: Builder, style: Style, beside: float) -> None:
    side = 1 if make.chance(0.5) else -1
    half, height = make.between(3.2, 5), make.between(4.5, 7)
    x, y = side * (beside + half + make.between(1.5, 5)), make.between(2, 7)
    kind = int(make.rng.integers(3))
    top = height + half * (1.0 if kind == 0 else 1.5)
    middle = np.array([x, y - half, 0.5 * top])
    element = make.add(Element("chapel", middle, 2 * half, top, place="side"))
    sides = 8 if kind else 4
    walls = lathe(np.array([[1.0, 0], [1.0, height]]), sides, turn=np.pi / sides)
    radius = half / np.cos(np.pi / sides)
    make.put(walls.scaled(radius, radius).moved(x, y), "chapel", element)
    rim = lathe(np.array([[1.06, height - 0.4], [1.06, height]]), sides, turn=np.pi / sides)
    make.put(rim.scaled(radius, radius).moved(x, y), "trim", element)
    if kind == 0:
        gable = prism(np.array([[-half - 0.4, 0], [half + 0.4, 0], [0, 1.0 * half]]), -half - 0.2, half + 0.2)
        make.put(gable.moved(x, y, height), "roof", element)
    elif kind == 1:
        make.put(ball(0.95 * half, 20, half=True).moved(x, y, height), "dome", element)
        make.put(column(0.35, 0, 1.6, 8).moved(x, y, height + 0.9 * half), "trim", element)
    else:
        make.put(pyramid(1.05 * half, height, top, sides=8).moved(x, y), "dome", element)
    door = prism(arch_outline(1.4, 2.6, pointed=style.pointed), -half - 0.08, 0).moved(x, y)
    make.put(door, "door", element)
    for turn in (-np.pi / 4, np.pi / 4) if sides == 8 else (-np.pi / 2, np.pi / 2):
        dx, dy = half * np.sin(turn), -half * np.cos(turn)
        foot, tall = 0.32 * height, 0.45 * height
        lancet(make, style, x + dx, foot, 1.1, tall, y=y + dy, turn=turn, place="chapel")


def _plinth_statue(make: Builder, style: Style, width: float) -> None:
    x, y = make.between(-0.7, 0.7) * width, -make.between(9, 16)
    block = make.between(1.2, 2.2)
    element = statue(make, style, (x, y, block), style.statue_height, "square")
    make.put(box((x - 0.8, y - 0.8, 0), (x + 0.8, y + 0.8, block)), "trim", element)


def _surroundings(make: Builder, width: float) -> None:
    """Ground, houses behind, trees, people."""
    make.put(box((-400, -400, -1), (400, 400, 0)), "ground")
    for _ in range(int(make.rng.integers(4, 9))):
        side = make.rng.choice([-1, 1])
        x, y = side * make.between(1.6, 4.5) * width, make.between(15, 70)
        half, height = make.between(4, 9), make.between(6, 14)
        make.put(box((x - half, y - 5, 0), (x + half, y + 5, height)), "house")
        gable = prism(np.array([[-half, 0], [half, 0], [0, 0.7 * half]]), -5.0, 5.0)
        make.put(gable.moved(x, y, height), "tiles")
    for _ in range(int(make.rng.integers(1, 5))):
        x, y = make.rng.choice([-1, 1]) * make.between(0.75, 2.2) * width, make.between(-14, 12)
        size = make.between(1.6, 3.2)
        make.put(column(0.25, 0, 1.6 * size, 8).moved(x, y), "bark")
        make.put(ball(size, 10).scaled(1, 1, make.between(1, 1.5)).moved(x, y, 2.2 * size), "leaves")
    for _ in range(int(make.rng.integers(3, 10))):
        x, y = make.between(-0.9, 0.9) * width, -make.between(2.5, 22)
        tall = make.between(1.5, 1.9)
        person = join([column(0.22, 0, 0.8, 8, 0.26), ball(0.13, 8).moved(z=0.92)])
        make.put(person.scaled(1, 0.8, tall).moved(x, y), str(make.rng.choice(["cloth", "cloth2"])))
