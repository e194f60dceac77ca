"""What `eval.py` does: which splits, on which data, with which network; the rows, the tables and the numbers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from projects.semabs import checks, evaluation, sources, trained
from projects.semabs.completion_metrics import RELEASED_CUTOFFS
from projects.semabs.data import Split, open_split
from projects.semabs.evaluation_metrics import evaluation_metrics
from projects.semabs.expectations import are, expect, expect_flag, expect_whole, is_whole
from projects.semabs.item_settings import ItemSettings
from projects.semabs.model import build_network
from projects.semabs.nyu import VOXELS
from projects.semabs.splits import SPLIT_FILES, TRAIN, read_splits
from projects.semabs.stats import Stats, joined, read_stats
from projects.semabs.summarizing import tables_of
from projects.semabs.summary import METRIC, NYU_METRIC
from projects.semabs.trained import Trained
from projects.semabs.vocabulary import NOVEL_CLASSES, NOVEL_CLASSES_FILE, read_novel_classes
from shared import collectives, files
from shared.errors import InputError
from shared.log import Run
from shared.runtime import Runtime, gather_objects

NYU_DATA = "nyu"  # name of the data whose labels are merged into the benchmark's classes


@dataclass(frozen=True)
class Job:
    """A network and what it is evaluated on.

    Attributes:
        model: with the settings that it was trained with.
        data: the `data` section: where the scenes are.
        items: how a scene becomes an item.
        splits: in the order of the split file; the validation split is the last.
        validation: the split that only chooses a cutoff; None = there is none.
        cutoffs, grids: see `evaluation.Protocol`.
        is_nyu: NYU's 11 classes.
    """

    model: Trained
    data: Mapping[str, Any]
    items: Mapping[str, Any]
    splits: Sequence[str]
    validation: str | None
    cutoffs: Sequence[float]
    grids: Sequence[int]
    is_nyu: bool

    @property
    def metric(self) -> str:
        """The column that is reported and chooses the cutoff."""
        return NYU_METRIC if self.is_nyu else METRIC

    def open(self, name: str, seed: int) -> Split:
        """A split's scenes."""
        model = self.model.settings["model"]
        return open_split(
            root=self.data["root"],
            split=name,
            task=self.model.task,
            items=self.items,
            network_inputs=sources.network_inputs(model),
            voxel_shape=model["voxel_shape"],
            seed=seed,
            max_items=self.data["max_items"],
        )

    def novel_classes(self) -> Sequence[str]:
        """Classes that no training scene has: the data's file, else the paper's six."""
        file = Path(self.data["root"]) / NOVEL_CLASSES_FILE
        return read_novel_classes(file) if file.exists() else NOVEL_CLASSES


def prepare(settings: Mapping[str, Any], runtime: Runtime) -> Job:
    """Load the model, make embedded data that are missing, and look up the splits. To be called on all ranks.

    InputError: a setting that cannot be meant, no such model, data or split.
    """
    _check(settings)
    model = trained.load(settings["model"])
    data = settings.get("data") or model.settings.get("data")
    if not data or "root" not in data:
        raise InputError(f"{model.path}: says nothing about its data: add data=thor (or mini, nyu)")
    sources.prepare(data, runtime)
    items = {**asdict(ItemSettings()), **model.settings["items"], **settings["items"]}
    items |= {"domain_randomization": False, "balance_spatial_sampling": False}
    checks.check_items({"items": items})
    is_nyu = data["name"] == NYU_DATA if settings["nyu"] is None else settings["nyu"]
    if is_nyu and model.task != "ovssc":
        raise InputError(f"nyu: expected a model of the task ovssc, found {model.task}: {model.path}")
    splits, validation = _splits(settings, Path(data["root"]) / SPLIT_FILES[model.task])
    return Job(
        model=model,
        data=data,
        items=items,
        splits=splits,
        validation=validation,
        cutoffs=_cutoffs(settings["cutoffs"], model),
        grids=[VOXELS] if is_nyu else settings["grids"],
        is_nyu=is_nyu,
    )


