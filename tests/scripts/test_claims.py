"""reproduce.yaml read and its claims judged."""

import json
import math
from pathlib import Path

import pytest

from scripts.reproduction.claims import Results, judge, look_up, mean_and_deviation, read_results
from scripts.reproduction.reader import load_recipe
from scripts.reproduction.recipe import Recipe
from shared.errors import InputError


def load(tmp_path: Path, text: str) -> Recipe:
    file = tmp_path / "reproduce.yaml"
    file.write_text(text, encoding="utf-8")
    return load_recipe(file)


RUNS = """
title: T
seeds: [1, 2, 3]
mini:
  runs:
    "{x}": {each: {x: [a, b, c]}, entry: train.py}
    once: {entry: train.py, seeds: none}
    first: {entry: train.py, seeds: [2]}
"""
VALUES = {"a": (10, 20, 30), "b": (9, 21, 29), "c": (1, 2, 3)}


def judged(tmp_path: Path, claim: str, missing: set = frozenset()):
    recipe = load(tmp_path, RUNS + f"  claims:\n    - {{id: i, text: t, why: w, {claim}}}\n")
    scale = recipe.scales["mini"]
    results = Results(scale, recipe.seeds)
    for run, numbers in VALUES.items():
        for seed, number in zip((1, 2, 3), numbers, strict=True):
            results.of[(run, seed)] = {"metrics": {"m": number, "nan": math.nan, "text": "x", "yes": True}}
    results.of[("once", None)] = {"metrics": {"m": 15}}
    results.of[("first", 2)] = {"metrics": {"m": 20}}
    for key in missing:
        del results.of[key]
    return judge(scale.claims[0], results)


A, B, C = (f"{{run: {name}, metric: m}}" for name in "abc")


@pytest.mark.parametrize(
    ("claim", "status"),
    [
        (f"left: {A}, operator: '>', right: {B}", "failed"),  # 20 < 21 for the second seed
        (f"left: {A}, operator: '>', right: {B}, over: most", "passed"),
        (f"left: {A}, operator: '>', right: {B}, over: mean", "passed"),  # 20 > 19.67
        (f"left: {A}, operator: '>', right: {B}, over: mean, margin: 1", "failed"),
        (f"left: {A}, operator: '>', right: {B}, margin: -2", "passed"),
        (f"left: {A}, operator: '~', right: {B}, margin: 1", "passed"),
        (f"left: {A}, operator: '~', right: {B}, margin: 0.5", "failed"),
        (f"left: {C}, operator: '<', right: {A}, margin: 9", "failed"),  # 1 < 10 - 9 does not hold
        (f"left: {C}, operator: '<=', right: {A}, margin: 9", "passed"),
        (f"left: {C}, operator: '>=', right: 1", "passed"),
        (f"left: {C}, operator: '>', right: 1", "failed"),
        (f"left: {A}, operator: '>=', right: {{max: [{B}, {C}]}}, over: most", "passed"),
        (f"left: {A}, operator: '>', right: {{mean: [{B}, {C}, 0]}}", "passed"),
        (f"left: {{minus: [{A}, {C}]}}, operator: '~', right: {{min: [9, 18, 27]}}, margin: 0", "failed"),
        (f"left: {{minus: [{A}, {C}]}}, operator: '>', right: 8.9", "passed"),
        (
            f"left: {A}, operator: '>', right: {{run: once, metric: m}}",
            "failed",
        ),  # one run against every seed
        (f"left: {A}, operator: '>=', right: {{run: first, metric: m}}, over: most", "passed"),
        ("left: {run: once, metric: m}, operator: '>=', right: 15", "passed"),
        (
            f"any_of: [{{left: {A}, operator: '>', right: {B}}}, {{left: {B}, operator: '>', right: {A}}}]",
            "passed",
        ),
        (
            f"all_of: [{{left: {A}, operator: '>', right: {B}}}, {{left: {B}, operator: '>', right: {A}}}]",
            "failed",
        ),
        (f"left: {A}, operator: '>', right: {{run: a, metric: nan}}", "failed"),
        (f"left: {A}, operator: '<', right: {{run: a, metric: nan}}", "failed"),
        (f"left: {A}, operator: '>', right: {B}, question: true", "no"),
        (f"left: {B}, operator: '>', right: {C}, question: true", "yes"),
    ],
)
def test_verdicts(tmp_path: Path, claim: str, status: str) -> None:
    verdict = judged(tmp_path, claim)
    assert verdict.status == status, verdict
    assert verdict.evidence


