"""Reads the claims, tables, charts and pictures of a reproduce.yaml; every run that they name must exist."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.reproduction.checks import Checks
from scripts.reproduction.recipe import (
    OPERATORS,
    Chart,
    Claim,
    Column,
    Combination,
    Comparison,
    Metric,
    Picture,
    Row,
    Run,
    Table,
    Value,
)


class Parts:
    """Reads claims, tables, charts and pictures, checking that every run they name exists."""

    def __init__(
        self, checks: Checks, runs: Mapping[str, Run], scale: str, embedded: Mapping[str, Run]
    ) -> None:
        self.checks, self.runs, self.scale, self.embedded = checks, runs, scale, embedded

    def read(self, body: dict[str, Any]) -> dict[str, Any]:
        """The four lists of one scale, as keyword arguments of `Scale`."""

        def each(kind: str, one: Callable[[Any, str], Any]) -> tuple[Any, ...]:
            where = f"{self.scale}.{kind}"
            read = tuple(
                one(n, f"{where}[{i}]") for i, n in enumerate(self.checks.items(body.get(kind), where))
            )
            ids = [item.id for item in read if hasattr(item, "id")]
            if len(set(ids)) < len(ids):
                twice = next(name for name in ids if ids.count(name) > 1)
                raise self.checks.fail(where, f"two of them have the id {twice!r}")
            return read

        return {
            "claims": each("claims", self._claim),
            "tables": each("tables", self._table),
            "charts": each("charts", self._chart),
            "pictures": each("pictures", self._picture),
        }

    def _run(self, name: Any, where: str) -> str:
        if name not in self.runs:
            raise self.checks.fail(where, f"there is no run {name!r} at the {self.scale} scale")
        return str(name)

    def _value(self, node: Any, where: str) -> Value:
        if not isinstance(node, dict):
            return self.checks.number(node, where)
        if "run" in node:
            body = self.checks.mapping(node, where, "", "run metric")
            return Metric(self._run(body["run"], where), str(body["metric"]))
        if len(node) != 1 or (kind := next(iter(node))) not in ("max", "min", "mean", "minus"):
            raise self.checks.fail(where, "expected a number, {run, metric}, or one of max, min, mean, minus")
        parts = tuple(self._value(part, f"{where}.{kind}") for part in self.checks.items(node[kind], where))
        if not parts or (kind == "minus" and len(parts) != 2):
            raise self.checks.fail(where, f"{kind} needs {'two values' if kind == 'minus' else 'values'}")
        return Combination(kind, parts)

    def _comparison(self, node: Any, where: str) -> Comparison:
        body = self.checks.mapping(node, where, "margin", "left operator right")
        if body["operator"] not in OPERATORS:
            raise self.checks.fail(
                where, f"operator {body['operator']!r} is not one of: {' '.join(OPERATORS)}"
            )
        left, right = (self._value(body[side], f"{where}.{side}") for side in ("left", "right"))
        margin = self.checks.number(body.get("margin", 0), f"{where}.margin")
        return Comparison(left, body["operator"], right, margin)

    def _claim(self, node: Any, where: str) -> Claim:
        body = self.checks.mapping(
            node, where, "left operator right margin any_of all_of over question", "id text why"
        )
        where = f"{where} ({body['id']})"
        forms = [key for key in ("any_of", "all_of", "left") if key in body]
        if len(forms) != 1:
            raise self.checks.fail(
                where, "expected exactly one of: left (with operator, right), any_of, all_of"
            )
        if forms == ["left"]:
            inner = {key: body[key] for key in ("left", "operator", "right", "margin") if key in body}
            comparisons: tuple[Comparison, ...] = (self._comparison(inner, where),)
        else:
            nodes = self.checks.items(body[forms[0]], where)
            comparisons = tuple(self._comparison(part, f"{where}.{forms[0]}") for part in nodes)
        over = body.get("over", "seeds")
        if over not in ("seeds", "mean", "most") or not comparisons:
            raise self.checks.fail(
                where, f"over is seeds, mean or most, found {over!r}, and something to compare"
            )
        text, why = (" ".join(str(body[key]).split()) for key in ("text", "why"))
        question = bool(body.get("question", False))
        return Claim(str(body["id"]), text, why, comparisons, forms == ["any_of"], over, question)

    def _table(self, node: Any, where: str) -> Table:
        body = self.checks.mapping(node, where, "note", "id title columns rows")
        where = f"{where} ({body['id']})"
        columns = []
        for entry in self.checks.items(body["columns"], where):
            column = self.checks.mapping(entry, f"{where}.columns", "title digits metric", "id")
            name = str(column["id"])
            title, metric = str(column.get("title", name)), str(column.get("metric", name))
            columns.append(Column(name, title, metric, int(column.get("digits", 1))))
        rows = tuple(self._row(entry, columns, where) for entry in self.checks.items(body["rows"], where))
        note = str(body.get("note", "")).strip()
        return Table(str(body["id"]), str(body["title"]), note, tuple(columns), rows)

    def _row(self, node: Any, columns: Sequence[Column], where: str) -> Row:
        body = self.checks.mapping(node, f"{where}.rows", "run prefix cells paper embedded", "title")
        where = f"{where}.rows ({body['title']})"
        ids = " ".join(column.id for column in columns)
        cells = self.checks.mapping(body.get("cells") or {}, f"{where}.cells", ids)
        paper = self.checks.mapping(body.get("paper") or {}, f"{where}.paper", ids)
        embedded = body.get("embedded")
        if embedded is not None and embedded not in self.embedded:
            raise self.checks.fail(where, f"embedded: there is no run {embedded!r} at the mini scale")
        return Row(
            title=str(body["title"]),
            run=None if body.get("run") is None else self._run(body["run"], where),
            prefix=str(body.get("prefix", "")),
            cells={str(key): self._value(value, f"{where}.cells") for key, value in cells.items()},
            paper={str(key): self.checks.number(value, f"{where}.paper") for key, value in paper.items()},
            embedded=embedded,
        )

    def _chart(self, node: Any, where: str) -> Chart:
        body = dict(
            self.checks.mapping(
                node, where, "note metric groups runs lines x x_title y_title y_min", "id kind title"
            )
        )
        where = f"{where} ({body['id']})"
        needed = {"dots": "metric groups", "curves": "metric runs", "lines": "lines"}
        kind = str(body["kind"])
        if kind not in needed:
            raise self.checks.fail(where, f"kind {kind!r} is not one of: {' '.join(needed)}")
        for key in needed[kind].split():
            if key not in body:
                raise self.checks.fail(where, f"a chart of kind {kind} needs the key {key!r}")
        if "y_min" in body:
            body["y_min"] = self.checks.number(body["y_min"], f"{where}.y_min")
        named = {
            "dots": lambda: (run for group in body["groups"].values() for run in group.values()),
            "curves": lambda: body["runs"].values(),
            "lines": lambda: (line["run"] for line in body["lines"].values()),
        }
        for run in named[kind]():
            self._run(run, where)
        head = (str(body.pop("id")), str(body.pop("kind")), str(body.pop("title")), str(body.pop("note", "")))
        return Chart(*head, settings=body)

    def _picture(self, node: Any, where: str) -> Picture:
        body = self.checks.mapping(node, where, "note", "title run file")
        file = str(body["file"])
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise self.checks.fail(where, f"file {file!r} must lie inside the run's folder")
        return Picture(str(body["title"]), str(body.get("note", "")), self._run(body["run"], where), file)
