"""How well the CLIP stand-in points at named things: is the highest place of a name's map on the thing?"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from projects.semabs import mini_rooms
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.mini_names import NAMES, NOVEL_NAMES, SYNONYMS

_SEEN = 40  # pixels, at least, of a thing that is asked for
_SIZES = {"small": (0, 100), "middle": (100, 300), "large": (300, 10**9)}  # pixels of 128 x 128


def pointing(
    extractors: Mapping[str, RelevancyExtractor],
    *,
    pictures: int,
    labels: int,
    prompts: Sequence[str],
    seed: int,
    side: int = 224,
) -> dict[str, dict[str, float]]:
    """Percent of names whose map (minus the mean map of the picture's labels) is highest within their thing.

    `pictures` rooms that nothing was trained on, `labels` names asked of each, those that are there and others.
    Per extractor: train, novel, synonyms (in the place of their names), small/middle/large, chance, n_*.
    """
    hits: dict[str, dict[str, list[bool]]] = {name: {} for name in extractors}
    chances: dict[str, list[float]] = {}
    for rgb, masks, asked in _rooms(pictures, labels, seed, side):
        for name, extractor in extractors.items():
            found = extractor.maps(rgb, asked, prompts).numpy()
            maps = found - found.mean(0)
            for label, mask in masks.items():
                row, column = np.unravel_index(maps[asked.index(label)].argmax(), mask.shape)
                for group in _groups(label, mask):
                    hits[name].setdefault(group, []).append(bool(mask[row, column]))
                    if name == next(iter(extractors)):
                        chances.setdefault(group, []).append(float(mask.mean()))
    shares = {name: _percent(groups) for name, groups in hits.items()}
    return {**shares, "chance": _percent(chances), "n": {group: len(one) for group, one in chances.items()}}


def _rooms(
    pictures: int, labels: int, seed: int, side: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray], list[str]]]:
    """Rooms with the masks of what is asked for, once under its names and once under synonyms."""
    for number in range(pictures):
        rng = np.random.default_rng([seed, 40, number])
        rgb, ids = mini_rooms.picture(rng, side=side)
        there = [NAMES[index] for index in np.unique(ids[ids >= 0])]
        absent = rng.permutation([name for name in NAMES if name not in there]).tolist()
        asked = [*there, *absent[: max(0, labels - len(there))]]
        masks = {name: ids == NAMES.index(name) for name in there}
        masks = {name: mask for name, mask in masks.items() if mask.sum() >= _SEEN}
        yield rgb, masks, asked
        other = {SYNONYMS[name]: mask for name, mask in masks.items() if name in SYNONYMS}
        if other:
            yield rgb, other, [SYNONYMS.get(name, name) for name in asked]


def _groups(label: str, mask: np.ndarray) -> list[str]:
    if label in SYNONYMS.values():
        return ["synonyms"]
    pixels = mask.mean() * 128**2
    size = next(name for name, (low, high) in _SIZES.items() if low <= pixels < high)
    return ["novel" if label in NOVEL_NAMES else "train", size]


def _percent(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {group: 100 * float(np.mean(one)) for group, one in groups.items()}
