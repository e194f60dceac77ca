"""From category names and captions to labels: the rules that the released split files follow.

The class of a picture is the concept that its leaf category names; else the one that its caption names; else the one
of the nearest category above that names any. Where a text names several, the first counts. Further labels are the
concepts of all its categories, the leaf's first, never those of the caption alone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from projects.babel.concept_words import ConceptWords
from projects.babel.splits import Row
from projects.babel.tree import Picture

SOURCES = ("leaf", "caption", "ancestor")


@dataclass
class Tally:
    """How many pictures were looked at, what gave them their class, and why others got none."""

    pictures: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, int]:
        """Counts by name, for a report."""
        named = {f"class from the {source}": self.sources[source] for source in SOURCES}
        return {
            "pictures": self.pictures,
            **named,
            **{f"left out: {why}": n for why, n in sorted(self.skipped.items())},
        }


def labels_of(
    categories: Sequence[str], caption: str, words: ConceptWords, language: str | None = None
) -> tuple[tuple[str, ...], str]:
    """(labels, the class first; what gave the class: one of SOURCES). ((), "") where no text names a concept.

    categories: names from below the landmark to the leaf, taken as English. language: the caption's, None: unknown.
    """
    named = [words.mentions(name) for name in reversed(categories)]  # the leaf first
    leaf = named[0] if named else []
    told = words.mentions(caption, language)
    above = next((level for level in named if level), [])
    if leaf:
        first, source = leaf[0], "leaf"
    elif told:
        first, source = told[0], "caption"
    elif above:
        first, source = above[0], "ancestor"
    else:
        return (), ""
    return tuple(dict.fromkeys([first, *(concept for level in named for concept in level)])), source


def distil(pictures: Iterable[Picture], words: ConceptWords, tally: Tally | None = None) -> Iterator[Row]:
    """The rows of those pictures whose texts name a concept, in the order of the pictures.

    A picture that is in several categories of a landmark counts once, in the first; one without a category below its
    landmark, or with a colon or a line break in its path (no split file could hold it), is left out. What was left
    out is counted in `tally`.
    """
    tally = Tally() if tally is None else tally
    seen: set[tuple[str, str]] = set()
    for picture in pictures:
        tally.pictures += 1
        key = (picture.landmark, PurePosixPath(picture.path).name)
        if not picture.categories:
            tally.skipped["in no category below the landmark"] += 1
            continue
        if any(sign in picture.path for sign in ":\r\n"):
            tally.skipped["a colon or a line break in the path"] += 1
            continue
        labels, source = labels_of(picture.categories, picture.caption, words, picture.language)
        if not labels:
            tally.skipped["no concept named"] += 1
        elif key in seen:
            tally.skipped["in another category already"] += 1
        else:
            seen.add(key)
            tally.sources[source] += 1
            yield Row(picture.path, labels, picture.caption, ", ".join(picture.categories))
