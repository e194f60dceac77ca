"""The report: one page that needs nothing from outside, with everything escaped, and the README's tables."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from scripts.reproduction import report
from scripts.reproduction.claims import Results, judge
from scripts.reproduction.reader import load_recipe
from scripts.reproduction.tables import ScaleReport, cell_text, number, terminal_summary
from shared import charts
from shared.errors import InputError

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text' | pipe"
RECIPE = """
title: %s
summary: %s
citation: %s
seeds: [1, 2]
mini:
  note: %s
  runs:
    "{p}": {each: {p: [gpo, avg]}, entry: train.py}
  claims:
    - {id: c, text: %s, why: %s,
       left: {run: gpo, metric: rsum}, operator: ">", right: {run: avg, metric: rsum}}
    - {id: q, question: true, text: open, why: w, over: mean,
       left: {run: gpo, metric: rsum}, operator: "<", right: 3, margin: 1}
  tables:
    - id: t
      title: %s
      note: %s
      columns: [{id: rsum, title: %s}, {id: r1, digits: 2}]
      rows:
        - {title: %s, run: gpo}
        - {title: avg, run: avg, paper: {rsum: 490.5}}
        - {title: only ours, cells: {r1: {minus: [{run: gpo, metric: r1}, 1]}}}
    - {id: deep, title: deep, columns: [{id: "12"}, {id: b, metric: "24"}], rows: [{title: r, run: gpo, prefix: n.}]}
  charts:
    - {id: dots, kind: dots, title: %s, metric: rsum, groups: {%s: {%s: gpo, b: avg}}}
    - {id: curves, kind: curves, title: curves, metric: loss, runs: {%s: gpo, b: avg}}
    - {id: theta, kind: lines, title: theta, lines: {a: {run: gpo, metric: theta}}}
    - {id: sizes, kind: lines, title: sizes, x: [12, 24], lines: {a: {run: gpo, metrics: [n.12, n.24]}}}
    - {id: empty, kind: curves, title: empty chart, metric: nothing, runs: {a: gpo}}
  pictures:
    - {title: %s, run: gpo, file: theta.png}
paper:
  runs: {real: {entry: train.py, overrides: [%s]}}
  tables:
    - {id: p, title: Table 1, columns: [{id: rsum}],
       rows: [{title: real, run: real, paper: {rsum: 527.5}, embedded: gpo}]}
"""


class Page(HTMLParser):
    """Checks that tags are balanced and collects what could reach outside."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make(tmp_path: Path, hostile: str = HOSTILE, run: bool = True, torn: bool = False):
    file = tmp_path / "reproduce.yaml"
    count = RECIPE.count("%s")
    file.write_text(RECIPE % tuple([json.dumps(hostile)] * count), encoding="utf-8")
    recipe = load_recipe(file)

    def folder(name: str, seed: int | None) -> Path:
        return tmp_path / "runs" / f"{name}-{seed}"

    scales = []
    for name, scale in recipe.scales.items():
        results = Results(scale, recipe.seeds)
        for pooling, base in (("gpo", 500.0), ("avg", 300.0)) if run and name == "mini" else ():
            for seed in recipe.seeds:
                results.of[(pooling, seed)] = {
                    "metrics": {
                        "rsum": base + seed,
                        "r1": 70.0,
                        "theta": [0.5, 0.3, 0.2],
                        "n": {"12": 1, "24": 2},
                    },
                    "seconds": 60,
                    "warnings": {hostile: 2},
                }
                place = folder(pooling, seed)
                place.mkdir(parents=True, exist_ok=True)
                lines = [json.dumps({"step": i, "loss": 1 / i}) for i in range(1, 50)]
                lines += [json.dumps({"step": 60, "loss": None}), json.dumps({"step": 61, "other": 1})]
                (place / "metrics.jsonl").write_text(
                    "\n".join(lines) + ('\n{"step": 62, "lo' if torn else "\n")
                )
                figure, (axes,) = charts.new_figure(2, 2)
                axes.plot([1, 2])
                (place / "theta.png").write_bytes(charts.to_png(figure))
        verdicts = [judge(claim, results) for claim in scale.claims]
        commands = dict.fromkeys(scale.runs, f"python train.py {hostile}")
        scales.append(
            ScaleReport(name, results, verdicts, folder, commands, frozenset({("gpo", 1)} if run else ()))
        )
    return recipe, scales


def test_the_page_is_whole_escaped_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path)
    text = report.write(tmp_path / "report", "toy", recipe, scales).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert page.text.count("alert(1)") >= 8  # shown, as text
    for address in page.addresses:
        assert address == "index.html" or address.startswith(("#", "data:image/")), address
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")
    assert page.tags.count("svg") == 4  # the chart without a curve is left out
    assert "empty chart" not in text
    assert page.tags.count("img") == 1
    assert "currentColor" in text
    assert "results are from before the last change" in page.text


