"""What a project's `reproduce.yaml` holds: runs, claims, tables, charts, pictures. Nothing in it is executed.

One recipe has two scales, `mini` (the embedded data) and `paper` (the real data). A run's name may hold words
in braces that `each` fills in, so that twelve runs are six lines. A value in a claim or a table is a number,
a metric of a run, or the max, min, mean or difference of such values.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALES = ("mini", "paper")
OPERATORS = (">", ">=", "<", "<=", "~")
_FOLDER_OF_RUN = re.compile(r"\{run:([^{}@]+)(?:@(\d+))?\}")
JobKey = tuple[str, int | None]  # run name, seed; None for a run without a seed


@dataclass(frozen=True)
class Metric:
    """The number at `path` (dots walk into nested dicts and lists) in the results of a run."""

    run: str
    path: str


@dataclass(frozen=True)
class Combination:
    """`max`, `min` or `mean` of values, or `minus`: the first less the second."""

    kind: str
    values: "tuple[Value, ...]"


Value = float | Metric | Combination


@dataclass(frozen=True)
class Comparison:
    """`left operator right + margin` (for < and <=: right - margin; for ~: |left - right| <= margin)."""

    left: Value
    operator: str
    right: Value
    margin: float


@dataclass(frozen=True)
class Claim:
    """One statement with its reason; `question` marks an open one: either answer is good."""

    id: str
    text: str
    why: str
    comparisons: tuple[Comparison, ...]
    any_of: bool
    over: str  # seeds: must hold for every seed | mean: of the means | most: for more than half of the seeds
    question: bool


@dataclass(frozen=True)
class Run:
    """One entry with its overrides, started once for each of its seeds."""

    name: str
    entry: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...] | None  # None: every seed of the reproduction; (): one run without a seed
    after: tuple[str, ...]
    needs: tuple[str, ...]  # paths under the data root
    seconds: float  # expected, for the remaining time
    results: str


@dataclass(frozen=True)
class Column:
    """A column of a table: the metric that a row's run is asked for, and how many digits are shown."""

    id: str
    title: str
    metric: str
    digits: int


@dataclass(frozen=True)
class Row:
    """A row: what is compared, the paper's numbers and ours by column id."""

    title: str
    run: str | None
    prefix: str  # of the columns' metrics, for results with several numbers of one kind
    cells: Mapping[str, Value]
    paper: Mapping[str, float]
    embedded: str | None  # the run of the mini scale that is shown beside a row of the paper's scale


@dataclass(frozen=True)
class Table:
    """A table of the report and of the README."""

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Chart:
    """`dots`: groups -> label -> run. `curves`: runs. `lines`: label -> {run, metrics | metric} over `x`."""

    id: str
    kind: str
    title: str
    note: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file in a run's folder."""

    title: str
    note: str
    run: str
    file: str


@dataclass(frozen=True)
class Scale:
    """All that is run and shown at one scale."""

    note: str = ""
    runs: Mapping[str, Run] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()

    def seeds_of(self, run: str, seeds: Sequence[int]) -> tuple[int | None, ...]:
        """The seeds that a run is started with; (None,) for a run without one."""
        own = self.runs[run].seeds
        return tuple(seeds) if own is None else (own or (None,))

    def key(self, run: str, seed: int | None) -> JobKey:
        """The job that answers for `run` when a value is wanted at `seed`."""
        own = self.runs[run].seeds
        if own is None:
            return run, seed
        return run, (None if not own else own[0] if len(own) == 1 else seed)


@dataclass(frozen=True)
class Recipe:
    """A whole reproduce.yaml."""

    file: Path
    title: str
    summary: str
    citation: str
    seeds: tuple[int, ...]
    scales: Mapping[str, Scale]

    def first_seeds(self, count: int | None) -> tuple[int, ...]:
        """The first `count` seeds; after the listed ones it counts on."""
        if count is None:
            return self.seeds
        more = itertools.count(max(self.seeds) + 1)
        return tuple(itertools.islice(itertools.chain(self.seeds, more), count))


def fill_folders(text: str, seed: int | None, folder: Callable[[str, int | None], Path]) -> str:
    """`text` with every `{run:NAME}` (same seed) and `{run:NAME@SEED}` replaced by that run's folder."""

    def one(found: re.Match[str]) -> str:
        return str(folder(found[1], int(found[2]) if found[2] else seed))

    return _FOLDER_OF_RUN.sub(one, text)


def named_runs(text: str) -> Iterator[tuple[str, int | None]]:
    """The runs (and fixed seeds) that `text` names in `{run:...}`."""
    for found in _FOLDER_OF_RUN.finditer(text):
        yield found[1], int(found[2]) if found[2] else None


def metrics_of(value: Value) -> Iterator[Metric]:
    """Every metric that a value reads."""
    if isinstance(value, Metric):
        yield value
    elif isinstance(value, Combination):
        for part in value.values:
            yield from metrics_of(part)
