"""The scene that visualize.py shows: a pickle as released, a scene file, or one of the embedded rooms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import vocabulary
from projects.semabs.scene_arrays import NOT_AN_OBJECT
from projects.semabs.scene_file import SceneFile
from projects.semabs.scene_pickle import Description, Scene, checked_description, checked_label, read_scene
from projects.semabs.splits import SPLIT_FILES, read_splits
from shared.errors import InputError

_SPLIT = "unseen_instances"


def open_scene(
    path: str | None,
    settings: Mapping[str, Any],
    task: str,
    *,
    labels: Sequence[Any] | None = None,
    descriptions: Sequence[Any] | None = None,
) -> Scene:
    """A scene from a .pkl or .hdf5 file; with None the first test room of the data that a network was trained on.

    settings: of the network's run. labels, descriptions: in place of the scene's own.
    """
    found = Path(path).expanduser() if path else _first_room(settings, task)
    scene = _of_file(found) if found.suffix in (".hdf5", ".h5") else read_scene(found)
    if labels is not None:
        scene = replace(scene, labels=tuple(checked_label(label, source="labels") for label in labels))
    if descriptions is not None:
        given = tuple(checked_description(item, source="descriptions") for item in descriptions)
        scene = replace(scene, descriptions=given)
    return scene


def _first_room(settings: Mapping[str, Any], task: str) -> Path:
    data = settings.get("data") or {}
    if not data.get("root"):
        raise InputError("scene: expected a scene file (.pkl or .hdf5); the network's run names no data")
    root = Path(data["root"])
    names = read_splits(root / SPLIT_FILES[task]).get(_SPLIT)
    if not names:
        raise InputError(f"scene: expected a scene file: {root / SPLIT_FILES[task]} has no split {_SPLIT}")
    return root / names[0]


def _of_file(path: Path) -> Scene:
    """The view of a scene file: labels are what it shows, descriptions those it holds."""
    with SceneFile(path) as file:
        intrinsics, pose = file.camera()
        held = file.descriptions()
        visible = vocabulary.visible_names(np.unique(file.segmentation()).tolist(), file.classes)
        descriptions: list[Description] = list(
            dict.fromkeys(zip(held.targets, held.relations, held.references, strict=True))
        )
        return Scene(
            path.stem,
            file.rgb(),
            file.depth(),
            intrinsics,
            pose,
            tuple(sorted(set(visible) - NOT_AN_OBJECT)),
            tuple(descriptions),
        )
