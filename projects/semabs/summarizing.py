"""What `summarize.py` does: find the statistics of each approach, choose cutoffs, and print the paper's tables."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from projects.semabs import summary, summary_text
from projects.semabs.stats import NAMES, OVSSC_NAMES, Stats, read_stats
from projects.semabs.summary import NYU_METRIC, Tuned
from projects.semabs.summary_text import APPROACHES, Row
from projects.semabs.vocabulary import NOVEL_CLASSES, read_novel_classes
from shared.errors import InputError
from shared.files import atomic_write, write_json

KINDS = ("ovssc", "vool", "nyu")
SUFFIXES = (".pkl", ".npz", ".csv")
NYU_FILES = {  # beside the statistics of the release's own approach
    "Ours (Supervised)": "ours/ovssc/ovssc_eval_stats_supervised_nyu_merged",
    "Ours (Zeroshot)": "ours/ovssc/ovssc_eval_stats_zs_nyu_merged",
}
Files = dict[str, dict[str, Path]]


@dataclass
class Table:
    """One table as text."""

    title: str
    headings: Row
    rows: list[Row]
    cutoffs: dict[str, float]

    def text(self) -> str:
        """Title, table, and the cutoff of each approach."""
        cutoffs = ", ".join(f"{name} {cutoff:.2f}" for name, cutoff in self.cutoffs.items())
        return f"{self.title}\n{summary_text.aligned(self.headings, self.rows)}\ncutoffs: {cutoffs}"


@dataclass
class Summary:
    """Every table that the files allow."""

    tables: dict[str, Table] = field(default_factory=dict)
    files: Files = field(default_factory=dict)

    def text(self) -> str:
        """All tables."""
        return "\n\n".join(table.text() for table in self.tables.values())

    def write(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Write summary.txt and results.json (cells as printed)."""
        with atomic_write(folder / "summary.txt", "w") as file:
            file.write(self.text() + "\n")
        tables = {
            name: {"headings": table.headings, "rows": table.rows, "cutoffs": table.cutoffs}
            for name, table in self.tables.items()
        }
        files = {
            kind: {name: str(path) for name, path in found.items()} for kind, found in self.files.items()
        }
        write_json(
            folder / "results.json",
            {"name": settings["name"], "tables": tables, "files": files, "config": dict(settings)},
        )


def summarize(settings: Mapping[str, Any]) -> Summary:
    """The tables of the settings (see configs/summarize.yaml).

    InputError: no statistics at all, or a file that is damaged, refused or lacks a column.
    """
    files = find(settings["runs"], Path(settings["models"]).expanduser(), Path(settings["evaluations"]))
    novel = read_novel_classes(settings["test_classes"]) if settings["test_classes"] else NOVEL_CLASSES
    found = Summary(files=files)
    for kind, of_approach in files.items():
        metric = NYU_METRIC if kind == "nyu" else settings["metric"]
        columns = ("cutoff", metric, *(OVSSC_NAMES if kind == "nyu" else ("scene_id", "split", *NAMES[kind])))
        stats = {name: read_stats(path, columns) for name, path in of_approach.items()}
        for key, table in tables_of(kind, stats, metric, settings["validation_split"], novel).items():
            found.tables[key] = table
    return found


def tables_of(
    kind: str, stats: Mapping[str, Stats], metric: str, validation: str | None, novel: Collection[str]
) -> dict[str, Table]:
    """By name: the table with the cutoffs chosen on its own rows, and the one with those of the validation split."""

    def tune(one: Stats, on: str | None = None) -> Tuned:
        return summary.tuned(one, metric, left_out=validation if "split" in one else None, on=on)

    test = {name: tune(one) for name, one in stats.items()}
    tables = {
        kind: _table(
            kind, f"{_TITLES[kind]}, {_how(metric)}, cutoff tuned on these rows", test, metric, novel
        )
    }
    with_split = {
        name: one
        for name, one in stats.items()
        if "split" in one and bool((one["split"] == validation).any())
    }
    if validation is not None and with_split:
        tuned = {name: tune(one, validation) for name, one in with_split.items()}
        title = f"{_TITLES[kind]}, {_how(metric)}, cutoff tuned on the split {validation}"
        tables[f"{kind}_validation_tuned"] = _table(kind, title, tuned, metric, novel)
    return tables


