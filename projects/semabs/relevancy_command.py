"""What the settings of generate_relevancy.py mean: the picture, the labels, the model; the question of `replace`."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import mini, mini_clip, relevancy_dataset
from projects.semabs.clip_weights import LoadedClip, load_clip
from projects.semabs.expectations import (
    are,
    expect,
    expect_flag,
    expect_one_of,
    expect_whole,
    is_number,
    is_whole,
)
from projects.semabs.relevancy_picture import LOW, RANGE
from projects.semabs.scene_file import SceneFile
from projects.semabs.tiles import CONFIGS
from projects.semabs.vocabulary import labels_of_scene, visible_names
from shared.errors import InputError
from shared.files import read_image
from shared.runtime import Runtime

COMMANDS = ("image", "dataset")
RELEASED_CLIP = "ViT-B/32"
RELEASED_LABELS = (
    "basketball jersey",
    "nintendo switch",
    "television",
    "ping pong table",
    "vase",
    "fireplace",
    "abstract painting of a vespa",
    "carpet",
    "wall",
)


@dataclass(frozen=True)
class Asked:
    """A picture, and what is looked for in it."""

    name: str
    pixels: np.ndarray  # uint8 [H, W, 3]
    labels: list[str]
    prompts: list[str]


def check(settings: Mapping[str, Any]) -> None:
    """InputError for settings that cannot be meant."""
    expect_one_of(settings, "command", COMMANDS)
    expect_whole(settings, "augmentations", "seed")
    expect_whole(settings, "blocks", least=1)
    gzip = settings["gzip"]
    expect("gzip", gzip is None or (is_whole(gzip) and 0 <= gzip <= 9), "0 to 9, or null", gzip)
    for name in ("labels", "prompts"):
        found = settings[name]
        good = found is None or (are(found, lambda one: isinstance(one, str)) and bool(found))
        expect(name, good, "a list of texts, or null", found)
    expect_whole(settings, "img_dim", least=4, or_null=True)
    expect_whole(settings, "batch_size", least=1, or_null=True)
    for name in ("hflip", "float16_sum", "starts_within_short_side", "positive_only", "replace", "yes"):
        expect_flag(settings, name)
    expect_one_of(settings, "saliency_config", CONFIGS)
    configs = settings["configs"]
    good = isinstance(configs, list) and bool(configs) and set(configs) <= set(CONFIGS)
    expect("configs", good, f"some of {', '.join(CONFIGS)}", configs)
    heat = settings["heat"]
    expect("heat", heat is None or (are(heat, is_number) and len(heat) == 2), "[low,range] or null", heat)


def model(settings: Mapping[str, Any]) -> LoadedClip:
    """The CLIP of `clip`; null: ViT-B/32 for files of the user, the stand-in for the embedded rooms."""
    if settings["clip"] is None and settings["file_path"] is None:
        return load_clip(mini_clip.ensure(settings["root"]))
    return load_clip(settings["clip"] or RELEASED_CLIP)


def folder(settings: Mapping[str, Any], rt: Runtime, wait: Callable[[], None]) -> Path:
    """The folder of scenes; null: the embedded rooms, made by rank 0 if need be."""
    if settings["file_path"] is not None:
        return Path(settings["file_path"]).expanduser()
    root = Path(settings["root"])
    if rt.is_main:
        mini.make(root)
        mini_clip.ensure(root)
    wait()
    return root


def asked(settings: Mapping[str, Any]) -> Asked:
    """The picture of `file_path`, or a test room of the embedded set with the names of what it shows."""
    labels = settings["labels"]
    if settings["file_path"] is not None:
        path = Path(settings["file_path"]).expanduser()
        prompts = settings["prompts"] or [relevancy_dataset.PHOTO_PROMPT]
        return Asked(path.stem, read_image(path), list(labels or RELEASED_LABELS), list(prompts))
    path = _test_room(mini.make(settings["root"]))
    with SceneFile(path) as scene:
        visible = visible_names(np.unique(scene.segmentation()), scene.classes)
        found = [name for name in labels_of_scene(visible, scene.descriptions().take([])) if name in visible]
        prompts = settings["prompts"] or [relevancy_dataset.RENDER_PROMPT]
        return Asked(path.stem, scene.rgb(), list(labels or found), list(prompts))


def heat(settings: Mapping[str, Any], minus_mean: np.ndarray) -> tuple[float, float]:
    """Where heat starts, and how much more is full; with the stand-in, whose relevancies are larger, fitted."""
    if settings["heat"] is not None:
        low, span = settings["heat"]
        return float(low), float(span)
    if settings["file_path"] is not None:
        return LOW, RANGE
    highest = float(np.quantile(minus_mean, 0.995))
    return highest * LOW / (LOW + RANGE), max(highest * RANGE / (LOW + RANGE), 1e-12)


def may_remove(settings: Mapping[str, Any], root: Path, rt: Runtime) -> bool:
    """The answer to `replace`: `yes=true`, or what the user types. InputError where nobody can answer."""
    if settings["yes"]:
        return True
    if rt.world_size > 1 or not sys.stdin or not sys.stdin.isatty():
        raise InputError(
            f"replace: this deletes the relevancy maps of all scenes in {root}; give yes=true as well"
        )
    count = len(relevancy_dataset.scene_files(root))
    answer = input(f"delete the relevancy maps of {count} scenes in {root}? [y/n] ")
    return answer.strip().lower() in ("y", "yes")


def _test_room(root: Path) -> Path:
    names = {line.strip() for line in (root / "test_thor_rooms.txt").read_text().splitlines()}
    rooms = [path for path in sorted(root.glob("*.hdf5")) if path.stem.split("|")[-1] in names]
    if not rooms:
        raise InputError(f"{root}: expected a scene of a room in test_thor_rooms.txt, found none")
    return rooms[0]
