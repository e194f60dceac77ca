"""The numbers of an evaluation for results.json, in percent: at the cutoff that is best on what is reported
("test_tuned", as released), and at the one that is best on another split ("validation_tuned").
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from projects.semabs import summary
from projects.semabs.completion_metrics import OCCLUDED
from projects.semabs.nyu import CLASSES
from projects.semabs.stats import Stats, mean, mean_of_groups
from projects.semabs.summary import MEAN, Tuned
from projects.semabs.vocabulary import PAD

TEST, VALIDATION = "test_tuned", "validation_tuned"
RELATIONS = {  # keys of results.json
    "in": "in",
    "on": "on",
    "on the left of": "left",
    "on the right of": "right",
    "behind": "behind",
    "in front of": "front",
    MEAN: MEAN,
}
LATERAL = ("left", "right")


def evaluation_metrics(
    stats: Stats,
    task: str,
    *,
    metric: str,
    validation: str | None,
    novel: Collection[str],
    is_nyu: bool = False,
) -> dict[str, Any]:
    """{"test_tuned": {...}, "validation_tuned": {...}, "rows", "scenes"}; numbers in percent, undefined ones None.

    Args:
        stats: rows of all splits.
        task: ovssc or vool.
        metric: the column that chooses the cutoff and is reported.
        validation: a split that only chooses a cutoff; None = there is none.
        novel: classes that no training scene has.
        is_nyu: the table is that of NYU's classes.
    """
    splits = stats["split"]
    found: dict[str, Any] = {}
    if bool((splits != validation).any()):
        test = summary.tuned(stats, metric, left_out=validation)
        found[TEST] = _of(test, task, metric, novel, is_nyu)
        if validation is not None and bool((splits == validation).any()):
            on_other = summary.tuned(stats, metric, left_out=validation, on=validation)
            found[VALIDATION] = _of(on_other, task, metric, novel, is_nyu)
    scenes = {
        str(split): len(np.unique(stats["scene_id"][splits == split]))
        for split in dict.fromkeys(splits.tolist())
    }
    if validation in scenes:
        only = summary.tuned(stats.where(splits == validation), metric)
        found["validation"] = {"cutoff": only.cutoff, **_of_splits(only.rows, metric)[str(validation)]}
    return _percent(found) | {"rows": len(stats), "scenes": scenes}


def _of(tuned: Tuned, task: str, metric: str, novel: Collection[str], is_nyu: bool) -> dict[str, Any]:
    rows = tuned.rows
    found: dict[str, Any] = {"cutoff": tuned.cutoff, "splits": _of_splits(rows, metric)}
    hidden = OCCLUDED + metric
    if is_nyu:
        table = summary.nyu_table(rows, metric)
        found["table"] = {name: table[name] for name in (*CLASSES, MEAN) if name in table}
    elif task == "ovssc":
        found["table"] = summary.ovssc_table(rows, metric, novel)
        columns = [metric, hidden] if hidden in rows else [metric]
        means = summary.class_means(rows, columns, novel)
        found["class_mean"] = means[metric]
        if hidden in means:
            found["class_mean_occluded"] = means[hidden]
    else:
        found["table"] = _vool_table(summary.vool_table(rows, metric, novel))
        if hidden in rows:
            found["table_occluded"] = _vool_table(summary.vool_table(rows, hidden, novel))
        found["relations"] = {
            split: _relations(rows.where(rows["split"] == split), metric) for split in found["splits"]
        }
    return found


def _of_splits(rows: Stats, metric: str) -> dict[str, dict[str, float]]:
    found = {}
    for split in dict.fromkeys(rows["split"].tolist()):
        own = rows.where(rows["split"] == split)
        numbers = {}
        for name, column in (("iou", metric), ("occluded", OCCLUDED + metric)):
            if column in own:
                numbers[name] = own.mean(column)
                if "label" in own:
                    suffix = "" if name == "iou" else "_occluded"
                    numbers[f"class_mean{suffix}"] = mean_of_groups(own[column], own["label"])
        found[str(split)] = numbers
    return found


def _vool_table(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    found = {RELATIONS[relation]: dict(cells) for relation, cells in table.items()}
    sides = [found[side] for side in LATERAL if side in found]
    if sides:
        found["lateral"] = {name: mean(np.array([side[name] for side in sides])) for name in sides[0]}
    return found


def _relations(rows: Stats, metric: str) -> dict[str, float]:
    """Plain means over the rows of each relation, and their mean."""
    names = rows["spatial_relation_name"]
    found = {
        RELATIONS[one]: mean(rows[metric][names == one])
        for one in dict.fromkeys(names.tolist())
        if one != PAD
    }
    return found | {
        MEAN: mean(np.array(list(found.values()))),
        "lateral": mean(np.array([found.get(side, np.nan) for side in LATERAL])),
    }


def _percent(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _percent(part, name) for name, part in value.items()}
    if np.isnan(value):
        return None
    return float(value) if key == "cutoff" else 100 * float(value)
