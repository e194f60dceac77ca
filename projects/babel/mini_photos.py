"""Photos of the embedded cathedrals: what they are aimed at and where the photographer stands."""

from dataclasses import dataclass

import numpy as np

from projects.babel.mini_elements import PART, Element
from projects.babel.mini_landmark import Landmark
from projects.babel.mini_light import develop, draw_light
from shared.scenes import Camera, look_at

ASPECT = 3 / 4
_TRIES = 12
_METRES = (5.0, 45.0)  # across a photo, where framing is alike
_FILLS = (0.15, 2.0)  # share of the picture that an element may take then
_POPULAR = {"window": 0.28, "statue": 0.28, "portal": 0.2, "tower": 0.12, "chapel": 0.12}
_LEAST = {"facade": 0.12, "tower": 0.08, "chapel": 0.08}  # share of the picture that must show the concept


@dataclass(frozen=True)
class Shot:
    """A photo: uint8 rgb [H, W, 3], concept ids [H, W] uint8, its camera, what it was aimed at."""

    rgb: np.ndarray
    mask: np.ndarray
    camera: Camera
    element: Element


def subjects(
    landmark: Landmark, rng: np.random.Generator, views: int, *, framing: float = 0.0
) -> list[Element]:
    """What the photos of a landmark are aimed at: facades, each other concept once, then the popular ones.

    framing: this share of the statues are free-standing ones.
    """
    by_concept: dict[str, list[Element]] = {}
    for element in landmark.elements:
        by_concept.setdefault(element.concept, []).append(element)
    wanted = ["facade", *(name for name in PART if name != "facade"), *["facade"] * 3]
    while len(wanted) < views:
        wanted.append(str(rng.choice(list(_POPULAR), p=list(_POPULAR.values()))))
    there = [name if name in by_concept else "facade" for name in wanted[:views]]
    chosen = [by_concept[name][rng.integers(len(by_concept[name]))] for name in there]
    free = [element for element in by_concept["statue"] if element.place == "square"]
    return [
        free[rng.integers(len(free))] if one.concept == "statue" and _happens(framing, rng) else one
        for one in chosen
    ]


def take(
    landmark: Landmark,
    element: Element,
    rng: np.random.Generator,
    *,
    side: int,
    hard: float,
    framing: float = 0.0,
) -> Shot:
    """A photo of an element of a landmark; `hard` in [0, 1] scales everything that varies.

    framing: share of the photos that show as many metres whatever the concept, so that nearness and sky tell nothing.
    """
    camera = _place(landmark, element, rng, side, hard, _happens(framing, rng))
    night = rng.random() < 0.12 * min(1.0, 2 * hard)
    light, sky = draw_light(rng, night=night)
    rendering = landmark.scene.render(camera, light, background=sky)
    rgb = develop(rendering, rng, hard=hard, night=night)
    return Shot(rgb, np.maximum(rendering.part, 0).astype(np.uint8), camera, element)


def _place(
    landmark: Landmark, element: Element, rng: np.random.Generator, side: int, hard: float, alike: bool
) -> Camera:
    """A camera in front of the element that shows enough of it; the best of a few tries."""
    best, most = None, -1.0
    least = 0.015 if alike else _LEAST.get(element.concept, 0.05)
    for _ in range(_TRIES):
        camera = _draw_camera(element, rng, side, hard, alike)
        shown = _share_shown(landmark, camera, element)
        if shown > most:
            best, most = camera, shown
        if shown >= least:
            break
    assert best is not None
    return best


def _draw_camera(element: Element, rng: np.random.Generator, side: int, hard: float, alike: bool) -> Camera:
    upright = rng.random() < (0.65 if element.height > 1.3 * element.width else 0.3)
    width, height = (round(ASPECT * side), side) if upright else (side, round(ASPECT * side))
    fill = np.exp(rng.uniform(np.log(0.25 + 0.3 * (1 - hard)), np.log(1.0 + 0.3 * hard)))
    large = max(element.width, element.height)
    if alike:
        metres = np.exp(rng.uniform(*np.log(_METRES)))
        fill = np.clip(large / metres, *_FILLS)
    focal = side * rng.uniform(0.9, 1.7)
    distance = focal * max(element.width / width, element.height / height) / fill
    azimuth = element.facing + np.deg2rad(45) * rng.uniform(-1, 1) * (0.5 + 0.5 * hard)
    high = element.centre[2]
    eye = rng.uniform(1.5, max(2.0, 0.75 * high))
    flat = max(distance, 4.0 if alike else 1.2 * element.width, abs(eye - high) / 1.2)
    place = element.centre + flat * np.array([np.cos(azimuth), np.sin(azimuth), 0])
    place[2] = eye
    off = 0.22 * (0.4 + 0.6 * hard)
    across = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    size = distance * np.array([width, height]) / focal
    target = element.centre + across * rng.uniform(-off, off) * size[0]
    target[2] += rng.uniform(-off, off) * size[1]
    if alike:  # from near, anywhere on the element
        target += across * rng.uniform(-0.5, 0.5) * max(0.0, element.width - size[0])
        target[2] += rng.uniform(-0.5, 0.5) * max(0.0, 0.8 * element.height - size[1])
    roll = np.deg2rad(3) * rng.standard_normal() * hard
    return look_at(place, target, width=width, height=height, focal=focal, roll=roll)


def _share_shown(landmark: Landmark, camera: Camera, element: Element) -> float:
    """Share of a coarse picture that shows the element's concept."""
    step = 6
    rays = camera.rays()[step // 2 :: step, step // 2 :: step].reshape(-1, 3)
    _, face = landmark.scene.cast(camera.position, rays)
    mesh = landmark.scene.mesh
    return float(((face >= 0) & (mesh.part[face] == PART[element.concept])).mean())


def _happens(share: float, rng: np.random.Generator) -> bool:
    """Draws nothing where `share` is 0."""
    return share > 0 and bool(rng.random() < share)
