"""Where a project's runs live, how they are started, and which of them are there already."""

import contextlib
import fnmatch
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.reproduction.claims import job_label
from scripts.reproduction.fingerprint import fingerprint
from scripts.reproduction.recipe import JobKey, Recipe, Run, Scale, fill_folders, named_runs
from shared.errors import InputError


@dataclass(frozen=True)
class Place:
    """Where one project's runs of one scale live, and how they are called."""

    repository: Path
    paper: str
    recipe: Recipe
    scale_name: str
    data_root: Path

    @property
    def project(self) -> Path:
        """The project's folder, in which its entries run."""
        return self.repository / "projects" / self.paper

    @property
    def scale(self) -> Scale:
        """The recipe's part for this scale."""
        return self.recipe.scales[self.scale_name]

    @property
    def runs(self) -> Path:
        """The folder of all runs of this scale; whatever lies in it is ours to remove."""
        return self.project / "runs" / f"reproduce-{self.scale_name}"

    def folder(self, run: str, seed: int | None) -> Path:
        """The run folder; a run without a seed of its own answers for every seed."""
        name, seed = self.scale.key(run, seed)
        return self.runs / (name if seed is None else f"{name}-seed{seed}")

    def beside(self, key: JobKey, suffix: str) -> Path:
        """A file beside the run folder (the folder itself belongs to the entry)."""
        folder = self.folder(*key)
        return folder.with_name(folder.name + suffix)

    def overrides(self, run: Run, seed: int | None) -> list[str]:
        """The hydra overrides of one job, without those that only name it."""
        return [fill_folders(text, seed, self.folder) for text in run.overrides]

    def command(self, run: Run, seed: int | None) -> list[str]:
        """The command line of one job."""
        name = self.folder(run.name, seed).relative_to(self.project / "runs").as_posix()
        seeds = [] if seed is None else [f"seed={seed}"]
        return [sys.executable, run.entry, *self.overrides(run, seed), f"name={name}", *seeds]

    def requires(self, run: Run, seed: int | None) -> frozenset[JobKey]:
        """The jobs whose folders this one reads: `after` at the same seed, `{run:NAME@SEED}` at that seed."""
        fixed = {(name, at) for text in run.overrides for name, at in named_runs(text) if at is not None}
        free = set(run.after) - {name for name, _ in fixed}
        free |= {name for text in run.overrides for name, at in named_runs(text) if at is None}
        return frozenset(self.scale.key(name, at) for name, at in fixed | {(name, seed) for name in free})

    def fingerprint(self, key: JobKey) -> dict[str, object]:
        """What this job's numbers depend on, the jobs it reads included."""
        run = self.scale.runs[key[0]]
        # where the repository lies on the disk does not change the numbers
        overrides = [text.replace(str(self.project), "") for text in self.overrides(run, key[1])]
        data = [self.data_root / path for path in run.needs]
        own = fingerprint(self.project / run.entry, [*overrides, f"seed={key[1]}"], self.repository, data)
        return {
            **own,
            "requires": {job_label(*k): self.fingerprint(k) for k in sorted(self.requires(run, key[1]))},
        }


def chosen_keys(place: Place, seeds: Sequence[int], only: Sequence[str]) -> list[JobKey]:
    """The jobs that `--only` names (all without it), and those they need, in the order of the recipe."""
    scale = place.scale
    for pattern in only:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in scale.runs):
            names = ", ".join(scale.runs)
            raise InputError(
                f"--only {pattern}: no such run in {place.recipe.file} ({place.scale_name}): {names}"
            )
    wanted = [n for n in scale.runs if not only or any(fnmatch.fnmatchcase(n, pattern) for pattern in only)]
    waiting = [(name, seed) for name in wanted for seed in scale.seeds_of(name, seeds)]
    chosen: set[JobKey] = set()
    while waiting:
        key = waiting.pop()
        if key not in chosen:
            chosen.add(key)
            waiting.extend(place.requires(scale.runs[key[0]], key[1]))
    order = list(scale.runs)
    return sorted(chosen, key=lambda key: (order.index(key[0]), key[1] or 0))


def check_data(place: Place, keys: Sequence[JobKey]) -> None:
    """InputError in one line when a file that the chosen runs need is not under the data root."""
    needed = dict.fromkeys(path for key in keys for path in place.scale.runs[key[0]].needs)
    missing = [path for path in needed if not (place.data_root / path).exists()]
    if missing:
        more = f" (and {len(missing) - 4} more)" if len(missing) > 4 else ""
        raise InputError(
            f"{place.data_root}: data for {place.paper} at the {place.scale_name} scale is missing: "
            f"{', '.join(missing[:4])}{more}; python scripts/download.py {place.paper} --list "
            "says where it comes from (--data-root DIR names another folder, --only RUN runs a part)"
        )


def is_current(place: Place, key: JobKey) -> bool:
    """Whether what lies in the run folder was made with today's overrides, code and data."""
    with contextlib.suppress(OSError, ValueError):
        return bool(
            json.loads(place.beside(key, ".state.json").read_text()) == _as_json(place.fingerprint(key))
        )
    return False


def state_of(place: Place, key: JobKey) -> dict[str, object]:
    """What is noted beside a run as it starts; one that continues after a change never counts as current."""
    state = place.fingerprint(key)
    if place.folder(*key).exists() and not is_current(place, key):
        return {**state, "changed_on_the_way": True}
    return state


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def prepare(place: Place, keys: Sequence[JobKey], fresh: bool) -> tuple[list[JobKey], list[JobKey]]:
    """Split jobs into (kept, to run) and remove the folders of those that must begin again.

    At the paper's scale nothing is removed unless `fresh` is set: weeks of training outlive an edited
    comment, and the entries themselves refuse a folder that was made with another config.
    """
    kept, to_run = [], []
    for key in keys:
        folder, current = place.folder(*key), is_current(place, key)
        careful = place.scale_name == "paper" and not fresh
        if (fresh or not current) and not careful:
            # the state goes first: a folder that is half removed must not be taken for one to continue
            place.beside(key, ".state.json").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            place.beside(key, ".log").unlink(missing_ok=True)
        if (folder / place.scale.runs[key[0]].results).is_file():
            kept.append(key)
        else:
            to_run.append(key)
    return kept, to_run