_TITLES = {
    "ovssc": "Open-vocabulary semantic scene completion",
    "vool": "Visually obscured object localisation",
    "nyu": "Semantic scene completion on NYUv2, 11 classes",
}


def _how(metric: str) -> str:
    return f"{metric} in percent"


def _table(
    kind: str, title: str, approaches: Mapping[str, Tuned], metric: str, novel: Collection[str]
) -> Table:
    cutoffs = {name: found.cutoff for name, found in approaches.items()}
    if kind == "nyu":
        headings, rows = summary_text.nyu_rows(approaches, metric)
        return Table(title, headings, rows, cutoffs)
    make: Callable[..., list[Row]] = summary_text.ovssc_rows if kind == "ovssc" else summary_text.vool_rows
    headings = summary_text.ovssc_headings() if kind == "ovssc" else summary_text.vool_headings()
    return Table(title, headings, make(approaches, metric=metric, novel=novel), cutoffs)


def find(runs: Mapping[str, Mapping[str, str]] | None, models: Path, evaluations: Path) -> Files:
    """Statistics by kind (ovssc, vool, nyu) and approach.

    Args:
        runs: {approach: {kind: file, or the run folder of an evaluation}}; None = look into the other two.
        models: a folder in the released layout.
        evaluations: a folder of run folders, where `models` is not there.
    """
    if runs is not None:
        found = _of_runs(runs)
    elif models.is_dir():
        found = _of_models(models)
    else:
        found = _of_evaluations(evaluations)
    found = {kind: found[kind] for kind in KINDS if found.get(kind)}
    if not found:
        raise InputError(
            f"no statistics in {models} (released layout) or {evaluations}: run eval.py first, or give models=... or "
            "runs={APPROACH: {ovssc: FILE, vool: FILE}}"
        )
    return found


def _of_runs(runs: Mapping[str, Mapping[str, str]]) -> Files:
    found: Files = {}
    for name, of_kind in runs.items():
        if not isinstance(of_kind, Mapping) or not set(of_kind) <= set(KINDS):
            raise InputError(
                f"runs.{name}: expected a file for some of {', '.join(KINDS)}, found {of_kind!r}"
            )
        for kind, given in of_kind.items():
            path = Path(given).expanduser()
            if path.is_dir():
                task = "vool" if kind == "vool" else "ovssc"
                inside = _existing(path / f"{task}_eval_stats")
                if inside is None:
                    raise InputError(f"{path}: no {task}_eval_stats.npz: was it made by eval.py?")
                path = inside
            found.setdefault(kind, {})[str(name)] = path
    return found


def _of_models(models: Path) -> Files:
    found: Files = {}
    for task in ("ovssc", "vool"):
        for folder, title in APPROACHES.items():
            path = _existing(models / folder / task / f"{task}_eval_stats")
            if path is not None:
                found.setdefault(task, {})[title] = path
    for title, name in NYU_FILES.items():
        path = _existing(models / name)
        if path is not None:
            found.setdefault("nyu", {})[title] = path
    return found


def _of_evaluations(evaluations: Path) -> Files:
    found: Files = {}
    folders: Sequence[Path] = sorted(evaluations.iterdir()) if evaluations.is_dir() else []
    for folder in folders:
        for task in ("ovssc", "vool"):
            path = folder / f"{task}_eval_stats.npz"
            if path.is_file():
                kind = "nyu" if task == "ovssc" and NYU_METRIC in read_stats(path) else task
                found.setdefault(kind, {})[folder.name] = path
    return found


def _existing(stem: Path) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := stem.with_name(stem.name + suffix)).is_file()), None)
