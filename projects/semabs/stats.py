"""Tables of evaluation rows, with the released columns: a row per scene, label (or description) and cutoff.

| column | |
|---|---|
| scene_id | stem of the scene's file, with its room: "00012|FloorPlan227_physics" |
| label, or target_obj_name, reference_obj_name, spatial_relation_name | |
| point_*, voxel32x32x32_*, ... | see `completion_metrics` |
| cutoff, epoch, split | |
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs.pickled_frame import read_pickled_frame
from shared.errors import InputError
from shared.files import atomic_write, load_npz, save_npz

OVSSC_NAMES = ("label",)
VOOL_NAMES = ("target_obj_name", "reference_obj_name", "spatial_relation_name")
NAMES = {"ovssc": OVSSC_NAMES, "vool": VOOL_NAMES}


@dataclass(frozen=True)
class Stats:
    """Columns by name, all of one length."""

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def where(self, rows: np.ndarray) -> "Stats":
        """The rows of a mask or of indices."""
        return Stats({name: values[rows] for name, values in self.columns.items()})

    def mean(self, metric: str) -> float:
        """Mean of a column over the rows in which it is defined; NaN where it is in none."""
        return mean(self.columns[metric])

    def means(self, metrics: Sequence[str]) -> dict[str, float]:
        """`mean` of several columns: {"point_iou_mean": ...}, as the release names them."""
        return {f"{metric}_mean": self.mean(metric) for metric in metrics}

    def write(self, path: str | Path) -> None:
        """Write an .npz (compressed, no pickle) or a .csv."""
        path = Path(path)
        if path.suffix == ".csv":
            with atomic_write(path, "w") as file:
                lines = csv.writer(file, lineterminator="\n")
                lines.writerow(self.columns)
                lines.writerows(self._lines())
        else:
            save_npz(path, compressed=True, **self.columns)

    def _lines(self) -> Iterator[list[Any]]:
        lists = [values.tolist() for values in self.columns.values()]
        for line in zip(*lists, strict=True):
            yield ["" if value != value else value for value in line]  # NaN: empty


def mean(values: np.ndarray) -> float:
    """Mean of the values that are numbers; NaN where there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def mean_of_groups(values: np.ndarray, groups: np.ndarray) -> float:
    """Mean over the groups of their means; values that are NaN, and groups of nothing else, are left out."""
    defined = ~np.isnan(values)
    if not defined.any():
        return float("nan")
    _, members = np.unique(groups[defined], return_inverse=True)
    return float((np.bincount(members, values[defined]) / np.bincount(members)).mean())


def scene_rows(
    scores: Mapping[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
    cutoffs: Sequence[float],
    *,
    scene_id: str,
    split: str,
    epoch: int,
) -> Stats:
    """The rows of one scene in the released order: cutoff by cutoff, all patches.

    Args:
        scores: metrics [P, K] by name.
        names: of the patches, P each: {"label": ...} or the three of a description.
        cutoffs: [K].
        scene_id, split, epoch: the same in all rows.
    """
    patches, count = len(next(iter(names.values()))), len(cutoffs)
    size = patches * count
    columns: dict[str, np.ndarray] = {"scene_id": np.full(size, scene_id)}
    columns |= {name: np.tile(np.array(list(texts), str), count) for name, texts in names.items()}
    columns |= {name: values.T.reshape(-1) for name, values in scores.items()}
    columns["cutoff"] = np.repeat(np.asarray(cutoffs, float), patches)
    return Stats(columns | {"epoch": np.full(size, epoch), "split": np.full(size, split)})


def joined(parts: Sequence[Stats]) -> Stats:
    """Tables below one another; ValueError where their columns differ."""
    if not parts:
        return Stats({})
    first = list(parts[0].columns)
    for part in parts:
        if list(part.columns) != first:
            raise ValueError(f"columns {list(part.columns)} below {first}")
    return Stats({name: np.concatenate([part[name] for part in parts]) for name in first})


def read_stats(path: str | Path, required: Sequence[str] = ()) -> Stats:
    """A table of ours (.npz, .csv) or a released, pickled frame (.pkl: read without running it).

    InputError: missing, damaged, refused, not a table, or without a column that is `required`.
    """
    path = Path(path)
    if path.suffix == ".csv":
        stats = Stats(_read_csv(path))
    elif path.suffix == ".npz":
        stats = Stats(load_npz(path))
    else:
        stats = Stats(read_pickled_frame(path))
    for name, values in stats.columns.items():
        if values.ndim != 1 or len(values) != len(stats):
            raise InputError(f"{path}: column {name}: expected [{len(stats)}], found {list(values.shape)}")
    for name in required:
        if name not in stats:
            raise InputError(f"{path}: no column {name!r}; it has {', '.join(stats.columns) or 'none'}")
    if len(stats) == 0:
        raise InputError(f"{path}: a table without rows")
    return stats


_TEXT_COLUMNS = frozenset(("scene_id", "split", *OVSSC_NAMES, *VOOL_NAMES))


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    header, *rows = lines or [[]]
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise InputError(f"{path}: line {number}: expected {len(header)} fields, found {len(row)}")
    columns = {}
    for place, name in enumerate(header):
        texts = [row[place] for row in rows]
        try:
            columns[name] = (
                np.array(texts, str)
                if name in _TEXT_COLUMNS
                else np.array([float(text) if text else np.nan for text in texts])
            )
        except ValueError as error:
            raise InputError(f"{path}: column {name}: {error}") from None
    return columns
