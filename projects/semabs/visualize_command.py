"""What the settings of visualize.py mean: task and steps, the network, the folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projects.semabs import films, visualizing
from projects.semabs.expectations import expect, expect_one_of, expect_positive, expect_whole, is_number
from projects.semabs.films import Film
from projects.semabs.scene_pickle import Scene, file_name
from projects.semabs.visualizing import Model
from shared.errors import InputError
from shared.files import ensure_writable

COMMANDS = {
    "ovssc": ("ovssc", ("inference", "visualize")),
    "vool": ("vool", ("inference", "visualize")),
    **{
        f"{task}-{step}": (task, (step,)) for task in ("ovssc", "vool") for step in ("inference", "visualize")
    },
}


def parsed(settings: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Task and steps of the command; InputError for settings of visualize.py that cannot be meant."""
    expect_one_of(settings, "command", tuple(COMMANDS))
    expect_whole(settings, "points", least=1)
    expect_whole(settings, "grid", least=4)
    cutoff = settings["cutoff"]
    expect("cutoff", cutoff is None or is_number(cutoff), "a number or null", cutoff)
    expect_positive(settings, "margin")
    expect_whole(settings, "augmentations", or_null=True)
    return COMMANDS[settings["command"]]


def scene_folder(root: Path, name: str) -> Path:
    """The folder of a scene's files, made and tried."""
    return ensure_writable(root / file_name(name))


def only_folder(root: Path, task: str) -> Path:
    """The one folder below `root` that inference wrote."""
    suffix = "*.obj" if task == "ovssc" else "*.ply"
    found = sorted({path.parent for path in root.glob(f"*/{suffix}")})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"output_path: expected the folder that {task}-inference wrote; in {root}: {names}")
    return found[0]


def infer(model: Model, scene: Scene, folder: Path, settings: Mapping[str, Any]) -> None:
    """ovssc-inference or vool-inference, by the network's task."""
    shared = {"side": settings["grid"], "points": settings["points"], "contrast": settings["contrast"]}
    if settings["command"].startswith("ovssc"):
        visualizing.complete_scene(model, scene, folder, cutoff=settings["cutoff"], **shared)
    else:
        visualizing.locate_in_scene(model, scene, folder, margin=settings["margin"], **shared)


def film_folder(task: str, folder: Path, film: Film) -> None:
    """ovssc-visualize or vool-visualize."""
    if task == "ovssc":
        films.film_completion(folder, film)
    else:
        films.film_places(folder, film)