def test_evidence_holds_the_numbers_of_each_seed(tmp_path: Path) -> None:
    verdict = judged(tmp_path, f"left: {A}, operator: '>', right: {B}, margin: -0.5")
    assert [(e.seed, e.left, e.right, e.holds) for e in verdict.evidence] == [
        (1, 10, 9, True),
        (2, 20, 21, False),
        (3, 30, 29, True),
    ]


@pytest.mark.parametrize("metric", ["absent", "text", "yes", "m.deeper"])
def test_results_without_the_metric_fail_the_claim_with_the_reason(tmp_path: Path, metric: str) -> None:
    verdict = judged(tmp_path, f"left: {{run: a, metric: {metric}}}, operator: '>', right: 1")
    assert verdict.status == "failed"
    assert metric in verdict.reason


def test_a_missing_run_leaves_the_claim_open(tmp_path: Path) -> None:
    verdict = judged(tmp_path, f"left: {A}, operator: '>', right: {C}", missing={("c", 3), ("a", 3)})
    assert verdict.status == "not run"
    assert verdict.reason == "no results of a seed 3, c seed 3"
    assert not verdict.evidence


def test_metric_paths() -> None:
    results = {"metrics": {"a": {"b.c": [5, {"d": 6}]}, "e.f": 7, "e": {"f": 8}}, "top": {"x": 9}}
    assert look_up(results, "a.b.c.0") == 5
    assert look_up(results, "a.b.c.1.d") == 6
    assert look_up(results, "e.f") == 7  # a key with a dot is found as such first
    assert look_up(results, "top.x") == 9
    for path in ("a.b", "a.b.c.2", "a.b.c.-1", "nothing", "e.f.g", ""):
        with pytest.raises(KeyError):
            look_up(results, path)


