"""The elements of the embedded cathedrals: windows, portals, statues, as meshes with a concept id on every face."""

from dataclasses import dataclass, field

import numpy as np

from projects.babel.mini_materials import MATERIALS
from shared.scene_meshes import (
    Mesh,
    arch_outline,
    ball,
    box,
    circle_outline,
    column,
    join,
    lathe,
    prism,
    ring,
)

CONCEPTS = ("facade", "window", "chapel", "tower", "portal", "statue")
PART = {name: number for number, name in enumerate(CONCEPTS, 1)}


@dataclass(frozen=True)
class Element:
    """One thing that a photographer may aim at: its middle, width, height and the way it faces (azimuth, radians)."""

    concept: str
    centre: np.ndarray
    width: float
    height: float
    facing: float = -np.pi / 2
    place: str = ""  # what it is a part of, for the name of its category


@dataclass
class Builder:
    """Collects meshes and elements."""

    rng: np.random.Generator
    meshes: list[Mesh] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)

    def add(self, element: Element) -> int:
        """Note an element; its instance id (1, 2, ...)."""
        self.elements.append(element)
        return len(self.elements)

    def put(self, mesh: Mesh, material: str, element: int = 0) -> None:
        """A piece of the element with this id; 0: of nothing that has a name."""
        part = PART[self.elements[element - 1].concept] if element else 0
        made = mesh.labelled(part=part, instance=element, material=MATERIALS.index(material))
        self.meshes.append(made)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return bool(self.rng.random() < share)


@dataclass(frozen=True)
class Style:
    """What all windows, portals and statues of a landmark have in common."""

    pointed: float
    window: int
    portal_rings: int
    statue_height: float


def portal(make: Builder, style: Style, x: float, width: float, height: float) -> None:
    """Nested arches with a relief and a door; sometimes statues at the jambs. `x`: its middle on the facade."""
    element = make.add(Element("portal", np.array([x, -0.5, height / 2]), width, height, place="west"))
    step = 0.09 * width
    outlines = [
        arch_outline(width - 2 * step * level, height - step * level, pointed=style.pointed)
        for level in range(style.portal_rings + 1)
    ]
    for level in range(style.portal_rings):
        front = -1.3 + 0.28 * level
        made = ring(outlines[level], outlines[level + 1], front, 0.1).moved(x=x)
        make.put(made, "trim" if level % 2 else "stone", element)
    inner_width = width - 2 * step * style.portal_rings
    inner_height = height - step * style.portal_rings
    make.put(prism(outlines[-1], -0.12, 0.1).moved(x=x), "relief", element)
    leaf = 0.62 * inner_height
    for side in (-1, 1):
        low, high = sorted((side * 0.03 * width, side * inner_width / 2 * 0.94))
        make.put(box((x + low, -0.24, 0), (x + high, 0.1, leaf)), "door", element)
    make.put(box((x - width / 2, -1.5, 0), (x + width / 2, 0, 0.25)), "trim", element)
    for side in (-1, 1):
        if width > 3.5 and make.chance(0.6):
            place = x + side * (width / 2 + 0.15)
            statue(make, style, (place, -1.2, 0.22 * height), 0.55 * style.statue_height, "portal")


def rose(make: Builder, x: float, z: float, radius: float) -> None:
    """A round window with spokes round (x, z) on the facade."""
    element = make.add(Element("window", np.array([x, 0, z]), 2 * radius, 2 * radius, place="rose"))
    circle = circle_outline(1.0)
    make.put(
        ring(circle * radius * 1.12, circle * radius * 0.95, -0.45, 0.1).moved(x=x, z=z), "trim", element
    )
    make.put(prism(circle * radius, -0.1, 0.1).moved(x=x, z=z), "glass", element)
    make.put(ring(circle * radius * 0.32, circle * radius * 0.24, -0.28, 0).moved(x=x, z=z), "trim", element)
    spokes = int(make.rng.choice([6, 8, 10, 12]))
    for spoke in range(spokes):
        bar = box((-0.035 * radius, -0.26, 0.26 * radius), (0.035 * radius, 0, 0.97 * radius))
        make.put(bar.turned(2 * np.pi * spoke / spokes, (0, 1, 0)).moved(x=x, z=z), "trim", element)


def lancet(
    make: Builder,
    style: Style,
    x: float,
    z: float,
    width: float,
    height: float,
    *,
    y: float = 0.0,
    turn: float = 0.0,
    place: str = "lancet",
) -> None:
    """An arched window; `turn` 0 faces the viewer, `x`, `y`, `z` is the middle of its foot."""
    facing = -np.pi / 2 + turn
    middle = np.array([x, y, z + height / 2])
    element = make.add(Element("window", middle, width, height, facing, place))
    inner = arch_outline(width * 0.8, height * 0.93, pointed=style.pointed)
    outer = arch_outline(width, height, pointed=style.pointed)
    pieces = [
        (ring(outer, inner, -0.35, 0.1), "trim"),
        (prism(inner, -0.06, 0.1).moved(z=0.0), "glass"),
        (box((-0.6 * width, -0.45, -0.25), (0.6 * width, 0.1, 0.05)), "trim"),
    ]
    bars = [(0.0,), (-0.15, 0.15), (0.0,)][style.window]
    pieces += [(box((b * width - 0.05, -0.2, 0), (b * width + 0.05, 0, 0.86 * height)), "trim") for b in bars]
    if style.window == 2:
        levels = np.arange(0.2, 0.8, 0.2) * height
        pieces += [
            (box((-0.4 * width, -0.2, level - 0.04), (0.4 * width, 0, level + 0.04)), "trim")
            for level in levels
        ]
    for piece, material in pieces:
        make.put(piece.turned(turn).moved(x=x, y=y, z=z), material, element)


def statue(make: Builder, style: Style, foot: tuple[float, float, float], height: float, place: str) -> int:
    """A standing figure on a small base; its id."""
    x, y, z = foot
    centre = np.array([x, y, z + height / 2])
    element = make.add(Element("statue", centre, 0.42 * height, height, place=place))
    broad = make.between(0.9, 1.15)
    profile = np.array(
        [
            [0.17, 0.06],
            [0.15, 0.2],
            [0.12, 0.45],
            [0.13, 0.6],
            [0.165, 0.74],
            [0.13, 0.8],
            [0.05, 0.83],
            [0.05, 0.85],
        ]
    )
    body = lathe(profile * [broad, 1], 10).scaled(1, 0.75, 1)
    head = ball(0.075, 10).scaled(1, 1, 1.25).moved(z=0.915)
    base = column(0.22, 0, 0.06, 10)
    pieces = [body, head, base]
    for side in (-1, 1):
        arm = column(0.04, -0.28, 0, 8).turned(side * make.between(-0.9, -0.1), (0, 1, 0))
        pieces.append(arm.turned(make.between(-0.6, 0.0), (1, 0, 0)).moved(x=side * 0.16 * broad, z=0.76))
    if make.chance(0.4):  # a staff
        pieces.append(column(0.02, 0.05, make.between(0.8, 1.1), 6).moved(x=0.24, y=-0.08))
    whole = join(pieces).scaled(height, height, height).turned(make.between(-0.4, 0.4))
    make.put(whole.moved(x, y, z), "figure", element)
    return element
