"""One command from nothing to a compared result.

    python scripts/reproduce.py vseinfty                          the embedded data, minutes on two cores
    python scripts/reproduce.py vseinfty --scale paper --data-root DIR --only 'f30k-region-*'
    python scripts/reproduce.py all                               every project that has a reproduce.yaml

Runs what projects/<paper>/reproduce.yaml lists (a finished run is kept while configs and code are the same; a
killed one continues), checks its claims, and writes runs/report/index.html, results.json and README tables.
Exit status: 0 all claims hold, 1 a run or a claim failed, 2 something the user can mend, 130 interrupted.
"""

import argparse
import contextlib
import fcntl
import io
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.reproduction import report
from scripts.reproduction.claims import FAILED, Results, job_label, judge, read_results
from scripts.reproduction.jobs import FINISHED, Display, Job, Pool
from scripts.reproduction.place import Place, check_data, chosen_keys, is_current, prepare, state_of
from scripts.reproduction.reader import load_recipe
from scripts.reproduction.recipe import SCALES, JobKey
from scripts.reproduction.tables import ScaleReport, terminal_summary
from shared.errors import InputError
from shared.files import write_json

REPOSITORY = Path(__file__).resolve().parents[1]
_BYTES_PER_RUN = 1.5e9  # what one small training run may need in memory; decides how many go at once


