"""Colours of the embedded cathedrals: stone in courses, glass, roofs, doors; each landmark draws its own."""

import numpy as np

from shared.scene_textures import courses, hashed, noise, plain
from shared.scenes import Material

MATERIALS = (
    "stone",
    "trim",
    "chapel",
    "relief",
    "figure",
    "glass",
    "door",
    "dark",
    "roof",
    "dome",
    "tiles",
    "house",
    "ground",
    "bark",
    "leaves",
    "cloth",
    "cloth2",
)
_STONES = np.array(
    [
        [0.72, 0.64, 0.50],  # limestone
        [0.62, 0.44, 0.36],  # red sandstone
        [0.55, 0.54, 0.52],  # grey granite
        [0.80, 0.77, 0.70],  # white
        [0.58, 0.36, 0.27],  # brick
        [0.40, 0.37, 0.33],  # sooty
        [0.70, 0.58, 0.38],  # ochre
    ]
)
_ROOFS = np.array([[0.24, 0.26, 0.30], [0.52, 0.25, 0.17], [0.33, 0.50, 0.43], [0.36, 0.33, 0.30]])
_FIGURES = np.array([[0.78, 0.76, 0.72], [0.25, 0.30, 0.25], [0.50, 0.48, 0.44]])
_GROUNDS = np.array([[0.42, 0.40, 0.37], [0.30, 0.38, 0.20], [0.52, 0.47, 0.40]])


def materials(rng: np.random.Generator) -> list[Material]:
    """The materials of one landmark in the order of MATERIALS."""
    seed = int(rng.integers(1 << 16)) % 7  # of the courses

    def pick(table: np.ndarray, spread: float = 0.08) -> np.ndarray:
        return np.clip(table[rng.integers(len(table))] * rng.uniform(1 - spread, 1 + spread, 3), 0.03, 0.95)

    stone = pick(_STONES)
    trim = np.clip(stone * rng.uniform(0.85, 1.25), 0.05, 0.92)
    height, length = rng.uniform(0.4, 0.9), rng.uniform(0.9, 2.0)
    figure = pick(_FIGURES) if rng.random() < 0.7 else trim
    roof = pick(_ROOFS)
    colours: dict[str, Material] = {
        "stone": courses(stone, height=height, length=length, seed=seed),
        "trim": plain(trim, cell=1.5, contrast=0.1),
        "chapel": courses(
            pick(_STONES) if rng.random() < 0.6 else stone, height=height, length=length, seed=seed
        ),
        "relief": plain(stone * 0.9, cell=0.45, contrast=0.3),
        "figure": plain(figure, cell=0.6, contrast=0.12),
        "glass": _glass(rng),
        "door": _planks(rng.uniform([0.2, 0.1, 0.05], [0.45, 0.28, 0.16])),
        "dark": plain(np.full(3, 0.06)),
        "roof": courses(roof, height=0.5, length=0.6, joint=0.12, seed=3),
        "dome": courses(pick(_ROOFS), height=0.6, length=0.8, joint=0.1, seed=3),
        "tiles": courses(_ROOFS[1], height=0.5, length=0.5, joint=0.15),
        "house": plain(rng.uniform(0.4, 0.8, 3), cell=3.0),
        "ground": plain(pick(_GROUNDS), cell=3.0, contrast=0.15),
        "bark": plain(np.array([0.25, 0.18, 0.12])),
        "leaves": plain(rng.uniform([0.12, 0.25, 0.05], [0.3, 0.42, 0.14]), cell=0.8, contrast=0.35),
        "cloth": plain(rng.uniform(0.05, 0.8, 3)),
        "cloth2": plain(rng.uniform(0.05, 0.8, 3)),
    }
    return [colours[name] for name in MATERIALS]


def _glass(rng: np.random.Generator) -> Material:
    """Dark panes of many colours in lead."""
    size = rng.uniform(0.25, 0.5)
    colourful = rng.uniform(0.2, 1.0)
    base = rng.uniform([0.08, 0.10, 0.12], [0.16, 0.18, 0.24])

    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        along = np.where(np.abs(normals[:, 0]) > 0.7, points[:, 1], points[:, 0])
        cells = np.floor(along / size).astype(int), np.floor(points[:, 2] / size).astype(int)
        tint = np.stack([hashed(*cells, np.full(len(points), channel)) for channel in range(3)], 1)
        colour = base * (1 + colourful * (2.2 * tint - 0.8))
        lead = (along / size % 1 < 0.12) | (points[:, 2] / size % 1 < 0.12)
        return (np.clip(colour, 0.02, 0.6) * np.where(lead, 0.4, 1)[:, None]).astype(np.float32)

    return albedo


def _planks(colour: np.ndarray) -> Material:
    def albedo(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        grain = 1 + 0.15 * noise(points * np.array([4, 1, 0.5], np.float32), 1.0)
        gap = points[:, 0] / 0.3 % 1 < 0.12
        return np.clip(colour * (grain * np.where(gap, 0.5, 1))[:, None], 0, 1).astype(np.float32)

    return albedo
