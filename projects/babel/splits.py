"""Split files of WikiScenes: one line per image, `path:labels:caption:tags`; lists of segmented images."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from projects.babel.concepts import CONCEPTS, check_concepts
from shared.errors import InputError
from shared.files import atomic_write, read_lines

CAPTION_LENGTH = 100  # characters that a split file keeps
_FIELDS = ("path", "labels", "caption", "tags")
_BREAKS = re.compile(r"[:\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # what would end a field or a line


@dataclass(frozen=True, slots=True)
class Row:
    """An image of a split: its path from the data root, its concepts (the first is the class), its texts.

    tags: the names of its categories, from the one below the landmark to the leaf, joined by ", ".
    """

    path: str
    labels: tuple[str, ...]
    caption: str
    tags: str


def read_split(path: str | Path, concepts: Sequence[str] | None = CONCEPTS) -> list[Row]:
    """The rows of a split file. concepts: the names that may be labels; None: any.

    InputError (with the line): not four fields, no label, an unknown one or one twice, an image twice, no row.
    """
    allowed = None if concepts is None else frozenset(check_concepts(concepts))
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        row = _row(line, f"{path}:{number}", allowed)
        first = seen.setdefault(row.path, number)
        if first != number:
            raise InputError(f"{path}:{number}: {row.path} is there twice (line {first})")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: expected lines path:labels:caption:tags, found none")
    return rows


def write_split(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows atomically so that the released parser reads them; the number of rows.

    Captions are cut to 100 characters; colons and line breaks in captions and tags become blanks.
    InputError: a path with a colon or a line break, a row without labels.
    """
    count = 0
    with atomic_write(path, "w") as file:
        for row in rows:
            file.write(format_row(row) + "\n")
            count += 1
    return count


def format_row(row: Row) -> str:
    """The line of a row, without the newline."""
    if _BREAKS.search(row.path):
        raise InputError(f"{row.path!r}: a path in a split file can hold neither colons nor line breaks")
    labels = list(check_concepts(row.labels))
    caption = _BREAKS.sub(" ", row.caption)[:CAPTION_LENGTH].strip()
    return f"{row.path}:{labels!r}:{caption}:{_BREAKS.sub(' ', row.tags).strip()}"


def image_id(path: str) -> str:
    """The name of an image in correspondence.json: its path without `WikiScenes/<category>/`."""
    parts = path.split("/", 2)
    if len(parts) < 3 or parts[0] != "WikiScenes" or not parts[2]:
        raise InputError(f"{path!r}: expected WikiScenes/<category>/<landmark>/..., as in a split file")
    return parts[2]


def landmark_of(path: str) -> str:
    """The landmark's folder in the path of a row: "4" of `WikiScenes/cathedrals/4/1/pictures/a.jpg`."""
    return image_id(path).split("/", 1)[0]


def multi_hot(rows: Sequence[Row], concepts: Sequence[str] = CONCEPTS) -> list[tuple[int, ...]]:
    """Indices into `concepts` (class id - 1) of each row's labels, the first label first."""
    index = {name: position for position, name in enumerate(concepts)}
    return [tuple(index[label] for label in row.labels) for row in rows]


def read_segmentation_list(path: str | Path, root: str | Path | None = None) -> list[tuple[Path, Path]]:
    """(picture, mask) of each line `./val_seg/images/1.jpg ./val_seg/masks/1.png`.

    root: what the names are relative to; the folder of the list by default. InputError: not two names in a
    line, a mask twice, no line.
    """
    folder = Path(path).parent if root is None else Path(root)
    pairs: list[tuple[Path, Path]] = []
    stems: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        names = line.split()
        if len(names) != 2:
            raise InputError(f"{path}:{number}: expected `picture mask`, found {len(names)} names")
        stem = Path(names[1]).stem
        if stem in stems:
            raise InputError(f"{path}:{number}: mask {stem!r} is there twice (line {stems[stem]})")
        stems[stem] = number
        # the lists of VOC write /JPEGImages/..., meant from the root as well
        pairs.append((folder / names[0].lstrip("/"), folder / names[1].lstrip("/")))
    if not pairs:
        raise InputError(f"{path}: expected lines `picture mask`, found none")
    return pairs


def _row(line: str, where: str, allowed: frozenset[str] | None) -> Row:
    fields = line.split(":")
    if len(fields) != len(_FIELDS):
        raise InputError(f"{where}: expected {':'.join(_FIELDS)} (3 colons), found {len(fields) - 1} colons")
    path, listed, caption, tags = fields
    if not listed.startswith("[") or not listed.endswith("]"):
        raise InputError(f"{where}: labels: expected a list like ['nave', 'altar'], found {listed!r}")
    labels = tuple(word.strip("',\"") for word in listed.strip("[]").split())
    if not labels or not all(labels):
        raise InputError(f"{where}: labels: expected at least one concept, found {listed!r}")
    if len(set(labels)) != len(labels):
        raise InputError(f"{where}: labels: a concept is there twice: {listed}")
    unknown = next((label for label in labels if allowed is not None and label not in allowed), None)
    if allowed is not None and unknown is not None:
        raise InputError(
            f"{where}: labels: unknown concept {unknown!r}; data.concepts has {', '.join(sorted(allowed))}"
        )
    image_id(path)
    return Row(path, labels, caption, tags)