def evaluate(job: Job, settings: Mapping[str, Any], run: Run, runtime: Runtime) -> Stats:
    """The rows of all splits, the same on all ranks; scenes that a killed run has done are not done again."""
    folder, network = run.dir / "rows", _network(job, settings, runtime)
    _forget_other(folder, job, runtime)
    table = run.dir / f"{job.model.task}_eval_stats.npz"
    if gather_objects(table.exists())[0]:
        return read_stats(table)
    parts = []
    for name in job.splits:
        split = job.open(name, settings["seed"])
        if len(split) == 0:
            run.warn("empty split", f"{name} has no scenes")
            continue
        parts.append(
            evaluation.evaluate_split(
                network, split, task=job.model.task, cutoffs=job.cutoffs, runtime=runtime,
                epoch=evaluation.epoch_of(job.model.progress), workers=settings["workers"],
                folder=folder / name, label=name, grids=job.grids, occluded=settings["occluded"],
                permuted=settings["permute_relevancies"], merge_nyu=job.is_nyu,
            )
        )  # fmt: skip
    if not parts:
        raise InputError(f"{job.data['root']}: no scenes in the splits {', '.join(job.splits)}")
    stats = joined(parts)
    if runtime.is_main:
        stats.write(table.with_suffix(".csv"))
        stats.write(table)
    collectives.barrier()
    return stats


def report(job: Job, stats: Stats) -> tuple[str, dict[str, Any]]:
    """(tables as text, numbers for results.json)."""
    novel = job.novel_classes()
    kind = "nyu" if job.is_nyu else job.model.task
    tables = tables_of(kind, {job.model.name: stats}, job.metric, job.validation, novel)
    metrics = evaluation_metrics(
        stats, job.model.task, metric=job.metric, validation=job.validation, novel=novel, is_nyu=job.is_nyu
    )
    return "\n\n".join(table.text() for table in tables.values()), metrics


def _check(settings: Mapping[str, Any]) -> None:
    expect_flag(settings, "occluded", "permute_relevancies")
    expect_whole(settings, "back_projection", "workers", or_null=True)
    grids = settings["grids"]
    fits = are(grids, is_whole) and bool(grids) and min(grids) >= 2
    expect("grids", fits, "voxels per axis, e.g. [32,64]", grids)
    expect("nyu", settings["nyu"] in (None, True, False), "true, false or null", settings["nyu"])


def _cutoffs(given: Any, model: Trained) -> list[float]:
    """Those of the settings, else of the model's own validation, else the released ones."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        expect(
            "cutoffs", bool(given) and all(isinstance(one, int | float) for one in given), "numbers", given
        )
        return [float(one) for one in given]
    given = given or (model.settings.get("validation") or {}).get("cutoffs")
    return [float(one) for one in RELEASED_CUTOFFS] if given is None else checks.cutoffs(given)


def _splits(settings: Mapping[str, Any], file: Path) -> tuple[list[str], str | None]:
    """The splits to evaluate, the one that only chooses a cutoff last, and its name."""
    known, validation = list(read_splits(file)), settings["validation_split"]
    wanted = settings["splits"]
    if wanted is None:
        wanted = [name for name in known if name != TRAIN]
    for name in wanted:
        if name not in known:
            raise InputError(f"splits: expected some of {', '.join(known)} ({file}), found {name!r}")
    if validation not in known:
        validation = None
    reported = [name for name in wanted if name != validation]
    return [*reported, *([validation] if validation else [])], validation


def _network(job: Job, settings: Mapping[str, Any], runtime: Runtime) -> nn.Module:
    model = job.model.settings["model"]
    if settings["back_projection"] is not None:
        return build_network(
            task=job.model.task, approach="back_projection", dilation=settings["back_projection"],
            voxel_shape=model["voxel_shape"], bounds=job.items["scene_bounds"],
        ).to(runtime.device)  # fmt: skip
    network = job.model.network.to(runtime.device)
    if job.model.task == "vool" and model["approach"] == "semantic_aware":
        network.names.encode = sources.text_encoder({"model": model, "data": job.data}, runtime)  # type: ignore[union-attr]
    return network


def _forget_other(folder: Path, job: Job, runtime: Runtime) -> None:
    """Remove rows that another state of the model's file, or other lists of scenes, have left."""
    if runtime.is_main:
        path = Path(job.model.path)
        lists = {name: [one.name for one in job.open(name, 0).paths] for name in job.splits}
        asked = {
            "model": files.sha256(path),
            "scenes": hashlib.sha256(repr(sorted(lists.items())).encode()).hexdigest(),
            "cutoffs": list(job.cutoffs),
        }
        about = folder / "of.json"
        if not about.exists() or files.read_json(about) != asked:
            for old in [*folder.glob("*/*.npz"), *folder.parent.glob("*_eval_stats.*")]:
                old.unlink()
            files.write_json(about, asked)
    collectives.barrier()
