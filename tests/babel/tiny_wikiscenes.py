"""A tiny set in the layout of WikiScenes without a renderer: photos are windows of a drawn wall per landmark."""

from pathlib import Path

import numpy as np
from PIL import Image

from projects.babel.splits import Row, write_split
from shared.files import write_json

CONCEPTS = ("facade", "window", "tower")
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))
SIDE = 120  # of a wall
POINTS = 60  # on a wall


def make_set(root: Path, *, train: int = 3, unseen: int = 2, views: int = 6, seed: int = 0) -> Path:
    """Split files train.txt, val_easy.txt and val.txt, correspondence.json and the photos; returns `root`.

    Args:
        root: the folder.
        train, unseen: landmarks of train.txt (the last view of each is in val_easy.txt) and of val.txt.
        views: photos of a landmark.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Row]] = {"train": [], "val_easy": [], "val": []}
    keypoints: dict[str, dict[str, list[float]]] = {}
    for landmark in range(train + unseen):
        wall, points = draw_wall(rng)
        for view in range(views):
            concept = (landmark + view) % len(CONCEPTS)
            suffix = ("jpg", "PNG")[view % 2]
            name = f"{landmark}/{view % 3}/pictures/Façade {view} (b).{suffix}"
            box = window(rng, concept)
            path = root / "WikiScenes/cathedrals" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            top, left, height, width = box
            Image.fromarray(wall[top : top + height, left : left + width]).save(path)
            split = "val" if landmark >= train else "val_easy" if view == views - 1 else "train"
            labels = (CONCEPTS[concept], *((CONCEPTS[concept - 1],) if view == 1 else ()))
            row = Row(
                f"WikiScenes/cathedrals/{name}", labels, f"photo {view}, of {landmark}", "Outside, West"
            )
            rows[split].append(row)
            places = (points - (top, left)) / (height, width)
            seen: np.ndarray = np.all((places >= 0) & (places <= 1), axis=1)
            found = {f"{landmark}_{k}": places[k, ::-1].round(6).tolist() for k in seen.nonzero()[0].tolist()}
            if view != 2:  # one photo of each landmark is in no reconstruction
                keypoints[name] = found
    for split, lines in rows.items():
        write_split(root / f"{split}.txt", lines)
    write_json(root / "correspondence.json", keypoints)
    return root


def draw_wall(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [SIDE, SIDE, 3] with a coloured stripe per concept and texture, and points [POINTS, 2] (row, column)."""
    wall = rng.integers(90, 150, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
    for concept, colour in enumerate(COLOURS):
        left = 10 + 36 * concept
        wall[20:100, left : left + 24] = colour + rng.integers(-40, 40, (80, 24, 1))
    return wall.clip(0, 255).astype(np.uint8), rng.uniform(0, SIDE, (POINTS, 2))


def window(rng: np.random.Generator, concept: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a photo that is aimed at a concept."""
    height, width = int(rng.integers(60, 80)), int(rng.integers(60, 80))
    left = int(np.clip(22 + 36 * concept - width // 2 + rng.integers(-8, 8), 0, SIDE - width))
    return int(rng.integers(0, SIDE - height)), left, height, width