def test_ids_of_several_charts_do_not_clash(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path, hostile="plain")
    text = report.write(tmp_path / "report", "toy", recipe, scales).read_text(encoding="utf-8")
    ids: list[str] = []

    class Ids(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            ids.extend(
                value for name, value in attrs if name == "id" and tag in ("clipPath", "clippath", "path")
            )

        handle_startendtag = handle_starttag

    Ids().feed(text)
    assert ids
    assert len(ids) == len(set(ids))


def test_numbers_of_the_paper_and_ours_side_by_side(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path, hostile="plain")
    report.write(tmp_path / "report", "toy", recipe, scales)
    text = (tmp_path / "report" / "toy.md").read_text(encoding="utf-8")
    assert text.splitlines()[:9] == [
        "<!-- mini: t -->",
        "| plain | source | plain | r1 |",
        "|---|---|---:|---:|",
        "| plain | ours | 501.5 ± 0.7 | 70.00 ± 0.00 |",
        "| avg | paper | 490.5 | – |",
        "|  | ours | 301.5 ± 0.7 | 70.00 ± 0.00 |",
        "| only ours | ours | – | 69.00 ± 0.00 |",
        "",
        "<!-- mini: deep -->",
    ]
    assert "| deep | 12 | b |\n|---|---:|---:|\n| r | 1.0 ± 0.0 | 2.0 ± 0.0 |" in text
    assert "| real | paper | 527.5 |\n|  | embedded data | 501.5 ± 0.7 |\n|  | ours | not run |" in text


def test_pipes_do_not_break_markdown(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path)
    report.write(tmp_path / "report", "toy", recipe, scales)
    for line in (tmp_path / "report" / "toy.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (4, 5)


def test_what_has_not_been_run_says_so(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path, hostile="plain", run=False)
    page = Page(report.write(tmp_path / "report", "toy", recipe, scales).read_text(encoding="utf-8"))
    assert "svg" not in page.tags
    assert page.text.count("not run") >= 4
    data = json.loads((tmp_path / "report" / "toy.json").read_text())
    assert [claim["status"] for claim in data["scales"]["mini"]["claims"]] == ["not run", "not run"]
    assert data["scales"]["mini"]["counts"] == {
        "passed": 0,
        "failed": 0,
        "not run": 1,
    }  # questions do not count


def test_the_torn_last_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path, hostile="plain", torn=True)
    assert (
        report.write(tmp_path / "report", "toy", recipe, scales).read_text(encoding="utf-8").count("<svg")
        == 4
    )


def test_a_picture_that_is_none_is_refused(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path, hostile="plain")
    (tmp_path / "runs" / "gpo-1" / "theta.png").write_text("<svg onload=alert(1)>")
    with pytest.raises(InputError, match=r"theta\.png: expected a PNG or JPEG"):
        report.write(tmp_path / "report", "toy", recipe, scales)


def test_the_index_holds_every_paper(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path)
    for paper in ("one", "two", "one"):
        report.write(tmp_path / "report", paper, recipe, scales)
    assert list(json.loads((tmp_path / "report" / "results.json").read_text())) == ["one", "two"]
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert page.addresses == ["one.html", "two.html"]
    assert "1 of 1 claims hold" in page.text
    (tmp_path / "report" / "three.json").write_text("{")
    with pytest.raises(InputError, match=r"three\.json"):
        report.write(tmp_path / "report", "one", recipe, scales)


def test_the_summary_fits_one_screen_and_answers(tmp_path: Path) -> None:
    recipe, scales = make(tmp_path, hostile="plain")
    text = terminal_summary(recipe, scales[0])
    assert "PASSED   plain (501.0 > 301.0; 502.0 > 302.0)" in text
    assert "NO       open (501.5 < 3 − 1)" in text
    assert "claims: 1 passed, 0 failed, 0 not run" in text


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (None, None, "not run"),
        (527.54, None, "527.5"),
        (0.0123456, None, "0.01235"),
        (1.0, 2, "1.00"),
        (float("nan"), None, "nan"),
    ],
)
def test_numbers(value: float | None, digits: int | None, shown: str) -> None:
    assert number(value, digits) == shown


def test_cells() -> None:
    assert cell_text(None) == "not run"
    assert cell_text([]) == "not run"
    assert cell_text([2.0], 1) == "2.0"
    assert cell_text([1.0, 3.0], 1) == "2.0 ± 1.4"


def test_charts_are_the_same_each_time_and_take_odd_numbers() -> None:
    groups = {"a": {"x": [1.0, float("nan"), 2.0], "y": []}, "b": {"x": [float("inf")]}}
    first = charts.dots(groups, "y", "salt")
    assert first == charts.dots(groups, "y", "salt")
    assert first.startswith("<svg")
    assert charts.INK not in first
    rng = np.random.default_rng(0)
    curve = [[(float(i), float(v)) for i, v in enumerate(rng.random(5))] for _ in range(3)]
    assert charts.lines({"a": curve, "b": [[]]}, "x", "y", "salt").count("<svg") == 1


def test_a_template_with_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    import jinja2

    (tmp_path / "page.html.j2").write_text("{{ known }} {{ unknown }}")
    with pytest.raises(jinja2.UndefinedError):
        report.render_page(tmp_path / "page.html.j2", known=1)
