"""Measure a project's fast paths beside the plain way of doing the same: `python scripts/bench.py vseinfty`.

The cases are `CASES` of `projects/<paper>/bench.py`. The sides of a case take turns (A B A B ...), so that a
machine that drifts slows both; ratios are formed within a turn. Peak memory is measured in a process of its
own per side. The exit status says whether all sides agree in their results, not whether a ratio was reached.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from shared.bench import Case, Sides
from shared.files import write_json

REPOSITORY = Path(__file__).resolve().parents[1]
MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print the table; 1 when two sides of a case disagree, 2 for a wrong command line."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    cases: list[Case] = importlib.import_module(f"projects.{options.paper}.bench").CASES
    if unknown := set(options.only) - {case.name for case in cases}:
        print(
            f"error: no case {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in cases)}",
            file=sys.stderr,
        )
        return 2
    if options.side:
        case = next(case for case in cases if case.name == options.only[0])
        print(json.dumps(peak_memory(case.make(options.quick)[options.side])))
        return 0
    results = []
    print(machine_line(), flush=True)
    for case in cases:
        if options.only and case.name not in options.only:
            continue
        print(f"\n{case.name}: {case.about}", flush=True)
        result = measure(case, quick=options.quick, seconds=options.seconds)
        if case.memory or case.memory_limit:
            result["memory"] = {side: _peak_of(options, case.name, side) for side in result["seconds"]}
        print("\n".join(lines(case, result)), flush=True)
        results.append(result)
    if options.json:
        write_json(options.json, {"machine": machine_line(), "quick": options.quick, "cases": results})
    return 1 if any("disagreement" in result for result in results) else 0


def measure(case: Case, *, quick: bool, seconds: float) -> dict[str, Any]:
    """Times of every side in turns, for about `seconds` (3 to 9 turns), after one warm-up turn that is
    checked.
    """
    sides = case.make(quick)
    result: dict[str, Any] = {"name": case.name, "about": case.about, "quick": quick}
    started = time.perf_counter()
    outputs, times = _turn(sides)
    try:
        result["agreement"] = case.check(outputs)
    except AssertionError as error:
        result["disagreement"] = (
            str(error).strip().splitlines()[0] if str(error).strip() else "results differ"
        )
    del outputs
    turns = [] if quick or sum(times.values()) < seconds / 4 else [times]  # a long turn needs no warming up
    while len(turns) < (1 if quick else 3) or (
        len(turns) < 9 and time.perf_counter() - started < seconds and not quick
    ):
        turns.append(_turn(sides)[1])
    result["seconds"] = {side: _spread([turn[side] for turn in turns]) for side in sides}
    result["ratios"] = [
        {
            "side": target.side,
            "than": target.than,
            "target": target.ratio,
            **_spread([turn[target.than] / turn[target.side] for turn in turns]),
        }
        for target in case.targets
    ]
    return result


def peak_memory(side: Callable[[], Any]) -> dict[str, int]:
    """Bytes resident at the highest point while `side` runs: of the `process`, and `added` to what was there
    before.
    """
    before = _status_bytes("VmRSS")
    resettable = _reset_peak()
    side()
    peak = _status_bytes("VmHWM") if resettable else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"process": peak, "added": max(0, peak - before)}


def lines(case: Case, result: Mapping[str, Any]) -> list[str]:
    """The printed block of one case."""
    width = max(len(side) for side in result["seconds"])
    out = []
    for side, spread in result["seconds"].items():
        least, most = _seconds(spread["min"]), _seconds(spread["max"])
        line = f"  {side:{width}}  {_seconds(spread['median'])}  [{least} {most}]"
        if "memory" in result:
            memory = result["memory"][side]
            line += (
                f"   peak {memory['process'] / MIB:6.0f} MiB ({memory['added'] / MIB:.0f} added by the run)"
            )
            if limit := case.memory_limit.get(side):
                line += f", limit {limit / MIB:.0f} MiB" + _verdict(
                    memory["process"] < limit, result["quick"]
                )
        out.append(line)
    for ratio in result["ratios"]:
        spread = f"{ratio['median']:.2f}x as fast as {ratio['than']}  [{ratio['min']:.2f} {ratio['max']:.2f}]"
        if ratio["target"] is not None:
            reached = _verdict(ratio["median"] >= ratio["target"], result["quick"])
            spread += f", target {ratio['target']:.2f}{reached}"
        out.append(f"  {ratio['side']}: {spread}")
    out.append(
        "  RESULTS DISAGREE: " + result["disagreement"]
        if "disagreement" in result
        else "  " + result["agreement"]
    )
    return out


def _verdict(reached: bool, quick: bool) -> str:
    return " (tiny inputs: not measured)" if quick else ": met" if reached else ": MISSED"


def machine_line() -> str:
    """CPU, cores, threads and torch, in one line."""
    model = platform.processor() or platform.machine()
    try:
        names = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0].split(":", 1)[1].strip() if names else model
    except OSError:
        pass
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}{load}"
    )


def _turn(sides: Sides) -> tuple[dict[str, Any], dict[str, float]]:
    outputs, times = {}, {}
    for name, side in sides.items():
        start = time.perf_counter()
        outputs[name] = side()
        times[name] = time.perf_counter() - start
    return outputs, times


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "turns": len(values)}


def _seconds(value: float) -> str:
    return f"{value:7.3f} s " if value >= 1 else f"{1000 * value:7.2f} ms"


def _peak_of(options: argparse.Namespace, case: str, side: str) -> dict[str, int]:
    command = [sys.executable, str(Path(__file__).resolve()), options.paper, "--only", case, "--side", side]
    command += ["--quick"] if options.quick else []
    command += ["--threads", str(options.threads)] if options.threads else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode:
        raise SystemExit(f"measuring the memory of {case}, {side} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _reset_peak() -> bool:
    """Forget the highest resident size so far (Linux); False where the system does not offer it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field + ":")), 0
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    papers = sorted(path.parent.name for path in REPOSITORY.glob("projects/*/bench.py"))
    parser = argparse.ArgumentParser(
        description="Compare a project's fast paths with the plain way of doing the same."
    )
    parser.add_argument("paper", choices=papers)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a case; may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="tiny inputs, one turn: tests the bench, measures nothing"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="time for the turns of one case (default 10)"
    )
    parser.add_argument("--threads", type=int, help="threads of the matrix library (default: its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as well")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
