"""From the tree of WikiScenes to split files: concepts, labels, splits, and how they compare with released ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects.babel import agreement, vocabulary
from projects.babel.concept_words import WORDS, ConceptWords
from projects.babel.correspondence import Correspondence
from projects.babel.distillation import Tally, distil
from projects.babel.expectations import expect, expect_share, expect_whole, is_whole
from projects.babel.graph import image_graph
from projects.babel.split_drawing import Drawn, draw
from projects.babel.splits import Row, format_row, image_id, read_split, write_split
from projects.babel.tree import Picture, walk
from shared.errors import InputError
from shared.files import read_lines, write_json
from shared.progress import Progress

REPORT = "prepared.json"


@dataclass(frozen=True)
class Labelled:
    """Pictures of a tree that carry labels, and what is to be told about how they came by them."""

    concepts: tuple[str, ...]
    rows: list[Row]
    report: dict[str, Any]


def check(settings: Mapping[str, Any]) -> None:
    """InputError for a value that makes no sense, before anything is read or made."""
    for key in ("landmarks", "languages", "compare"):
        found = settings[key]
        expect(key, found is None or isinstance(found, list), "a list or null", found)
    unseen = settings["split"]["unseen"]
    expect(
        "split.unseen", is_whole(unseen) or isinstance(unseen, list), "how many landmarks, or a list", unseen
    )
    expect_whole(settings, "seed", "vocabulary.size", "vocabulary.min_pictures")
    expect_whole(settings, "split.per_concept", least=1, or_null=True)
    expect_share(settings, "split.easy_share", below_one=True)
    expect_share(settings, "vocabulary.min_landmarks", "vocabulary.min_coherence")


def read_tree(root: Path, category: str, landmarks: Sequence[str] | None = None) -> list[Picture]:
    """All pictures of a category; InputError where there is none."""
    pictures = list(walk(root, category, landmarks))
    if not pictures:
        raise InputError(f"{root}: WikiScenes/{category}: category.json files without a picture")
    return pictures


def label(
    pictures: Sequence[Picture],
    root: Path,
    *,
    concepts: Sequence[str] | None,
    languages: Sequence[str] | None = None,
    correspondence: Path | None = None,
    cache: Path | None = None,
    graph_threshold: int = 10,
    choice: vocabulary.Choice | None = None,
    skip_missing: bool = False,
) -> Labelled:
    """Give pictures their labels.

    concepts: None: find them (`vocabulary.choose`), with the graph of `correspondence`
    where that file is there. languages: whose own words are looked for, None: all that are known.
    skip_missing: leave out pictures that are not on the disk (counted), instead of an InputError.
    """
    report: dict[str, Any] = {}
    if concepts is None:
        found = _candidates(pictures, correspondence, cache, graph_threshold)
        num_landmarks = len({picture.landmark for picture in pictures})
        chosen = vocabulary.choose(found, choice or vocabulary.Choice(), num_landmarks=num_landmarks)
        concepts = [one.word for one in chosen if one.kept]
        report["vocabulary"] = vocabulary.table(chosen)
        if not concepts:
            raise InputError("vocabulary: no word of the category names fits; lower its min_ settings")
    words = ConceptWords(concepts, tuple(sorted(WORDS)) if languages is None else languages)
    tally = Tally()
    rows = list(distil(pictures, words, tally))
    rows, missing = _on_disk(rows, root)
    if missing and not skip_missing:
        raise InputError(
            f"{root / missing[0].path}: no such picture ({len(missing)} of {len(missing) + len(rows)} are not there); "
            "data.skip_missing=true leaves them out"
        )
    report["pictures"] = {**tally.summary(), "left out: not on the disk": len(missing), "labelled": len(rows)}
    if not rows:
        raise InputError(f"{root}: no picture names one of {', '.join(words.concepts)}")
    return Labelled(words.concepts, rows, report)


def write(labelled: Labelled, folder: Path, *, overwrite: bool = False, **drawing: Any) -> Drawn:
    """Write train.txt, val.txt, val_easy.txt and the report of a set; `drawing`: keyword arguments of `draw`.

    InputError: a file is there and would change, unless `overwrite`.
    """
    drawn = draw(labelled.rows, **drawing)
    targets = {folder / f"{name}.txt": rows for name, rows in drawn.files().items()}
    for path, rows in targets.items():
        if path.exists() and not overwrite and read_lines(path) != [format_row(row) for row in rows]:
            raise InputError(f"{path}: holds another split; choose another output, or set overwrite=true")
    counts = {}
    for path, rows in targets.items():
        write_split(path, rows)
        first = Counter(row.labels[0] for row in rows)
        counts[path.stem] = {
            "rows": len(rows), "first labels": {name: first[name] for name in labelled.concepts}
        }  # fmt: skip
    report = {
        "concepts": labelled.concepts, "unseen landmarks": drawn.unseen, "splits": counts, **labelled.report
    }  # fmt: skip
    write_json(folder / REPORT, report)
    return drawn


def compare(labelled: Labelled, pictures: Sequence[Picture], files: Sequence[Path]) -> dict[str, Any]:
    """Agreement of the labels with each released split file; rows that the tree lacks are counted apart."""
    known = {picture.path for picture in pictures}
    results: dict[str, Any] = {}
    for file in files:
        released = read_split(file, labelled.concepts)
        here = [row for row in released if row.path in known]
        if not here:
            raise InputError(f"{file}: none of its {len(released)} pictures is in the tree")
        found = agreement.compare(here, labelled.rows)
        results[file.name] = {"not in the tree": len(released) - len(here), **found.summary()}
    return results


def _candidates(
    pictures: Sequence[Picture], correspondence: Path | None, cache: Path | None, threshold: int
) -> list[vocabulary.Candidate]:
    neighbours = None
    if correspondence is not None and correspondence.is_file():
        points = Correspondence.open(correspondence, cache=cache)
        images = points.indices_of([image_id(picture.path) for picture in pictures])
        neighbours = image_graph(points, images, threshold)
    return vocabulary.find_candidates(pictures, neighbours)


def _on_disk(rows: Sequence[Row], root: Path) -> tuple[list[Row], list[Row]]:
    there: list[Row] = []
    missing: list[Row] = []
    with Progress(len(rows), unit="picture", label="look for pictures") as bar:
        for row in rows:
            (there if (root / row.path).is_file() else missing).append(row)
            bar.update()
    return there, missing
