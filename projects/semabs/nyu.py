"""The 11 classes of the NYU benchmark from the many names of NYUv2's objects. OURS: the release lacks the merge.

The authors report NYU in 11 classes and in a grid of 60 voxels per axis, but their merge of the 894 names was not
published. Here a name goes to the class that lists it, or that lists its last words ("wooden coffee table" is a
table); any other name is one of "objs". A class occupies what any of its names does, and its logit is the highest
of theirs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

CLASSES = ("ceiling", "floor", "wall", "window", "chair", "bed", "sofa", "table", "tvs", "furn", "objs")
VOXELS = 60
OTHER = "objs"
_NAMES = {
    "ceiling": ("ceiling",),
    "floor": ("floor", "rug", "floor mat", "carpet"),
    "wall": ("wall", "column", "pillar", "wall decoration"),
    "window": ("window", "blinds", "blind", "curtain", "window frame", "window shelf"),
    "chair": ("chair", "stool", "bench", "armchair", "arm chair", "seat"),
    "bed": ("bed", "mattress", "bunk bed", "crib"),
    "sofa": ("sofa", "couch", "loveseat", "sectional"),
    "table": ("table", "desk", "counter", "coffee table", "kitchen island", "countertop"),
    "tvs": ("tvs", "tv", "television", "monitor", "screen", "laptop"),
    "furn": (
        *(
            "furn",
            "furniture",
            "cabinet",
            "cabinets",
            "dresser",
            "wardrobe",
            "bookshelf",
            "bookcase",
            "shelf",
        ),
        *(
            "shelves",
            "night stand",
            "nightstand",
            "drawer",
            "drawers",
            "chest",
            "stand",
            "cupboard",
            "closet",
        ),
        *("ottoman", "refrigerator", "fridge", "piano", "bookrack", "rack"),
    ),
}
_CLASS_OF = {name: kind for kind, names in _NAMES.items() for name in names}


def merged_class(name: str) -> str:
    """The benchmark's class of an object's name."""
    words = name.lower().replace("-", " ").replace("_", " ").split()
    for start in range(len(words)):
        found = _CLASS_OF.get(" ".join(words[start:]))
        if found is not None:
            return found
    return OTHER


def merge(
    names: Sequence[str], logits: Tensor, labels: Tensor, ignored: Tensor
) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """(classes [Q], logits, labels, ignored points [1, Q, N]) of the patches [1, P, N]; padded patches fall away.

    The classes are those that occur, in the benchmark's order; without any, one padded patch is left.
    """
    members: dict[str, list[int]] = {}
    for patch, name in enumerate(names):
        if name:
            members.setdefault(merged_class(name), []).append(patch)
    classes = [name for name in CLASSES if name in members]
    if not classes:
        return [""], logits[:, :1], labels[:, :1], torch.ones_like(labels[:, :1], dtype=torch.bool)
    groups = [members[name] for name in classes]
    return (
        classes,
        torch.stack([logits[:, group].amax(1) for group in groups], dim=1),
        torch.stack([(labels[:, group] > 0).any(1) for group in groups], dim=1),
        torch.stack([ignored[:, group].any(1) for group in groups], dim=1),
    )
