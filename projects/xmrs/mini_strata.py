"""Which val and test recipes of the mini-kitchen hold rare words, and which are twins of each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from projects.xmrs.mini_text import Text
from projects.xmrs.mini_world import CONCEPTS, Dish
from projects.xmrs.recipe1m import PARTITIONS, Recipe

RARE = 3  # training recipes that hold a rare word, at most


@dataclass(frozen=True)
class Entry:
    """A recipe of the mini-kitchen and what it was made from; `images` are names of photos."""

    recipe: Recipe
    dish: Dish
    text: Text
    images: list[str]
    dish_class: int
    twin: str | None = None  # id of the recipe that it turns round


def strata(entries: Mapping[str, Sequence[Entry]]) -> dict[str, Any]:
    """{split: {"strata": {name: ids}, "twins": [[id, id], ...]}} for val and test.

    `rare`: recipes with a word that names a concept and stands in at most RARE training recipes; `common`: the
    others. Of the rare ones, `loan`: with a rare word taken from another language; `native`: without.
    """
    counts = Counter(word for entry in entries["train"] for word in entry.text.words)
    loans = {word for concepts in CONCEPTS.values() for concept in concepts for word in concept.loans}
    found: dict[str, Any] = {}
    for split in PARTITIONS[1:]:
        names: dict[str, list[str]] = {"rare": [], "common": [], "loan": [], "native": []}
        for entry in entries[split]:
            rare = {word for word in entry.text.words if counts[word] <= RARE}
            names["rare" if rare else "common"].append(entry.recipe.id)
            if rare:
                names["loan" if rare & loans else "native"].append(entry.recipe.id)
        twins = [[entry.twin, entry.recipe.id] for entry in entries[split] if entry.twin]
        found[split] = {"strata": names, "twins": twins}
    return found
