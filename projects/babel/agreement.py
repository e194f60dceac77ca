"""How well distilled labels agree with those of a released split file, and the tree that such a file implies."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from projects.babel.concept_words import ConceptWords
from projects.babel.distillation import labels_of
from projects.babel.splits import Row, image_id, landmark_of
from projects.babel.tree import Picture

Node = tuple[str, ...]  # the folders from the landmark down


@dataclass(frozen=True)
class Agreement:
    """Shares of `rows` whose class, whose set of labels, whose list of labels is the released one.

    wrong: (released class, distilled class or "none") -> rows. missing: released rows that were not distilled at all.
    """

    rows: int
    classes: float
    label_sets: float
    label_lists: float
    missing: int
    wrong: dict[tuple[str, str], int]

    def summary(self) -> dict[str, float]:
        """For a report: shares in percent."""
        shares = {"class": self.classes, "label set": self.label_sets, "label list": self.label_lists}
        return {
            "rows": self.rows,
            "missing": self.missing,
            **{name: round(100 * share, 2) for name, share in shares.items()},
        }


def compare(released: Sequence[Row], distilled: Iterable[Row]) -> Agreement:
    """Released rows against distilled ones of the same path; a row that was not distilled agrees in nothing."""
    ours = {row.path: row.labels for row in distilled}
    pairs = [(row.labels, ours.get(row.path, ())) for row in released]
    wrong = Counter(
        (theirs[0], mine[0] if mine else "none") for theirs, mine in pairs if mine[:1] != theirs[:1]
    )
    rows = max(1, len(pairs))
    return Agreement(
        rows=len(pairs),
        classes=sum(mine[:1] == theirs[:1] for theirs, mine in pairs) / rows,
        label_sets=sum(set(mine) == set(theirs) for theirs, mine in pairs) / rows,
        label_lists=sum(mine == theirs for theirs, mine in pairs) / rows,
        missing=sum(not mine for _, mine in pairs),
        wrong=dict(wrong.most_common()),
    )


def relabel(pictures: Iterable[Picture], words: ConceptWords) -> list[Row]:
    """The rows of all pictures, also those without labels: the counterpart of each row of a split file."""
    return [
        Row(
            picture.path,
            labels_of(picture.categories, picture.caption, words, picture.language)[0],
            picture.caption,
            ", ".join(picture.categories),
        )
        for picture in pictures
    ]


def pictures_of(rows: Sequence[Row]) -> list[Picture]:
    """The pictures of a split file as the tree would give them, but with captions cut and languages unknown.

    Tags join names that may themselves hold ", ". Names are told apart by the number of folders and by what rows of
    the same folders agree on; where that leaves several ways, a part that comes again in a row goes with the part
    before it, and names that still cannot be told apart are left together as the leaf.
    """
    nodes = [_node(row.path) for row in rows]
    known = _names(rows, nodes)
    found = []
    for row, node in zip(rows, nodes, strict=True):
        levels = [node[: depth + 1] for depth in range(1, len(node))]
        if all(level in known for level in levels):
            categories: tuple[str, ...] = tuple(known[level] for level in levels)
        else:
            parts = _joined(row.tags)
            keep = max(0, len(levels) - 1)
            categories = tuple(parts[:keep]) + ((", ".join(parts[keep:]),) if parts[keep:] else ())
        found.append(Picture(row.path, landmark_of(row.path), row.caption, "", (), categories))
    return found


def _node(path: str) -> Node:
    """("4", "1", "13") of WikiScenes/cathedrals/4/1/13/pictures/a.jpg."""
    return tuple(image_id(path).split("/")[:-2])


def _names(rows: Sequence[Row], nodes: Sequence[Node]) -> dict[Node, str]:
    """Names of those folders that can be told for certain: rows are solved until nothing new comes."""
    known: dict[Node, str] = {}
    waiting = {(node, row.tags) for node, row in zip(nodes, rows, strict=True)}
    while True:
        solved = set()
        for node, tags in sorted(waiting):
            levels, rest = _strip_known(node, tags, known)
            parts = rest.split(", ")
            if len(levels) == 1:
                known[levels[0]] = rest
            elif len(levels) == len(parts):
                known.update(zip(levels, parts, strict=True))
            elif levels:
                continue
            solved.add((node, tags))
        if not solved:
            return known
        waiting -= solved


def _strip_known(node: Node, tags: str, known: dict[Node, str]) -> tuple[list[Node], str]:
    """The folders of a row whose names are open, and the part of its tags that names them."""
    levels = [node[: depth + 1] for depth in range(1, len(node))]
    while levels and levels[0] in known and tags.startswith(known[levels[0]]):
        tags = tags.removeprefix(known[levels.pop(0)]).removeprefix(", ")
    while levels and levels[-1] in known and tags.endswith(known[levels[-1]]):
        tags = tags.removesuffix(known[levels.pop()]).removesuffix(", ")
    return levels, tags


def _joined(tags: str) -> list[str]:
    """The parts of tags; one that comes again ("Cathedral of Seville") goes with its neighbour."""
    parts = tags.split(", ")
    count = Counter(parts)
    leads = count[parts[0]] > 1  # "Cathedral of Tarragona, exterior, Cathedral of Tarragona, main facade"
    joined: list[str] = []
    waiting = ""
    for part in parts:
        if waiting:
            joined.append(f"{waiting}, {part}")
            waiting = ""
        elif leads and part == parts[0]:
            waiting = part
        elif joined and count[part] > 1:
            joined[-1] += f", {part}"
        else:
            joined.append(part)
    return [*joined, waiting] if waiting else joined
