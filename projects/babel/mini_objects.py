"""Other things than buildings, for pretraining: procedural furniture, vehicles, vessels and solids in small scenes.

They stand in for the photos of ImageNet: no landmark of the embedded data, none of its concepts, other part names.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from projects.babel.mini_light import develop, draw_light
from shared.scene_meshes import Mesh, ball, box, circle_outline, column, join, lathe, prism, pyramid, ring
from shared.scene_textures import courses, hashed, plain
from shared.scenes import Camera, Material, Scene, look_at

PARTS = (
    "nothing",  # floor, wall, sky
    "table top",
    "furniture leg",
    "chair seat",
    "chair back",
    "lamp shade",
    "lamp post",
    "shelf board",
    "book",
    "car body",
    "car cabin",
    "wheel",
    "cargo",
    "hull",
    "mast",
    "sail",
    "pot",
    "plant",
    "bottle",
    "bowl",
    "cube",
    "sphere",
    "cone",
    "cylinder",
    "hoop",
    "ladder",
    "barrel",
    "cup handle",
    "animal body",
    "animal head",
)
_COLOURS = 10  # random materials in a scene


@dataclass(frozen=True)
class Picture:
    """A rendering: rgb uint8 [H, W, 3], ids into PARTS uint8 [H, W]."""

    rgb: np.ndarray
    parts: np.ndarray


def draw_pictures(
    count: int, *, seed: int, side: int, views: int = 4, hard: float = 0.5
) -> Iterator[Picture]:
    """`count` pictures, `views` of each scene; the longer side has `side` pixels. About 35 ms each at 96 pixels."""
    for number in range(count):
        if number % views == 0:
            rng = np.random.default_rng([seed, 909, number // views])
            scene, things = build(rng)
        camera = _draw_camera(things, rng, side)
        light, sky = draw_light(rng, night=False)
        rendering = scene.render(camera, light, background=sky)
        parts = np.maximum(rendering.part, 0).astype(np.uint8)
        yield Picture(develop(rendering, rng, hard=hard, night=False), parts)


def build(rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
    """A scene of a few things on a floor, about a metre each, and their places [N, 3]."""
    count = int(rng.integers(4, 10))
    places: list[np.ndarray] = []
    while len(places) < count:
        place = rng.uniform(-2.4, 2.4, 2)
        if all(np.linalg.norm(place - other) > 0.8 for other in places) or rng.random() < 0.05:
            places.append(place)
    meshes = []
    for number, (x, y) in enumerate(places, 1):
        thing = _THINGS[rng.integers(len(_THINGS))](rng)
        size = rng.uniform(0.7, 1.5)
        pieces = [
            piece.labelled(part=PARTS.index(name), instance=number, material=int(rng.integers(2, _COLOURS)))
            for name, piece in thing
        ]
        made = join(pieces)
        meshes.append(made.scaled(size, size, size).turned(rng.uniform(0, 2 * np.pi)).moved(x, y))
    meshes.append(box((-60, -60, -1), (60, 60, 0)).labelled(material=0))
    if rng.random() < 0.6:
        meshes.append(box((-60, 3.4, 0), (60, 4, rng.uniform(2, 8))).labelled(material=1))
    materials = [_draw_material(rng) for _ in range(_COLOURS)]
    return Scene(join(meshes), materials), np.array([[x, y, 0.4] for x, y in places])


def _draw_camera(things: np.ndarray, rng: np.random.Generator, side: int) -> Camera:
    width, height = (side, round(0.75 * side)) if rng.random() < 0.5 else (round(0.75 * side), side)
    target = things[rng.integers(len(things))] + rng.uniform(-0.3, 0.3, 3)
    azimuth, distance = -np.pi / 2 + rng.uniform(-1, 1), np.exp(rng.uniform(np.log(1.3), np.log(6)))
    place = target + distance * np.array([np.cos(azimuth), np.sin(azimuth), 0])
    place[2] = rng.uniform(0.3, 0.5 + 0.6 * distance)
    return look_at(place, target, width=width, height=height, focal=side * rng.uniform(0.9, 1.6))


def _draw_material(rng: np.random.Generator) -> Material:
    colour, kind = rng.uniform(0.05, 0.85, 3), rng.integers(4)
    if kind == 0:
        return courses(colour, height=rng.uniform(0.05, 0.3), length=rng.uniform(0.08, 0.5), cell=0.6)
    if kind == 1:
        return _checked(colour, rng.uniform(0.05, 0.8, 3), rng.uniform(0.04, 0.3, 2))
    return plain(
        colour, cell=rng.uniform(0.1, 1.0), contrast=rng.uniform(0.02, 0.35), seed=int(rng.integers(5))
    )


def _checked(first: np.ndarray, second: np.ndarray, size: np.ndarray) -> Material:
    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        cells = [np.floor(points[:, axis] / size[axis % 2]).astype(int) for axis in (0, 1, 2)]
        odd = (hashed(cells[0], cells[2]) if size[0] > 0.15 else (cells[0] + cells[2]) % 2) > 0.5
        return np.where(odd[:, None], first, second).astype(np.float32)

    return albedo


Parts = list[tuple[str, Mesh]]


def _legs(half_x: float, half_y: float, height: float, thick: float) -> Parts:
    leg = box((-thick, -thick, 0), (thick, thick, height))
    return [("furniture leg", leg.moved(x * half_x, y * half_y)) for x in (-1, 1) for y in (-1, 1)]


def _table(rng: np.random.Generator) -> Parts:
    x, y, height = rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.4), rng.uniform(0.35, 0.6)
    if rng.random() < 0.3:
        return [
            ("table top", column(x, height, height + 0.05, 20)),
            ("furniture leg", column(0.05, 0, height, 10)),
        ]
    return [
        ("table top", box((-x, -y, height), (x, y, height + 0.05))),
        *_legs(0.9 * x, 0.85 * y, height, 0.03),
    ]


def _chair(rng: np.random.Generator) -> Parts:
    half, height = rng.uniform(0.18, 0.25), rng.uniform(0.3, 0.42)
    seat = box((-half, -half, height), (half, half, height + 0.05))
    if rng.random() < 0.5:
        back = box((-half, half - 0.05, height), (half, half, height + rng.uniform(0.3, 0.5)))
    else:
        back = join(
            [
                box((x - 0.02, half - 0.05, height), (x + 0.02, half, height + 0.45))
                for x in np.linspace(-half, half, 5)
            ]
        )
    return [("chair seat", seat), ("chair back", back), *_legs(0.85 * half, 0.85 * half, height, 0.02)]


def _lamp(rng: np.random.Generator) -> Parts:
    height, radius = rng.uniform(0.6, 1.2), rng.uniform(0.14, 0.25)
    shade = column(radius, height, height + 0.22, 14, rng.uniform(0.3, 1) * radius)
    return [
        ("lamp shade", shade),
        ("lamp post", join([column(0.02, 0, height, 8), column(0.13, 0, 0.04, 14)])),
    ]


def _shelf(rng: np.random.Generator) -> Parts:
    half, levels = rng.uniform(0.3, 0.5), int(rng.integers(2, 5))
    boards = [
        box((-half, -0.12, 0.3 * level), (half, 0.12, 0.3 * level + 0.03)) for level in range(levels + 1)
    ]
    boards += [box((x - 0.02, -0.12, 0), (x + 0.02, 0.12, 0.3 * levels)) for x in (-half, half)]
    books = []
    for level in range(levels):
        for x in np.arange(-half + 0.06, half - 0.06, 0.09):
            if rng.random() < 0.7:
                books.append(
                    box(
                        (x, -0.08, 0.3 * level + 0.03), (x + 0.06, 0.1, 0.3 * level + rng.uniform(0.15, 0.27))
                    )
                )
    parts = [("shelf board", join(boards))]
    return [*parts, ("book", join(books))] if books else parts


def _wheels(places: list[float], half: float, radius: float) -> Parts:
    wheel = column(radius, -0.05, 0.05, 16).turned(np.pi / 2, (1, 0, 0))
    return [("wheel", wheel.moved(x, y * half, radius)) for x in places for y in (-1, 1)]


def _car(rng: np.random.Generator) -> Parts:
    length, half, radius = rng.uniform(0.5, 0.7), rng.uniform(0.2, 0.28), rng.uniform(0.08, 0.12)
    body = box((-length, -half, radius), (length, half, 0.3))
    cabin = prism(
        np.array([[-0.7, 0.3], [0.45, 0.3], [0.2, 0.52], [-0.5, 0.52]]) * [length, 1], -0.9 * half, 0.9 * half
    )
    return [("car body", body), ("car cabin", cabin), *_wheels([-0.6 * length, 0.6 * length], half, radius)]


def _truck(rng: np.random.Generator) -> Parts:
    half, high = rng.uniform(0.2, 0.26), rng.uniform(0.5, 0.75)
    cargo = box((-0.6, -half, 0.16), (0.25, half, high))
    cabin = box((0.3, -half, 0.14), (0.6, half, 0.5))
    return [("cargo", cargo), ("car cabin", cabin), *_wheels([-0.4, -0.15, 0.45], half, 0.11)]


def _boat(rng: np.random.Generator) -> Parts:
    length, tall = rng.uniform(0.5, 0.7), rng.uniform(0.7, 1.1)
    hull = prism(np.array([[-0.8, 0], [0.7, 0], [1.0, 0.25], [-0.9, 0.25]]) * [length, 1], -0.16, 0.16)
    sail = prism(np.array([[0.03, 0.35], [0.8 * length, 0.35], [0.03, tall]]), -0.01, 0.01)
    return [("hull", hull), ("mast", column(0.02, 0.2, tall + 0.05, 8)), ("sail", sail)]


def _plant(rng: np.random.Generator) -> Parts:
    pot = column(0.13, 0, 0.25, 14, 0.18)
    crown = []
    for _ in range(5):
        x, y = rng.uniform(-0.15, 0.15, 2)
        crown.append(ball(rng.uniform(0.1, 0.2), 10).moved(x, y, rng.uniform(0.35, 0.75)))
    return [("pot", pot), ("plant", join([column(0.03, 0.2, 0.5, 8), *crown]))]


def _bottle(rng: np.random.Generator) -> Parts:
    wide, neck = rng.uniform(0.1, 0.2), rng.uniform(0.03, 0.06)
    profile = [[wide, 0], [wide, 0.35], [0.8 * wide, 0.45], [neck, 0.55], [neck, 0.7]]
    return [("bottle", lathe(np.array(profile), 16))]


def _bowl(rng: np.random.Generator) -> Parts:
    radius = rng.uniform(0.2, 0.35)
    bowl = ("bowl", lathe(np.array([[0.4, 0], [0.8, 0.25], [1, 0.6], [0.92, 0.6], [0.3, 0.1]]) * radius, 18))
    if rng.random() < 0.5:
        return [bowl]
    hoop = ring(0.14 * circle_outline(1, 16), 0.1 * circle_outline(1, 16), -0.025, 0.025)
    return [bowl, ("cup handle", hoop.moved(x=radius, z=0.4 * radius))]


def _solid(rng: np.random.Generator) -> Parts:
    size, kind = rng.uniform(0.2, 0.4), int(rng.integers(5))
    if kind == 0:
        return [("cube", box((-size, -size, 0), (size, size, 2 * size)))]
    if kind == 1:
        return [("sphere", ball(size, 16).moved(z=size))]
    if kind == 2:
        return [("cone", pyramid(size, 0, 2.5 * size, sides=int(rng.choice([4, 6, 16]))))]
    if kind == 3:
        return [("cylinder", column(size * 0.7, 0, 2.5 * size, 18))]
    hoop = ring(circle_outline(size, 24), circle_outline(0.7 * size, 24), -0.1 * size, 0.1 * size)
    return [("hoop", hoop.moved(z=size))]


def _ladder(rng: np.random.Generator) -> Parts:
    height = rng.uniform(0.8, 1.4)
    rails = [box((x - 0.02, -0.02, 0), (x + 0.02, 0.02, height)) for x in (-0.18, 0.18)]
    rungs = [box((-0.18, -0.02, z), (0.18, 0.02, z + 0.035)) for z in np.arange(0.12, height, 0.17)]
    return [("ladder", join([*rails, *rungs]).turned(rng.uniform(-0.25, 0.0), (1, 0, 0)))]


def _barrel(rng: np.random.Generator) -> Parts:
    return [("barrel", lathe(np.array([[0.2, 0], [0.26, 0.2], [0.27, 0.3], [0.26, 0.4], [0.2, 0.6]]), 18))]


def _animal(rng: np.random.Generator) -> Parts:
    height, length = rng.uniform(0.25, 0.45), rng.uniform(0.25, 0.4)
    body = ball(0.5, 12).scaled(2 * length, 0.3, 0.32).moved(z=height + 0.1)
    head = join(
        [ball(0.1, 10), pyramid(0.04, 0.06, 0.18).moved(y=0.05), pyramid(0.04, 0.06, 0.18).moved(y=-0.05)]
    )
    legs = _legs(0.7 * length, 0.08, height, 0.03)
    return [
        ("animal body", join([body, *(leg for _, leg in legs)])),
        ("animal head", head.moved(length, 0, height + 0.3)),
    ]


_THINGS: tuple[Callable[[np.random.Generator], Parts], ...] = (
    _table,
    _chair,
    _lamp,
    _shelf,
    _car,
    _truck,
    _boat,
    _plant,
    _bottle,
    _bowl,
    _solid,
    _solid,
    _ladder,
    _barrel,
    _animal,
)
