"""The numbers of the paper's tables from evaluation rows, as the released summary computes them.

One cutoff of the logits serves a whole table: the one with the highest mean over ALL rows. The released summary
chooses it on the rows that it then reports ("test-tuned", the default here as well); `tuned` also takes a split
that is not reported ("validation-tuned").
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from projects.semabs.splits import NOVEL_ROOMS, NOVEL_VISUAL, NOVEL_VOCABULARY
from projects.semabs.stats import Stats, mean, mean_of_groups
from projects.semabs.vocabulary import NOVEL_CLASSES, PAD, SYNONYMS
from shared.errors import InputError

METRIC = "voxel32x32x32_iou"
NYU_METRIC = "voxel60x60x60_iou"
COLUMNS = ("novel_room", "novel_visual", "novel_vocab", "novel_class")
MEAN = "mean"
_ROOM = re.compile(r"FloorPlan(\d+)_")
_SYNONYMS = frozenset(SYNONYMS.values())


@dataclass(frozen=True)
class Tuned:
    """The reported rows at one cutoff."""

    cutoff: float
    rows: Stats


def best_cutoff(stats: Stats, metric: str) -> float:
    """The cutoff with the highest mean over all rows; of equal ones the lowest. InputError: no row has a value."""
    cutoffs = np.unique(stats["cutoff"])
    means = np.array([mean(stats[metric][stats["cutoff"] == cutoff]) for cutoff in cutoffs])
    if np.isnan(means).all():
        raise InputError(f"{metric}: no row of the statistics has a value: there is no cutoff to choose")
    return float(cutoffs[np.nanargmax(means)])


def tuned(stats: Stats, metric: str = METRIC, *, left_out: str | None = None, on: str | None = None) -> Tuned:
    """The rows of every split but `left_out`, at the cutoff that is best on them, or on the split `on`."""
    reported = stats if left_out is None else stats.where(stats["split"] != left_out)
    chosen_on = reported if on is None else stats.where(stats["split"] == on)
    cutoff = best_cutoff(chosen_on, metric)
    return Tuned(cutoff, reported.where(reported["cutoff"] == cutoff))


def ovssc_table(
    rows: Stats, metric: str = METRIC, novel: Collection[str] = NOVEL_CLASSES
) -> dict[str, float]:
    """Fractions by column. Rooms: mean over rooms; vocabulary and classes: mean over labels, each of its rows.

    Args:
        rows: of one cutoff.
        metric: a column.
        novel: labels that no training scene has.
    """
    split, label, values = rows["split"], rows["label"], rows[metric]
    is_novel = _among(label, novel)
    is_synonym = (split == NOVEL_VOCABULARY) & _among(label, _SYNONYMS)
    chosen = (
        (~is_novel & (split == NOVEL_ROOMS), rooms(rows)),
        (~is_novel & (split == NOVEL_VISUAL), rooms(rows)),
        (is_synonym, label),
        (is_novel, label),
    )
    found = [mean_of_groups(values[mask], groups[mask]) for mask, groups in chosen]
    return dict(zip(COLUMNS, found, strict=True))


def vool_table(
    rows: Stats, metric: str = METRIC, novel: Collection[str] = NOVEL_CLASSES
) -> dict[str, dict[str, float]]:
    """Fractions by relation (in the order of the rows; then "mean", over the relations) and column.

    A description counts as novel, or as a synonym, where its target or its reference is. Rooms: mean over rooms;
    vocabulary and classes: plain means over rows.
    """
    split, relation, values, room = rows["split"], rows["spatial_relation_name"], rows[metric], rooms(rows)
    names = rows["target_obj_name"], rows["reference_obj_name"]
    is_novel = _among(names[0], novel) | _among(names[1], novel)
    is_synonym = _among(names[0], _SYNONYMS) | _among(names[1], _SYNONYMS)
    table: dict[str, dict[str, float]] = {}
    for one in dict.fromkeys(relation.tolist()):
        if one == PAD:
            continue
        own = relation == one
        in_room = own & ~is_novel & (split == NOVEL_ROOMS)
        in_visual = own & ~is_novel & (split == NOVEL_VISUAL)
        found = (
            mean_of_groups(values[in_room], room[in_room]),
            mean_of_groups(values[in_visual], room[in_visual]),
            mean(values[own & (split == NOVEL_VOCABULARY) & is_synonym]),
            mean(values[own & is_novel]),
        )
        table[one] = dict(zip(COLUMNS, found, strict=True))
    table[MEAN] = {column: mean(np.array([row[column] for row in table.values()])) for column in COLUMNS}
    return table


def nyu_table(rows: Stats, metric: str = NYU_METRIC) -> dict[str, float]:
    """Fractions by label, in the order of the rows; then "mean", over the labels."""
    label = rows["label"]
    names = [name for name in dict.fromkeys(label.tolist()) if name]
    table = {name: mean(rows[metric][label == name]) for name in names}
    return table | {MEAN: mean(np.array(list(table.values())))}


def rooms(rows: Stats) -> np.ndarray:
    """Number of the room of each row; InputError for a scene whose name tells none."""
    names, members = np.unique(rows["scene_id"], return_inverse=True)
    found = [_ROOM.search(str(name)) for name in names]
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise InputError(f"scene_id: expected a name with FloorPlan<number>_, found {str(name)!r}")
    return np.array([int(match[1]) for match in found if match], int)[members]


def class_means(
    rows: Stats, metrics: Sequence[str], novel: Collection[str] = NOVEL_CLASSES
) -> dict[str, dict[str, float]]:
    """Ours: {metric: {"train", "novel", "synonyms"}}: means over the labels of the group, each of its rows.

    train, novel: labels of the splits that show rooms as they are under their own names; synonyms: of that split.
    """
    split, label = rows["split"], rows["label"]
    renamed = split == NOVEL_VOCABULARY
    plain = ~renamed & (split != NOVEL_VISUAL) & (label != "")
    is_novel = _among(label, novel)
    masks = {
        "train": plain & ~is_novel,
        "novel": plain & is_novel,
        "synonyms": renamed & _among(label, _SYNONYMS),
    }
    return {
        metric: {name: mean_of_groups(rows[metric][mask], label[mask]) for name, mask in masks.items()}
        for metric in metrics
    }


def _among(names: np.ndarray, wanted: Collection[str]) -> np.ndarray:
    return np.isin(names, sorted(wanted))
