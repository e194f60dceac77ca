"""The tasks of export.py, and what their files are called."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.babel import snapshots
from projects.babel.data import DataSet
from projects.babel.expectations import expect_positive, expect_whole
from projects.babel.export_sources import ExportSource
from projects.babel.exports import FORMATS, TASKS, Exporter
from projects.babel.match_jobs import choose_layers
from projects.babel.segmenting import ViewPlan
from projects.babel.trained import Trained
from shared.errors import InputError
from shared.runtime import Runtime


def check(settings: Mapping[str, Any]) -> None:
    """InputError for an unknown task or choice, before anything is loaded."""
    choices = {"task": TASKS, "format": FORMATS, "labels": ("best", "all")}
    for name, known in choices.items():
        if settings[name] not in known:
            raise InputError(f"{name}: expected one of {', '.join(known)}, found {settings[name]!r}")
    expect_positive("background_power", settings["background_power"])
    expect_whole(settings, "batch_size", least=1)
    expect_whole(settings, "size", least=1, or_null=True)


def file_base(folder: Path, task: str, split: str, model: Trained) -> Path:
    """As the released exports are called, without an ending; signs that a file name must not have become `-`."""
    snapshot = model.path.stem.removeprefix(snapshots.MODEL)
    run = re.sub(r"[^\w.+-]", "-", str(model.settings.get("name", model.path.parent.name)))
    return folder / task / f"landmark{split}" / f"export_{task}_{split}_{run}_{snapshot}"


def export(
    settings: Mapping[str, Any], model: Trained, data: DataSet, folder: Path, runtime: Runtime, plan: ViewPlan
) -> tuple[list[Path], list[str]]:
    """Do the task (`plan`: of segmentation); the files that were written, and lines for the terminal."""
    task, split = settings["task"], settings["split"]
    source = ExportSource(data, split, model.concepts)
    lines: list[str] = []
    layer, *others = choose_layers(settings["layer"], model)
    if others:
        raise InputError(f"layer: expected one, found {len(others) + 1}")
    exporter = Exporter(
        model,
        source,
        runtime,
        layer,
        size=settings["size"] or data.size,
        batch_size=settings["batch_size"],
        workers=settings["workers"],
        format=settings["format"],
    )
    base = file_base(folder, task, split, model)
    if task == "features":
        files = exporter.features(base)
    elif task in ("kp_feature", "kp_score"):
        files = exporter.keypoints(base, task)
    elif task == "segmentation":
        how = {"labels": settings["labels"], "background_power": float(settings["background_power"])}
        files = exporter.segmentation(base, plan=plan, **how)
    else:
        files, scores = exporter.average_precision(base) if task == "AP" else exporter.accuracy(base)
        found = {"mAP": scores.mean_ap, "accuracy": scores.acc, "easy accuracy": scores.easy_acc}
        lines = [f"{name}: {100 * value:.2f} %" for name, value in found.items()]
    return files, lines + [f"left out: {count} {what}" for what, count in source.left_out.items()]
