"""The 23 shape families of the embedded rooms: closed unions of primitives, foot at z=0, one high.

A shape faces -x (towards the camera of a room that it is put into unturned) where it has a front.
"""

from collections.abc import Callable

import numpy as np

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

_LATHES: dict[str, tuple[tuple[float, float], ...]] = {  # (radius, z) from below to above
    "bin": ((0.28, 0), (0.40, 0.86), (0.44, 0.86), (0.44, 0.95), (0.2, 1.0)),
    "vase": ((0.18, 0), (0.24, 0.05), (0.40, 0.38), (0.34, 0.62), (0.14, 0.82), (0.24, 1.0)),
    "bottle": ((0.22, 0), (0.23, 0.05), (0.23, 0.58), (0.09, 0.74), (0.08, 0.94), (0.10, 1.0)),
    "pawn": ((0.30, 0), (0.30, 0.10), (0.16, 0.18), (0.12, 0.55), (0.22, 0.62), (0.12, 0.66)),
    "candle": ((0.34, 0), (0.34, 0.10), (0.16, 0.12), (0.16, 0.78), (0.03, 0.80), (0.10, 0.88), (0.0, 1.0)),
    "kettle": ((0.44, 0), (0.52, 0.25), (0.42, 0.55), (0.20, 0.66), (0.05, 0.68), (0.05, 0.74), (0.0, 0.74)),
}


def build(shape: str) -> Mesh:
    """The mesh of a shape family; ids 0."""
    return _BUILDERS[shape]() if shape in _BUILDERS else _turned(shape)


def _turned(shape: str) -> Mesh:
    body = lathe(np.array(_LATHES[shape]), 20)
    if shape == "pawn":
        return join([body, ball(0.20, 12).moved(z=0.80)])
    if shape == "kettle":
        handle = ring(circle_outline(0.42, 20), circle_outline(0.33, 20), -0.05, 0.05)
        return join([body, handle.moved(z=0.58)])
    return body


