"""Names of the things in the embedded rooms, and what each name looks like: shape, pattern, two colours, height.

A name means an arbitrary combination, as words do; the six novel names never occur in a training room.
"""

from dataclasses import dataclass

from projects.semabs import vocabulary
from projects.semabs.vocabulary import NOVEL_CLASSES

COLOURS: dict[str, tuple[float, float, float]] = {  # linear
    "red": (0.70, 0.04, 0.04),
    "orange": (0.85, 0.30, 0.02),
    "yellow": (0.85, 0.70, 0.04),
    "lime": (0.38, 0.80, 0.05),
    "green": (0.03, 0.30, 0.07),
    "cyan": (0.05, 0.65, 0.70),
    "blue": (0.03, 0.08, 0.60),
    "purple": (0.28, 0.04, 0.48),
    "pink": (0.90, 0.28, 0.50),
    "brown": (0.24, 0.10, 0.03),
    "white": (0.90, 0.90, 0.90),
    "black": (0.02, 0.02, 0.02),
}
PATTERNS = ("solid", "bands", "stripes", "checker", "two tone", "dots")


@dataclass(frozen=True)
class Kind:
    """What a name means: a shape of mini_shapes, a pattern, two colours, the height in metres.

    `carries`: small things lie on it; `holds`: they are hidden in it; `small`: it can be carried or held.
    """

    name: str
    shape: str
    pattern: str
    colours: tuple[str, str]
    height: float
    carries: bool = False
    holds: bool = False
    small: bool = False
    material: str = ""


KINDS = (
    Kind("television", "screen", "two tone", ("cyan", "black"), 0.38, material="Glass"),
    Kind("sofa", "settee", "stripes", ("red", "white"), 0.40, material="Fabric"),
    Kind("house plant", "plant", "two tone", ("green", "brown"), 0.54, material="Organic"),
    Kind("bookcase", "shelves", "bands", ("brown", "yellow"), 0.62, material="Wood"),
    Kind("pillow", "cushion", "checker", ("pink", "white"), 0.14, small=True, material="Fabric"),
    Kind("arm chair", "settee", "dots", ("blue", "yellow"), 0.42, material="Fabric"),
    Kind("bread", "loaf", "stripes", ("orange", "brown"), 0.15, small=True, material="Food"),
    Kind("dresser", "chest", "checker", ("purple", "white"), 0.48, material="Wood"),
    Kind("dumbbell", "dumbbell", "two tone", ("lime", "black"), 0.16, small=True, material="Metal"),
    Kind("fridge", "cabinet", "two tone", ("white", "cyan"), 0.62, holds=True, material="Metal"),
    Kind("garbage can", "bin", "bands", ("lime", "purple"), 0.40, material="Plastic"),
    Kind("dining table", "table", "solid", ("brown", "brown"), 0.36, carries=True, material="Wood"),
    Kind("chair", "chair", "bands", ("yellow", "red"), 0.50, material="Wood"),
    Kind("floor lamp", "lamp", "two tone", ("yellow", "purple"), 0.62, material="Metal"),
    Kind("vase", "vase", "checker", ("blue", "lime"), 0.34, material="Ceramic"),
    Kind("box", "crate", "dots", ("orange", "blue"), 0.34, holds=True, material="Paper"),
    Kind("bed", "bed", "checker", ("red", "blue"), 0.34, material="Fabric"),
    Kind("stool", "stool", "two tone", ("pink", "green"), 0.34, material="Wood"),
    Kind("apple", "ball", "solid", ("red", "red"), 0.15, small=True, material="Food"),
    Kind("candle", "candle", "bands", ("white", "orange"), 0.22, small=True, material="Wax"),
    Kind("statue", "pawn", "stripes", ("cyan", "purple"), 0.50, material="Stone"),
    Kind("kettle", "kettle", "dots", ("red", "black"), 0.24, small=True, material="Metal"),
    Kind("pot", "kettle", "bands", ("cyan", "orange"), 0.22, small=True, material="Metal"),
    Kind("mug", "bin", "dots", ("white", "green"), 0.17, small=True, material="Ceramic"),
    Kind("safe", "crate", "checker", ("black", "yellow"), 0.36, holds=True, material="Metal"),
    Kind("teddy bear", "bear", "two tone", ("brown", "pink"), 0.38, material="Fabric"),
    Kind("basket ball", "ball", "stripes", ("orange", "black"), 0.26, material="Rubber"),
    Kind("wine bottle", "bottle", "two tone", ("green", "purple"), 0.32, material="Glass"),
)
NAMES = tuple(kind.name for kind in KINDS)
NOVEL_NAMES = NOVEL_CLASSES
TRAIN_NAMES = tuple(name for name in NAMES if name not in NOVEL_NAMES)
KIND = {kind.name: kind for kind in KINDS}
SYNONYMS = {name: vocabulary.SYNONYMS[name] for name in TRAIN_NAMES if name in vocabulary.SYNONYMS}
