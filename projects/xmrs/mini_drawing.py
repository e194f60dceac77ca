"""Photos of the mini-kitchen's dishes, drawn with OpenCV; everything the recipe does not say is left to chance."""

import cv2
import numpy as np

from projects.xmrs.mini_world import Dish

Colour = tuple[int, int, int]

# Twelve colours, two ingredients each: pieces of the first are round, of the second long.
PIECES: tuple[Colour, ...] = (
    (205, 35, 35),
    (240, 130, 25),
    (245, 215, 50),
    (160, 215, 70),
    (30, 110, 45),
    (40, 160, 150),
    (60, 80, 190),
    (115, 30, 120),
    (245, 150, 175),
    (125, 75, 40),
    (30, 28, 32),
    (250, 248, 240),
)
BASES: tuple[Colour, ...] = (
    (242, 238, 228),
    (243, 208, 105),
    (180, 115, 55),
    (228, 185, 160),
    (225, 155, 75),
    (105, 60, 40),
    (165, 162, 160),
    (165, 205, 100),
)
VESSELS: tuple[Colour, ...] = (
    (250, 250, 250),
    (70, 110, 190),
    (55, 55, 60),
    (165, 170, 175),
    (170, 115, 65),
    (190, 60, 50),
)
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_ONE = 1 << _SHIFT


def draw_photo(dish: Dish, rng: np.random.Generator, side: int = 80) -> np.ndarray:
    """One photo of the dish, [side, side, 3] uint8 RGB; place, size, turn, light, table and clutter vary."""
    scale = side / 96
    image = _table(rng, side, scale)
    centre = np.array([side / 2, side / 2]) + rng.uniform(-4, 4, 2) * scale
    radius = rng.uniform(36, 42) * scale
    turn = rng.uniform(0, 2 * np.pi)
    _draw_vessel(image, dish.vessel, centre, radius, turn)
    _draw_base(image, dish.base, centre, 0.84 * radius, rng)
    first, second, *others = dish.ingredients
    for place, number in enumerate(others):
        angle = turn + (place + 0.5) * np.pi + rng.uniform(-0.3, 0.3)
        where = centre + 0.76 * radius * np.array([np.cos(angle), np.sin(angle)])
        _draw_pieces(image, number, _heap(where, 0.18 * radius, 7, rng), rng, scale)
    _draw_pieces(image, second, _ring(centre, 0.5 * radius, 14, rng), rng, scale)
    _draw_pieces(image, first, _heap(centre, 0.17 * radius, 9, rng), rng, scale)
    _draw_finish(image, dish.finish, centre, 0.72 * radius, rng, scale)
    return _light(image, rng)


def _table(rng: np.random.Generator, side: int, scale: float) -> np.ndarray:
    """A greyish table with a pattern of planks and some clutter at its border."""
    colour = rng.uniform(90, 210) + rng.uniform(-25, 25, 3)
    image = np.empty((side, side, 3), np.uint8)
    image[:] = np.clip(colour, 0, 255)
    for start in range(int(rng.integers(8)), side, int(rng.integers(12, 30))):
        ends = ((start, 0), (start, side)) if colour[0] > 150 else ((0, start), (side, start))
        cv2.line(image, *ends, tuple(0.88 * colour), 1, cv2.LINE_AA)
    for _ in range(int(rng.integers(4))):
        angle = rng.uniform(0, 2 * np.pi)
        where = side / 2 * (1 + 1.15 * np.array([np.cos(angle), np.sin(angle)]))
        _disc(image, where, rng.uniform(4, 10) * scale, _vary(PIECES[rng.integers(len(PIECES))], rng, 40))
    return image


def _draw_vessel(image: np.ndarray, vessel: int, centre: np.ndarray, radius: float, turn: float) -> None:
    colour = VESSELS[vessel]
    rim = _mixed(colour, 0.75)
    if vessel in (3, 4):  # tray, board: angular
        half = np.array([1.12, 0.95 if vessel == 3 else 1.12]) * radius
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        tilt = 0.15 * np.sin(turn)
        turned = corners @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        cv2.fillPoly(image, [_fixed(centre + turned)], colour, cv2.LINE_AA, _SHIFT)
        cv2.polylines(image, [_fixed(centre + turned)], True, rim, 2, cv2.LINE_AA, _SHIFT)
        return
    if vessel in (2, 5):  # pan: one handle; pot: two
        for direction in (turn,) if vessel == 2 else (turn, turn + np.pi):
            end = centre + 1.5 * radius * np.array([np.cos(direction), np.sin(direction)])
            cv2.line(image, _point(centre), _point(end), rim, 6 if vessel == 2 else 12, cv2.LINE_AA, _SHIFT)
    _disc(image, centre, radius, rim)
    _disc(image, centre, (0.96 if vessel in (0, 2) else 0.9) * radius, colour)