def _boxes(*corners: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Mesh:
    return join([box(low, high) for low, high in corners])


def _legs(x: float, y: float, thickness: float, top: float) -> Mesh:
    """Four legs whose outer corners are at +-x, +-y."""
    half = thickness / 2
    middles = [(i * (x - half), j * (y - half)) for i in (-1, 1) for j in (-1, 1)]
    return _boxes(*(((a - half, b - half, 0), (a + half, b + half, top)) for a, b in middles))


def _screen() -> Mesh:
    return _boxes(
        ((-0.05, -0.75, 0.22), (0.07, 0.75, 1.0)),
        ((-0.03, -0.08, 0.05), (0.05, 0.08, 0.25)),
        ((-0.20, -0.35, 0), (0.20, 0.35, 0.07)),
    )


def _settee() -> Mesh:
    return _boxes(
        ((-0.50, -0.80, 0), (0.45, 0.80, 0.48)),
        ((0.20, -0.80, 0.3), (0.50, 0.80, 1.0)),
        ((-0.50, -0.85, 0.1), (0.45, -0.62, 0.72)),
        ((-0.50, 0.62, 0.1), (0.45, 0.85, 0.72)),
    )


def _plant() -> Mesh:
    pot = lathe(np.array([[0.16, 0], [0.24, 0.30], [0.20, 0.32]]), 14)
    leaves = [
        ball(r, 10).moved(x, y, z)
        for r, x, y, z in (
            (0.26, 0.0, 0.0, 0.74),
            (0.2, 0.16, 0.1, 0.52),
            (0.2, -0.14, 0.14, 0.55),
            (0.2, -0.04, -0.2, 0.5),
        )
    ]
    return join([pot, column(0.05, 0.25, 0.6, 8), *leaves])


def _shelves() -> Mesh:
    boards = [((-0.18, -0.36, z), (0.18, 0.36, z + 0.06)) for z in (0.0, 0.31, 0.62, 0.94)]
    sides = [((-0.18, y - 0.03, 0), (0.18, y + 0.03, 1.0)) for y in (-0.35, 0.35)]
    books = [((-0.10, -0.34, z), (0.17, 0.12, z + 0.22)) for z in (0.05, 0.36, 0.67)]
    return _boxes(*boards, *sides, ((0.13, -0.36, 0), (0.19, 0.36, 1.0)), *books)


def _loaf() -> Mesh:
    end = arch_outline(1.0, 1.0, pointed=0.0, points=10)
    return prism(end, -0.85, 0.85)


def _chest() -> Mesh:
    drawers = [((-0.40, -0.50, z), (-0.30, 0.50, z + 0.22)) for z in (0.16, 0.43, 0.70)]
    return join([_boxes(((-0.33, -0.56, 0.1), (0.33, 0.56, 1.0)), *drawers), _legs(0.33, 0.56, 0.12, 0.15)])


def _dumbbell() -> Mesh:
    bar = column(0.16, -0.8, 0.8, 10).turned(np.pi / 2, (1, 0, 0))
    weights = [column(0.5, y - 0.22, y + 0.22, 12).turned(np.pi / 2, (1, 0, 0)) for y in (-0.75, 0.75)]
    return join([bar, *weights]).moved(z=0.5)


def _cabinet() -> Mesh:
    return _boxes(
        ((-0.27, -0.31, 0), (0.29, 0.31, 1.0)),
        ((-0.32, -0.29, 0.04), (-0.25, 0.29, 0.60)),
        ((-0.32, -0.29, 0.64), (-0.25, 0.29, 0.97)),
        ((-0.37, 0.18, 0.35), (-0.30, 0.23, 0.80)),
    )


def _table() -> Mesh:
    return join([_boxes(((-0.75, -1.0, 0.88), (0.75, 1.0, 1.0))), _legs(0.68, 0.92, 0.14, 0.9)])


def _chair() -> Mesh:
    seat = _boxes(((-0.28, -0.28, 0.42), (0.28, 0.28, 0.52)), ((0.19, -0.28, 0.5), (0.28, 0.28, 1.0)))
    return join([seat, _legs(0.27, 0.27, 0.09, 0.45)])


def _lamp() -> Mesh:
    shade = lathe(np.array([[0.28, 0.66], [0.15, 1.0]]), 16)
    return join([column(0.22, 0, 0.06, 16), column(0.045, 0.03, 0.7, 8), shade])


def _crate() -> Mesh:
    lid = ((-0.58, -0.58, 0.84), (0.58, 0.58, 1.0))
    return _boxes(((-0.52, -0.52, 0), (0.52, 0.52, 0.9)), lid)


def _bed() -> Mesh:
    return join(
        [
            _boxes(
                ((-1.0, -0.7, 0.2), (0.85, 0.7, 0.58)),
                ((0.80, -0.75, 0.1), (0.95, 0.75, 1.0)),
                ((0.35, -0.5, 0.5), (0.75, 0.5, 0.72)),
            ),
            _legs(0.9, 0.66, 0.14, 0.25),
        ]
    )


def _stool() -> Mesh:
    legs = [column(0.06, 0, 0.85, 8).moved(0.30 * np.cos(a), 0.30 * np.sin(a)) for a in (0.3, 2.4, 4.5)]
    return join([column(0.46, 0.80, 1.0, 18), *legs])


def _bear() -> Mesh:
    blobs = (
        (0.28, 0.0, 0.0, 0.30),
        (0.21, -0.02, 0.0, 0.72),
        (0.08, 0.0, 0.15, 0.92),
        (0.08, 0.0, -0.15, 0.92),
        (0.10, -0.14, 0.28, 0.42),
        (0.10, -0.14, -0.28, 0.42),
        (0.12, -0.26, 0.16, 0.12),
        (0.12, -0.26, -0.16, 0.12),
        (0.09, -0.20, 0.0, 0.68),
    )
    return join([ball(r, 12).moved(x, y, z) for r, x, y, z in blobs])


_BUILDERS: dict[str, Callable[[], Mesh]] = {
    "screen": _screen,
    "settee": _settee,
    "plant": _plant,
    "shelves": _shelves,
    "cushion": lambda: ball(0.5, 14).scaled(1.9, 2.2, 1.0).moved(z=0.5),
    "loaf": _loaf,
    "chest": _chest,
    "dumbbell": _dumbbell,
    "cabinet": _cabinet,
    "table": _table,
    "chair": _chair,
    "lamp": _lamp,
    "crate": _crate,
    "bed": _bed,
    "stool": _stool,
    "ball": lambda: ball(0.5, 18).moved(z=0.5),
    "bear": _bear,
}
SHAPES = tuple(sorted({*_BUILDERS, *_LATHES}))
