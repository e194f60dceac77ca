"""The paper's three tables as text: percent, one decimal."""

from collections.abc import Mapping, Sequence

from projects.semabs import summary
from projects.semabs.summary import COLUMNS, Tuned

HEADINGS = ("Novel Room", "Novel Visual", "Novel Vocab", "Novel Class")
APPROACHES = {  # the folders of the released models, in the order of the paper's tables
    "semaware": "Semantic Aware",
    "clipspatial": "ClipSpatial",
    "chefer_et_al": "SemAbs + [Chefer et al]",
    "ours": "Ours",
}
Row = list[str]


def percent(value: float) -> str:
    """0.3456 -> "34.6"; an undefined value is "nan"."""
    return f"{100 * value:.1f}"


def ovssc_rows(approaches: Mapping[str, Tuned], **how: object) -> list[Row]:
    """A row for each approach: its name and the four columns."""
    rows = []
    for name, found in approaches.items():
        table = summary.ovssc_table(found.rows, **how)  # type: ignore[arg-type]
        rows.append([name, *(percent(table[column]) for column in COLUMNS)])
    return rows


def vool_rows(approaches: Mapping[str, Tuned], **how: object) -> list[Row]:
    """A row for each approach and relation; the approach's name stands in its first one."""
    rows = []
    for name, found in approaches.items():
        table = summary.vool_table(found.rows, **how)  # type: ignore[arg-type]
        for number, (relation, cells) in enumerate(table.items()):
            rows.append(["" if number else name, relation, *(percent(cells[column]) for column in COLUMNS)])
    return rows


def nyu_rows(approaches: Mapping[str, Tuned], metric: str = summary.NYU_METRIC) -> tuple[Row, list[Row]]:
    """Headings (labels of the first approach, Mean) and a row for each approach."""
    tables = {name: summary.nyu_table(found.rows, metric) for name, found in approaches.items()}
    labels = list(next(iter(tables.values())))
    rows = [
        [name, *(percent(table.get(label, float("nan"))) for label in labels)]
        for name, table in tables.items()
    ]
    return ["Approach", *(label.capitalize() for label in labels)], rows


def ovssc_headings() -> Row:
    """Of `ovssc_rows`."""
    return ["Approach", *HEADINGS]


def vool_headings() -> Row:
    """Of `vool_rows`."""
    return ["Approach", "Spatial Relation", *HEADINGS]


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with columns of equal width; numbers on the right."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    numeric = [
        all(_is_number(line[column]) for line in rows) and bool(rows) for column in range(len(headings))
    ]
    text = []
    for line in lines:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        text.append("  ".join(cells).rstrip())
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