def _draw_base(
    image: np.ndarray, base: int, centre: np.ndarray, radius: float, rng: np.random.Generator
) -> None:
    """The bed of food: its colour, with grains (even bases) or strands (odd ones)."""
    colour = _vary(BASES[base], rng, 8)
    _disc(image, centre, radius, colour)
    darker = _mixed(colour, 0.8)
    for point in _heap(centre, 0.9 * radius, 40, rng):
        if base % 2:
            end = point + rng.uniform(-5, 5, 2) * radius / 30
            cv2.line(image, _point(point), _point(end), darker, 1, cv2.LINE_AA, _SHIFT)
        else:
            _disc(image, point, radius / 28, darker)


def _draw_pieces(
    image: np.ndarray, ingredient: int, points: np.ndarray, rng: np.random.Generator, scale: float
) -> None:
    """Pieces of an ingredient at `points` [n, 2]: discs with a dark edge, or sticks with a pale one."""
    long = ingredient % 2
    for point in points:
        colour = _vary(PIECES[ingredient // 2], rng, 10)
        if long:
            edge = _mixed(colour, 0.35, towards=255)
            angle = rng.uniform(0, np.pi)
            arm = rng.uniform(5, 6.5) * scale * np.array([np.cos(angle), np.sin(angle)])
            for width, ink in ((6, edge), (3, colour)):
                thickness = max(1, round(width * scale))
                cv2.line(image, _point(point - arm), _point(point + arm), ink, thickness, cv2.LINE_AA, _SHIFT)
        else:
            size = rng.uniform(5, 6) * scale
            _disc(image, point, size, _mixed(colour, 0.45))
            _disc(image, point, size - 1.3 * scale, colour)


def _draw_finish(
    image: np.ndarray,
    finish: int,
    centre: np.ndarray,
    radius: float,
    rng: np.random.Generator,
    scale: float,
) -> None:
    """Fresh: nothing. Browned: dark specks. Melted: pale strings over everything."""
    if finish == 1:
        for point in _heap(centre, radius, 45, rng):
            _disc(image, point, rng.uniform(0.8, 1.7) * scale, (70, 40, 20))
    elif finish == 2:
        overlay = image.copy()
        for start in _heap(centre, 0.8 * radius, 5, rng):
            path = start + np.cumsum(rng.normal(0, 4.5 * scale, (6, 2)), axis=0)
            cv2.polylines(
                overlay, [_fixed(path)], False, (255, 225, 120), max(1, round(2 * scale)), cv2.LINE_AA, _SHIFT
            )
        cv2.addWeighted(overlay, 0.6, image, 0.4, 0, dst=image)


def _light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, colour cast and noise of a photo."""
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)
    noise = rng.normal(0, 4, image.shape)
    return np.clip(image * gain + noise, 0, 255).astype(np.uint8)


def _heap(centre: np.ndarray, radius: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points spread evenly over a disc, [count, 2]."""
    angles = rng.uniform(0, 2 * np.pi, count)
    distances = radius * np.sqrt(rng.uniform(0, 1, count))
    return centre + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ring(centre: np.ndarray, radius: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points around a centre, [count, 2]."""
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count + rng.uniform(0, 1)
    distances = radius * rng.uniform(0.85, 1.15, count)
    return centre + distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _disc(image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    cv2.circle(image, _point(centre), max(1, round(radius * _ONE)), colour, -1, cv2.LINE_AA, _SHIFT)


def _fixed(points: np.ndarray) -> np.ndarray:
    """OpenCV's fixed-point coordinates."""
    return np.round(np.asarray(points) * _ONE).astype(np.int32)


def _point(point: np.ndarray) -> tuple[int, int]:
    x, y = _fixed(point)
    return int(x), int(y)


def _mixed(colour: Colour, share: float, towards: int = 0) -> Colour:
    """The colour with the rest of `share` black (or another grey)."""
    red, green, blue = (int(share * part + (1 - share) * towards) for part in colour)
    return red, green, blue


def _vary(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 0, 255)
    return int(red), int(green), int(blue)
