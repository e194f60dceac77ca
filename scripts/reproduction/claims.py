"""Claims judged on results: every value read from the runs' results.json, compared seed by seed.

A claim that cannot be judged because a run is missing is "not run", never a guess. A results file without the
metric that a claim asks for makes the claim fail, with the reason.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.reproduction.recipe import (
    Claim,
    Combination,
    Comparison,
    JobKey,
    Metric,
    Scale,
    Value,
    metrics_of,
)
from shared.errors import InputError

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
YES, NO = "yes", "no"  # the answers to an open question


class MetricMissingError(Exception):
    """A finished run whose results do not hold a metric."""


def read_results(path: Path) -> dict[str, Any] | None:
    """A results.json, or None when it is not there. InputError when it is not a JSON object."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(results, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(results).__name__}")
    return results


def look_up(results: Mapping[str, Any], path: str) -> Any:
    """What lies at a dotted path, in `metrics` or else at the top level; KeyError when nothing does."""
    for node in (results.get("metrics"), results):
        try:
            return _walk(node, path)
        except KeyError:
            continue
    raise KeyError(path)


def _walk(node: Any, path: str) -> Any:
    if isinstance(node, dict) and path in node:
        return node[path]
    head, _, rest = path.partition(".")
    if isinstance(node, list) and head.isdecimal() and int(head) < len(node):
        child = node[int(head)]
    elif isinstance(node, dict) and rest:
        # a key may itself hold dots: the longest prefix that is a key wins
        parts = path.split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
        prefix = next((p for p in prefixes if p in node), None)
        if prefix is None:
            raise KeyError(path)
        child, rest = node[prefix], path[len(prefix) + 1 :]
    else:
        raise KeyError(path)
    return _walk(child, rest) if rest else child


@dataclass
class Results:
    """The finished runs of one scale: (run, seed) -> results.json."""

    scale: Scale
    seeds: Sequence[int]
    of: dict[JobKey, dict[str, Any]] = field(default_factory=dict)

    def value(self, value: Value, seed: int | None) -> float | None:
        """A number, or None when a run it needs has not been run. MetricMissingError: run, but without it."""
        if isinstance(value, Metric):
            return self._metric(value, seed)
        if isinstance(value, Combination):
            parts = [self.value(part, seed) for part in value.values]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            if value.kind == "minus":
                return known[0] - known[1]
            mean = math.fsum(known) / len(known)
            return {"max": max(known), "min": min(known), "mean": mean}[value.kind]
        return float(value)

    def _metric(self, metric: Metric, seed: int | None) -> float | None:
        key = self.scale.key(metric.run, seed)
        if key not in self.of:
            return None
        try:
            found = look_up(self.of[key], metric.path)
        except KeyError:
            there = ", ".join(sorted(map(str, self.of[key].get("metrics") or {}))[:8])
            raise MetricMissingError(
                f"the results of {metric.run} hold no metric {metric.path!r} (there: {there})"
            ) from None
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise MetricMissingError(f"{metric.path!r} in the results of {metric.run} is not a number")
        return float(found)

    def seeds_for(self, values: Sequence[Value]) -> list[int | None]:
        """The seeds at which values are compared: those of all their runs; [None] if no run has any."""
        seeds: list[int | None] | None = None
        for metric in (m for value in values for m in metrics_of(value)):
            own = self.scale.runs[metric.run].seeds
            mine = list(self.seeds) if own is None else list(own) if len(own) > 1 else None
            if mine is not None:
                seeds = [s for s in (mine if seeds is None else seeds) if s in mine]
        return [None] if seeds is None else seeds

    def sample(self, value: Value) -> list[float] | None:
        """`value` at every seed that has been run, or None when there is none (or a metric is missing)."""
        try:
            found = [self.value(value, seed) for seed in self.seeds_for([value])]
        except MetricMissingError:
            return None
        return [number for number in found if number is not None] or None


def mean_and_deviation(sample: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for one number)."""
    mean = math.fsum(sample) / len(sample)
    if len(sample) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in sample) / (len(sample) - 1))


@dataclass(frozen=True)
class Evidence:
    """One comparison with its numbers; `seed` is None for means and for runs without a seed."""

    seed: int | None
    left: float
    operator: str
    right: float
    margin: float
    holds: bool


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and the numbers that say so."""

    claim: Claim
    status: str
    evidence: tuple[Evidence, ...] = ()
    reason: str = ""


def judge(claim: Claim, results: Results) -> Verdict:
    """Judge one claim; `over` says whether every seed, most seeds or the means must agree."""
    seeds = results.seeds_for([side for c in claim.comparisons for side in (c.left, c.right)])
    if not seeds:
        return Verdict(claim, NOT_RUN, reason="its runs have no seed in common")
    try:
        table = [[_numbers(c, results, seed) for c in claim.comparisons] for seed in seeds]
    except MetricMissingError as error:
        return Verdict(claim, FAILED, reason=str(error))
    missing = sum(any(pair is None for pair in row) for row in table)
    if missing:
        return Verdict(claim, NOT_RUN, reason=_missing_runs(claim, results, seeds))
    rows = [[pair for pair in row if pair is not None] for row in table]
    if claim.over == "mean":
        means = [
            tuple(math.fsum(side) / len(rows) for side in zip(*column, strict=True))
            for column in zip(*rows, strict=True)
        ]
        rows, seeds = [[(left, right) for left, right in means]], [None]
    evidence, holds = [], []
    for seed, row in zip(seeds, rows, strict=True):
        one = [_evidence(c, seed, *pair) for c, pair in zip(claim.comparisons, row, strict=True)]
        evidence.extend(one)
        holds.append((any if claim.any_of else all)(e.holds for e in one))
    passed = sum(holds) * 2 > len(holds) if claim.over == "most" else all(holds)
    words = (YES, NO) if claim.question else (PASSED, FAILED)
    return Verdict(claim, words[0] if passed else words[1], tuple(evidence))


def _numbers(comparison: Comparison, results: Results, seed: int | None) -> tuple[float, float] | None:
    left, right = results.value(comparison.left, seed), results.value(comparison.right, seed)
    return None if left is None or right is None else (left, right)


def _evidence(comparison: Comparison, seed: int | None, left: float, right: float) -> Evidence:
    operator, margin = comparison.operator, comparison.margin
    holds = {
        ">": left > right + margin,
        ">=": left >= right + margin,
        "<": left < right - margin,
        "<=": left <= right - margin,
        "~": abs(left - right) <= margin,
    }[operator]
    return Evidence(seed, left, operator, right, margin, holds)


def _missing_runs(claim: Claim, results: Results, seeds: Sequence[int | None]) -> str:
    sides = [side for c in claim.comparisons for side in (c.left, c.right)]
    keys = {results.scale.key(m.run, seed) for side in sides for m in metrics_of(side) for seed in seeds}
    lacking = sorted(job_label(*key) for key in keys if key not in results.of)
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return f"no results of {', '.join(lacking[:3])}{more}"


def job_label(run: str, seed: int | None) -> str:
    """How a job is called in lines and reports."""
    return run if seed is None else f"{run} seed {seed}"
