"""The ten concepts of WikiScenes, in the order of their class ids, and what a list of concepts must be."""

from collections.abc import Sequence

from shared.errors import InputError

CONCEPTS = (
    "facade",
    "window",
    "chapel",
    "organ",
    "nave",
    "tower",
    "choir",
    "portal",
    "altar",
    "statue",
)  # class id = position + 1; 0 is the background
_NOT_IN_NAMES = set("[]'\",:") | set(" \t\r\n")  # a split file's labels are separated by these


def check_concepts(concepts: Sequence[str]) -> tuple[str, ...]:
    """The list as a tuple. InputError: none, one twice, one that a split file could not hold."""
    if isinstance(concepts, str):
        raise InputError(f"concepts: expected a list like [facade,window], found {concepts!r}")
    names = tuple(concepts)
    if not names:
        raise InputError("concepts: expected at least one name, found none")
    for name in names:
        if not isinstance(name, str) or not name or _NOT_IN_NAMES & set(name):
            raise InputError(
                f"concepts: expected words without blanks, colons, quotes and brackets, found {name!r}"
            )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"concepts: {repeated[0]!r} is there twice")
    return names