def test_mean_and_deviation() -> None:
    assert mean_and_deviation([4.0]) == (4.0, None)
    mean, deviation = mean_and_deviation([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert deviation == pytest.approx(1.5275252316519468)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_results_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    assert read_results(path) is None
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"results\.json"):
        read_results(path)


def test_runs_are_multiplied_out(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        """
title: T
mini:
  common: [device=cpu]
  runs:
    "{data}-{pooling}":
      each: {data: [x, y], pooling: [avg, k2, 7]}
      without: [{data: y, pooling: k2}]
      entry: train.py
      overrides: ["data={data}", "pool={pooling}", "gpo={dim:32}"]
      set: {pooling: {k2: ["k=2", "for={data}"]}}
      seconds: {pooling: {avg: 3}}
    eval: {entry: eval.py, overrides: ["model={run:x-avg}", "other={run:y-avg@1}"], seeds: [1]}
""",
    )
    scale = recipe.scales["mini"]
    assert list(scale.runs) == ["x-avg", "x-k2", "x-7", "y-avg", "y-7", "eval"]
    assert scale.runs["x-k2"].overrides == (
        "device=cpu", "data=x", "pool=k2", "gpo={dim:32}", "k=2", "for=x",
    )  # fmt: skip
    assert [run.seconds for run in scale.runs.values()] == [3, 30, 30, 3, 30, 30]
    assert scale.runs["eval"].after == ("x-avg", "y-avg")
    assert recipe.first_seeds(None) == (1, 2, 3)
    assert recipe.first_seeds(2) == (1, 2)
    assert recipe.first_seeds(5) == (1, 2, 3, 4, 5)


CLAIM = "id: i, text: t, why: w"
MISTAKES = {
    "[]": "top level: expected a mapping, found list",
    "title: T\nminimal: {}": "unknown key 'minimal'",
    "mini: {}": "the key 'title' is missing",
    "title: T: U": "not valid YAML",
    "title: T\nseeds: [1, 1]": "different integers",
    "title: T\nseeds: []": "different integers",
}
MISTAKES_IN_RUNS = {
    "a: {}": "'entry' is missing",
    "a: {entry: t.py, overides: []}": "unknown key 'overides'",
    "'a/b': {entry: t.py}": "run name 'a/b'",
    "'..': {entry: t.py}": "run name '..'",
    "'{x}': {entry: t.py}": "{x} in '{x}' is not a word",
    "'{x}': {entry: t.py, each: {x: [a, a]}}": "a second run is called 'a'",
    "a: {entry: t.py, after: [b]}": "no run 'b'",
    "a: {entry: t.py, overrides: ['m={run:b}']}": "no run 'b'",
    "a: {entry: t.py, after: [b]}, b: {entry: t.py, after: [a]}": "waits for itself",
    "a: {entry: t.py, seeds: some}": "expected all, none or a list of integers, found 'some'",
    "a: {entry: t.py, seeds: []}": "expected all, none or a list of integers",
    "a: {entry: t.py, seconds: fast}": "expected a number",
    "a: {entry: t.py, set: [1]}": "not of the form that a recipe has",
}
MISTAKES_IN_PARTS = {
    f"claims: [{{{CLAIM}}}]": "expected exactly one of",
    f"claims: [{{{CLAIM}, left: 1, any_of: []}}]": "expected exactly one of",
    f"claims: [{{{CLAIM}, any_of: []}}]": "something to compare",
    "claims: [{id: i, text: t, left: 1, operator: '>', right: 2}]": "'why' is missing",
    f"claims: [{{{CLAIM}, left: 1, operator: '=', right: 2}}]": "operator '='",
    f"claims: [{{{CLAIM}, left: {{run: a, metric: m}}, operator: '>', right: 2}}]": "no run 'a' at the mini",
    f"claims: [{{{CLAIM}, left: {{sum: [1]}}, operator: '>', right: 2}}]": "max, min, mean, minus",
    f"claims: [{{{CLAIM}, left: {{minus: [1]}}, operator: '>', right: 2}}]": "two values",
    f"claims: [{{{CLAIM}, left: abc, operator: '>', right: 2}}]": "expected a number, found 'abc'",
    f"claims: [{{{CLAIM}, left: true, operator: '>', right: 2}}]": "expected a number, found True",
    f"claims: [{{{CLAIM}, left: 1, operator: '>', right: 2, over: all}}]": "over is seeds, mean or most",
    "tables: [{id: i, title: t, columns: [{id: a}], rows: [{title: r, paper: {b: 1}}]}]": "unknown key 'b'",
    "tables: [{id: i, title: t, columns: [{id: a}], rows: [{title: r, run: b}]}]": "no run 'b'",
    "tables: [{id: i, title: t, columns: [{id: a}], rows: [{title: r, embedded: b}]}]": "no run 'b'",
    "charts: [{id: i, title: t, kind: pie}]": "kind 'pie'",
    "charts: [{id: i, title: t, kind: dots, metric: m}]": "needs the key 'groups'",
    "charts: [{id: i, title: t, kind: curves, metric: m, runs: {x: y}}]": "no run 'y'",
    "runs: {a: {entry: t.py}}, pictures: [{title: t, run: a, file: ../x.png}]": "inside the run's folder",
}
MISTAKES |= {f"title: T\nmini: {{runs: {{{runs}}}}}": words for runs, words in MISTAKES_IN_RUNS.items()}
MISTAKES |= {f"title: T\nmini: {{{parts}}}": words for parts, words in MISTAKES_IN_PARTS.items()}


@pytest.mark.parametrize(("text", "words"), MISTAKES.items())
def test_a_mistake_is_one_line_that_names_file_and_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, text)
    assert words in str(error.value)
    assert str(tmp_path / "reproduce.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_ids_are_different(tmp_path: Path) -> None:
    claim = f"{{{CLAIM}, left: 1, operator: '>', right: 0}}"
    with pytest.raises(InputError, match="two of them have the id 'i'"):
        load(tmp_path, f"title: T\nmini: {{claims: [{claim}, {claim}]}}")


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    claim = "{id: i, text: t, why: w, left: 1e-3, operator: '<', right: 0.01}"
    recipe = load(tmp_path, f"title: T\nmini: {{claims: [{claim}]}}")
    assert recipe.scales["mini"].claims[0].comparisons[0].left == pytest.approx(0.001)
    assert judge(recipe.scales["mini"].claims[0], Results(recipe.scales["mini"], (1,))).status == "passed"


def test_results_of_a_run_are_plain_json(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"metrics": {"a": 1}}))
    assert read_results(tmp_path / "results.json") == {"metrics": {"a": 1}}
