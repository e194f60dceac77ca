"""Results as tables: our runs beside the paper's numbers, for the page, the README and the terminal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.reproduction.claims import FAILED, NOT_RUN, PASSED, Results, Verdict, mean_and_deviation
from scripts.reproduction.recipe import Combination, JobKey, Metric, Recipe, Row, Table, Value


@dataclass(frozen=True)
class ScaleReport:
    """What is known about one scale: results, judged claims, and how each run is started."""

    name: str
    results: Results
    verdicts: Sequence[Verdict]
    folder: Callable[[str, int | None], Path]  # of a run at a seed
    commands: Mapping[str, str]
    stale: frozenset[JobKey] = frozenset()  # results of code or configs that have changed since


def number(value: float | None, digits: int | None = None) -> str:
    """A number as a reader wants it; "not run" for None."""
    if value is None:
        return NOT_RUN
    if digits is None:
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:.{digits}f}"


def cell_text(sample: Sequence[float] | None, digits: int | None = None) -> str:
    """`mean ± sd` of a sample, the number alone for one, "not run" for none."""
    if not sample:
        return NOT_RUN
    mean, deviation = mean_and_deviation(sample)
    return (
        number(mean, digits) if deviation is None else f"{number(mean, digits)} ± {number(deviation, digits)}"
    )


def describe(value: Value) -> str:
    """A value of a claim in words."""
    if isinstance(value, Metric):
        return f"{value.path} of {value.run}"
    if isinstance(value, Combination):
        parts = [describe(part) for part in value.values]
        return (
            f"{parts[0]} minus {parts[1]}" if value.kind == "minus" else f"{value.kind}({', '.join(parts)})"
        )
    return number(value)


def evidence_rows(verdict: Verdict, results: Results) -> list[dict[str, Any]]:
    """A verdict's numbers, seed by seed: what was compared, the numbers, whether it holds."""
    rows = []
    for position, one in enumerate(verdict.evidence):
        comparison = verdict.claim.comparisons[position % len(verdict.claim.comparisons)]
        margin = {True: f" {'+' if one.margin > 0 else '−'} {number(abs(one.margin))}", False: ""}[
            one.margin != 0
        ]
        if one.operator in ("<", "<="):
            margin = margin.replace("+", "~").replace("−", "+").replace("~", "−")
        if one.operator == "~":
            margin = f" ± {number(one.margin)}"
        over_mean = verdict.claim.over == "mean" and len(results.seeds) > 1
        rows.append(
            {
                "seed": f"seed {one.seed}" if one.seed is not None else "mean" if over_mean else "",
                "what": f"{describe(comparison.left)} {one.operator} {describe(comparison.right)}{margin}",
                "numbers": f"{number(one.left)} {one.operator.replace('~', '≈')} {number(one.right)}{margin}",
                "holds": one.holds,
            }
        )
    return rows


def table_rows(table: Table, scale: ScaleReport, embedded: ScaleReport | None) -> list[dict[str, Any]]:
    """Rows of a table: title, and a line per source (paper, embedded data, ours) with a cell per column."""
    rows = []
    for row in table.rows:
        lines = []
        if row.paper:
            cells = [number(row.paper[c.id], c.digits) if c.id in row.paper else "–" for c in table.columns]
            lines.append({"source": "paper", "cells": cells, "missing": False})
        if row.embedded and embedded:
            values = [Metric(row.embedded, row.prefix + column.metric) for column in table.columns]
            lines.append(_our_line("embedded data", values, table, embedded))
        if row.run or row.cells or row.paper:
            lines.append(_our_line("ours", [_cell(row, c.id, c.metric) for c in table.columns], table, scale))
        rows.append({"title": row.title, "lines": lines})
    return rows


def _cell(row: Row, column: str, metric: str) -> Value | None:
    if column in row.cells:
        return row.cells[column]
    return Metric(row.run, row.prefix + metric) if row.run else None


def _our_line(
    source: str, values: Sequence[Value | None], table: Table, scale: ScaleReport
) -> dict[str, Any]:
    samples = [None if value is None else scale.results.sample(value) for value in values]
    missing = not any(samples)
    pairs = zip(samples, values, table.columns, strict=True)
    cells = [
        "–" if value is None and not missing else cell_text(sample, column.digits)
        for sample, value, column in pairs
    ]
    return {"source": source, "cells": cells, "missing": missing}


def markdown(recipe: Recipe, scales: Sequence[ScaleReport]) -> str:
    """Every table as Markdown, for the README."""
    text = []
    for scale, table, rows in all_tables(recipe, scales):
        sources = any(len(row["lines"]) > 1 for row in rows)
        head = [table.title, *(["source"] if sources else []), *(column.title for column in table.columns)]
        body = [
            [
                _markdown_escaped(row["title"]) if first else "",
                *([line["source"]] if sources else []),
                *line["cells"],
            ]
            for row in rows
            for first, line in zip([True, *[False] * 9], row["lines"], strict=False)
        ]
        align = "|".join(["---", *(["---"] if sources else []), *["---:"] * len(table.columns)])
        lines = [f"| {' | '.join(map(_markdown_escaped, head))} |", f"|{align}|"]
        text.append(
            "\n".join([f"<!-- {scale.name}: {table.id} -->", *lines, *(f"| {' | '.join(b)} |" for b in body)])
        )
    return "\n\n".join(text) + "\n"


def _markdown_escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def all_tables(
    recipe: Recipe, scales: Sequence[ScaleReport]
) -> list[tuple[ScaleReport, Table, list[dict[str, Any]]]]:
    """Every table of the given scales with its rows; those of the paper's scale show embedded results too."""
    embedded = next((scale for scale in scales if scale.name == "mini"), None)
    return [
        (scale, table, table_rows(table, scale, embedded))
        for scale in scales
        for table in recipe.scales[scale.name].tables
    ]


def terminal_summary(recipe: Recipe, scale: ScaleReport) -> str:
    """Tables and claims of one scale as plain text."""
    text = []
    for _, table, rows in all_tables(recipe, [scale]):
        grid = [[table.title, "", *(column.title for column in table.columns)]]
        for row in rows:
            titles = [row["title"], *[""] * len(row["lines"])]
            for title, line in zip(titles, row["lines"], strict=False):
                source = line["source"] if len(row["lines"]) > 1 else ""
                cells = [NOT_RUN] + [""] * (len(line["cells"]) - 1) if line["missing"] else line["cells"]
                grid.append([title, source, *cells])
        widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
        for line in grid:
            cells = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
            text.append(
                "  ".join([*cells, *(c.rjust(w) for c, w in zip(line[2:], widths[2:], strict=True))]).rstrip()
            )
        text.append("")
    for verdict in scale.verdicts:
        rows = evidence_rows(verdict, scale.results)
        shown = "; ".join(row["numbers"] for row in rows[:6]) + (" ..." if len(rows) > 6 else "")
        text.append(f"{verdict.status.upper():8} {verdict.claim.text} ({verdict.reason or shown})")
    counts = claim_counts(scale.verdicts)
    text.append(f"claims: {counts[PASSED]} passed, {counts[FAILED]} failed, {counts[NOT_RUN]} not run")
    if scale.stale:
        text.append(f"note: {len(scale.stale)} results are from before the last change of code or configs")
    return "\n".join(text)


def claim_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many claims passed, failed and were not run; open questions do not count."""
    claims = [verdict for verdict in verdicts if not verdict.claim.question]
    return {status: sum(v.status == status for v in claims) for status in (PASSED, FAILED, NOT_RUN)}
