"""The embedded raw-image set: coloured shapes as JPEG files, with captions, in the released layout.

It exercises the grid route (CNN on pixels), the feature extractor and `infer.py`; nothing is claimed from it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from projects.vseinfty import mini
from shared.files import write_json
from shared.made_once import make_once

FORMAT = 1
COLOURS = {
    "red": (208, 40, 40),
    "green": (40, 150, 60),
    "blue": (40, 70, 200),
    "yellow": (235, 205, 45),
    "purple": (130, 50, 160),
    "orange": (240, 130, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SYNONYMS = {"circle": "disc", "square": "box", "triangle": "wedge", "cross": "plus", "ring": "hoop"}
GROUNDS = {"white": (244, 244, 240), "black": (24, 24, 28), "grey": (128, 128, 128)}
DEFAULTS = {"seed": 0, "train": 240, "dev": 60, "test": 60, "side": 96}
PLACES = (("left of", "right of"), ("above", "below"))  # of the first shape to the second, and the reverse


def ensure(
    root: Path | str,
    *,
    seed: int | None = None,
    train: int | None = None,
    dev: int | None = None,
    test: int | None = None,
    side: int | None = None,
) -> Path:
    """Make the picture set on first use, in one step; return `root`. Defaults, errors as in `mini.ensure`."""
    asked = {"format": FORMAT, "variant": "pictures", "seed": seed, "train": train, "dev": dev, "test": test}
    return make_once(Path(root), {**asked, "side": side}, DEFAULTS, _write)


def _write(folder: Path, settings: dict[str, Any]) -> None:
    from PIL import Image

    (folder / "precomp").mkdir()
    mapping: dict[str, str] = {}
    captions: dict[str, list[str]] = {}
    for number, split in enumerate(("train", "dev", "test")):
        rng = np.random.default_rng([settings["seed"], 100 + number])
        (folder / "images" / split).mkdir(parents=True)
        captions[split], ids = [], []
        for _ in range(settings[split]):
            identity = len(mapping)
            scene = _draw_scene(rng)
            relative = f"{split}/{identity:06d}.jpg"
            height, width = settings["side"] + rng.integers(33, size=2)
            Image.fromarray(_paint(scene, height, width)).save(folder / "images" / relative, quality=90)
            mapping[str(identity)] = relative
            ids.append(str(identity))
            captions[split] += [_describe(scene, rng) for _ in range(mini.CAPTIONS_PER_IMAGE)]
        mini.write_lines(folder / "precomp" / f"{split}_ids.txt", ids)
        mini.write_lines(folder / "precomp" / f"{split}_caps.txt", captions[split])
    write_json(folder / "id_mapping.json", mapping)
    mini.write_vocabulary(folder / "vocab" / mini.VOCABULARY, captions["train"] + captions["dev"])


Scene = tuple[
    str, list[tuple[str, str]], int
]  # ground, (colour, shape) of two things, 0: side by side, 1: stacked


def _draw_scene(rng: np.random.Generator) -> Scene:
    ground = list(GROUNDS)[rng.integers(len(GROUNDS))]
    colours = rng.choice(len(COLOURS), 2, replace=False)
    shapes = rng.integers(len(SHAPES), size=2)
    things = [(list(COLOURS)[c], SHAPES[s]) for c, s in zip(colours, shapes, strict=True)]
    return ground, things, int(rng.integers(2))


def _paint(scene: Scene, height: int, width: int) -> np.ndarray:
    """The scene as uint8 [height, width, 3]."""
    ground, things, stacked = scene
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = GROUNDS[ground]
    radius = 0.2 * min(height, width)
    for position, (colour, shape) in zip((0.27, 0.73), things, strict=True):
        centre = (position * height, 0.5 * width) if stacked else (0.5 * height, position * width)
        y, x = (np.mgrid[:height, :width] - np.reshape(centre, (2, 1, 1))) / radius
        inside = {
            "circle": x**2 + y**2 < 1,
            "square": np.maximum(abs(x), abs(y)) < 0.9,
            "triangle": (y < 0.9) & (y > 2 * abs(x) - 1),
            "cross": (np.maximum(abs(x), abs(y)) < 1) & (np.minimum(abs(x), abs(y)) < 0.3),
            "ring": (x**2 + y**2 < 1) & (x**2 + y**2 > 0.35),
        }[shape]
        picture[inside] = COLOURS[colour]
    return picture


def _describe(scene: Scene, rng: np.random.Generator) -> str:
    ground, things, stacked = scene
    names = []
    for colour, shape in things:
        article = "an" if colour == "orange" else "a"
        names.append(f"{article} {colour} {shape if rng.random() < 0.5 else SYNONYMS[shape]}")
    flip = int(rng.integers(2))
    place = PLACES[stacked][flip]
    sentence = f"{names[flip]} {place} {names[1 - flip]}"
    return sentence + (f" on a {ground} ground" if rng.random() < 0.6 else "")