def machine_slots(jobs: int | None, scale_name: str) -> list[dict[str, str]]:
    """The environment of each job that runs at a time: threads, and a GPU of its own at the paper's scale."""
    cores = _cores()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = devices.split(",") if devices else [d.name for d in Path("/proc/driver/nvidia/gpus").glob("*")]
    gpus = found if devices else [str(i) for i in range(len(found))]
    if scale_name == "paper":
        count = jobs or max(1, len(gpus))
    else:
        count = jobs or max(1, min(cores, int(_free_memory() / _BYTES_PER_RUN)))
    threads = str(max(1, cores // count))
    slots = [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(count)]
    if scale_name == "paper" and gpus:
        slots = [{**slot, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i, slot in enumerate(slots)]
    return slots


def _cores() -> int:
    """As `shared.runtime.available_cores`, without importing torch for it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def _free_memory() -> float:
    with contextlib.suppress(OSError, StopIteration, ValueError), open("/proc/meminfo") as file:
        line = next(line for line in file if line.startswith("MemAvailable"))
        return float(line.split()[1]) * 1024
    return 8e9


@contextlib.contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Held while the runs of a scale go on: two reproductions of one project would share their folders."""
    place.runs.mkdir(parents=True, exist_ok=True)
    with open(place.runs / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{place.runs}: another reproduction of {place.paper} is running there"
            ) from None
        yield


def run_all(place: Place, keys: Sequence[JobKey], arguments: argparse.Namespace, display: Display) -> bool:
    """Run what is not finished; False when a run failed."""
    with only_one(place):
        kept, to_run = prepare(place, keys, arguments.fresh)
        slots = machine_slots(arguments.jobs, place.scale_name)
        known = f", {len(kept)} finished before" if kept else ""
        display.note(
            f"{place.paper} ({place.scale_name} scale): {len(to_run)} runs, {len(slots)} at a time{known}"
        )
        environment = {
            "WORDSIGHT_DATA": str(place.data_root),
            "WORDSIGHT_PROGRESS_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        jobs = []
        for key in to_run:
            run = place.scale.runs[key[0]]
            jobs.append(
                Job(
                    key=key,
                    command=place.command(run, key[1]),
                    folder=place.project,
                    log=place.beside(key, ".log"),
                    results=place.folder(*key) / run.results,
                    expected_seconds=run.seconds,
                    requires=place.requires(run, key[1]),
                    environment=environment,
                )
            )
        # written as a run starts: a killed one continues only if nothing has changed since then
        states = {key: state_of(place, key) for key in to_run}
        outcome = Pool(jobs, slots, display).run(
            before=lambda job: write_json(place.beside(job.key, ".state.json"), states[job.key])
        )
    return all(state == FINISHED for state in outcome.values())


def collect(place: Place, seeds: Sequence[int]) -> ScaleReport:
    """Read every result that is there and judge the claims of one scale."""
    results = Results(place.scale, seeds)
    stale, commands = set(), {}
    for name, run in place.scale.runs.items():
        own_seeds = place.scale.seeds_of(name, seeds)
        commands[name] = shlex.join(["python", *place.command(run, own_seeds[0])[1:]])
        for seed in own_seeds:
            found = read_results(place.folder(name, seed) / run.results)
            if found is not None:
                results.of[(name, seed)] = found
                if not is_current(place, (name, seed)):
                    stale.add((name, seed))
    verdicts = [judge(claim, results) for claim in place.scale.claims]
    return ScaleReport(place.scale_name, results, verdicts, place.folder, commands, frozenset(stale))


def reproduce(paper: str, arguments: argparse.Namespace, repository: Path, display: Display) -> bool:
    """Run, judge and report one paper; True when every run and every claim of the chosen scale is good."""
    recipe = load_recipe(repository / "projects" / paper / "reproduce.yaml")
    data_root = Path(arguments.data_root or os.environ.get("WORDSIGHT_DATA") or repository / "data").resolve()
    places = {name: Place(repository, paper, recipe, name, data_root) for name in SCALES}
    place, seeds = places[arguments.scale], recipe.first_seeds(arguments.seeds)
    keys = chosen_keys(place, seeds, arguments.only)
    if arguments.list:
        for key in keys:
            command = place.command(place.scale.runs[key[0]], key[1])
            print(f"{job_label(*key):32}  {shlex.join(['python', *command[1:]])}")
        return True
    good = True
    if not arguments.report_only:
        if not keys:
            raise InputError(f"{recipe.file}: no runs at the {arguments.scale} scale")
        check_data(place, keys)
        good = run_all(place, keys, arguments, display)
    scales = [
        collect(places[name], seeds)
        for name in SCALES
        if recipe.scales[name].runs or recipe.scales[name].tables
    ]
    current = next((scale for scale in scales if scale.name == arguments.scale), None)
    page = report.write(repository / "runs" / "report", paper, recipe, scales)
    if current is not None:
        print(terminal_summary(recipe, current))
    print(f"report: {os.path.relpath(page)}")
    return good and not (current and any(verdict.status == FAILED for verdict in current.verdicts))


def papers_named(paper: str, repository: Path) -> list[str]:
    """`all` or one paper -> the projects to reproduce. InputError when there is none."""
    there = sorted(file.parent.name for file in (repository / "projects").glob("*/reproduce.yaml"))
    if paper == "all":
        if not there:
            raise InputError(f"{repository / 'projects'}: no project has a reproduce.yaml")
        return there
    if paper not in there:
        raise InputError(
            f"{paper!r} is not a paper that can be reproduced; there are: all, {', '.join(there)}"
        )
    return [paper]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
        return int(text)

    parser = argparse.ArgumentParser(
        prog="scripts/reproduce.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paper", nargs="?", default="all", help="a folder of projects/, or all (default)")
    parser.add_argument(
        "--scale", choices=SCALES, default="mini", help="embedded data (default) or the paper's"
    )
    parser.add_argument(
        "--seeds", type=positive, metavar="N", help="how many seeds (default: as the recipe says)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="default: $WORDSIGHT_DATA, else data/")
    parser.add_argument(
        "--jobs", type=positive, metavar="J", help="runs at a time (default: as the machine allows)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="RUN",
        help="these runs (* and ? allowed), and what they need",
    )
    parser.add_argument("--fresh", action="store_true", help="throw the chosen runs away and begin again")
    parser.add_argument("--report-only", action="store_true", help="run nothing; report what is there")
    parser.add_argument("--list", action="store_true", help="print the runs and their commands, and end")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, repository: Path = REPOSITORY) -> int:
    """Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ± or bar
    arguments, display, status = parse(argv), Display(), 0
    try:
        for paper in papers_named(arguments.paper, repository):
            try:
                status = max(status, 0 if reproduce(paper, arguments, repository, display) else 1)
            except (InputError, OSError) as error:
                print(f"error: {error}", file=sys.stderr)
                status = 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
