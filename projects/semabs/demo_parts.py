"""What stands behind the demo's page: a CLIP, maybe a network, an example, and what the buttons do."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import mini, mini_clip, own_picture, picture_command, relevancy_figure, trained
from projects.semabs.expectations import expect, expect_whole, is_number, is_whole
from projects.semabs.picture_command import Finder
from projects.semabs.picture_page import completion_views
from projects.semabs.scene_pickle import Scene
from projects.semabs.scene_source import open_scene
from projects.semabs.visualizing import RELEASED_PROMPTS, Model
from shared.errors import InputError
from shared.files import atomic_path
from shared.runtime import Runtime

_ROOM_PROMPTS = ("a render of a {} in a game engine.",)
Shown = tuple[np.ndarray, str]  # a picture and what stands under it


def check(settings: Mapping[str, Any]) -> None:
    """InputError for settings of demo.py that cannot be meant."""
    expect_whole(settings, "side", "points", least=1)
    expect_whole(settings, "grid", least=4)
    expect_whole(settings, "augmentations", or_null=True)
    cutoff = settings["cutoff"]
    expect("cutoff", cutoff is None or is_number(cutoff), "a number or null", cutoff)
    port = settings["port"]
    expect("port", is_whole(port) and 0 <= port < 65536, "a number from 0 to 65535", port)


@dataclass(frozen=True)
class Parts:
    """A picture finder, its settings, and an example scene (None: there is none)."""

    finder: Finder
    settings: Mapping[str, Any]
    example: Scene | None

    @property
    def completes(self) -> bool:
        """Whether there is a network that completes."""
        return self.finder.model is not None

    def relevancies(self, picture: np.ndarray | None, labels: str) -> list[Shown]:
        """Heat over the picture for each label, strongest first."""
        scene = self._scene(picture, labels, None, "", 0.0)
        maps = self.finder.relevancies(scene.rgb, scene.labels)
        full = relevancy_figure.strongest(maps.maps)
        order = np.argsort(-maps.maps.reshape(len(maps.labels), -1).max(1))
        return [
            (
                relevancy_figure.heat(scene.rgb, maps.maps[place], full=full),
                f"{maps.labels[place]} ({maps.maps[place].max():.4f})",
            )
            for place in order
        ]

    def completion(
        self, picture: np.ndarray | None, labels: str, depth: str | None, intrinsics: str, tilt: float
    ) -> tuple[list[Shown], str, str | None]:
        """Views of the completed scene, a line about it, and a .zip of its meshes.

        depth: path of the uploaded file; None: the example's, if the picture is the example.
        """
        if not self.completes:
            raise InputError("model: no network that completes is loaded: start the demo with model=...")
        scene = self._scene(picture, labels, depth, intrinsics, tilt)
        if not scene.depth.any():
            raise InputError("depth: upload a depth map for this picture (.npy in metres or a 16-bit .png)")
        maps = self.finder.relevancies(scene.rgb, scene.labels)
        folder = Path(tempfile.mkdtemp(prefix="semabs-demo-"))
        try:
            note = self.finder.complete(scene, maps, folder / "scene", self.settings)
            counts = ", ".join(f"{label}: {note['voxels'][label]}" for label in note["labels"])
            if not note["files"]:
                return [], f"No label has a volume (voxels: {counts}).", None
            views, legend = completion_views(folder / "scene")
            names = ", ".join(one["name"] for one in legend)
            archive = Path(shutil.make_archive(str(folder / "meshes"), "zip", folder / "scene"))
            kept = Path(tempfile.gettempdir()) / f"{folder.name}.zip"
            with atomic_path(kept) as temporary:
                shutil.move(archive, temporary)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return [(view, names) for view in views], f"Voxels of {note['grid']}³: {counts}", str(kept)

    def _scene(
        self, picture: np.ndarray | None, labels: str, depth: str | None, intrinsics: str, tilt: float
    ) -> Scene:
        if picture is None:
            raise InputError("picture: upload one first")
        names = own_picture.labels_of(labels)
        example = self.example
        if depth is None and example is not None and np.array_equal(picture, example.rgb):
            return replace(example, labels=tuple(names))
        given = {
            **self.settings,
            "depth": depth,
            "depth_unit": None,
            "intrinsics": numbers_of(intrinsics),
            "field_of_view": 60,
            "pose": None,
            "tilt": tilt,
        }
        small = own_picture.shrunk(picture, self.settings["side"])
        return self.finder.scene(small, names, given, full=picture.shape[:2])


def numbers_of(text: str) -> list[float] | None:
    """fx, fy, cx, cy of a text; None of an empty one."""
    if not text.strip():
        return None
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if len(found) != 4:
        raise InputError(f"intrinsics: expected fx, fy, cx, cy, found {text.strip()!r}")
    return found


def load(settings: Mapping[str, Any], runtime: Runtime, project: Path) -> Parts:
    """The network (that of the bare training command where it is there), its CLIP, and a room as example.

    Without either, the embedded rooms' CLIP stand-in is made.
    """
    default = project / "runs" / "ovssc_mini"
    path = settings["model"] or (default if default.exists() and settings["clip"] is None else None)
    chosen = {name: settings[name] for name in ("clip", "prompts", "augmentations", "seed")}
    if path is not None:
        model = Model(trained.load(path), runtime, **chosen)
        finder = Finder.with_network(model, config=settings["config"])
        return Parts(finder, settings, _example(model.trained.settings))
    finder = picture_command.Finder.without_network(
        runtime,
        clip=settings["clip"] or _stand_in(Path(settings["root"])),
        prompts=settings["prompts"] or (RELEASED_PROMPTS if settings["clip"] else _ROOM_PROMPTS),
        augmentations=settings["augmentations"] or 0,
        config=settings["config"] or "ours",
        seed=settings["seed"],
    )
    rooms = {"data": {"root": settings["root"]}}
    return Parts(finder, settings, None if settings["clip"] else _example(rooms))


def _stand_in(root: Path) -> str:
    """The embedded rooms' stand-in for CLIP; it and the rooms are made on first use."""
    if not mini_clip.weights_path(root).exists():
        print("demo: making the embedded rooms and their stand-in for CLIP: some minutes, once", flush=True)
        mini.make(root)
    return str(mini_clip.ensure(root))


def _example(settings: Mapping[str, Any]) -> Scene | None:
    """The first test room of a run's data, if it is there."""
    try:
        return open_scene(None, settings, "ovssc")
    except (InputError, OSError):
        return None


def example_labels(scene: Scene | None) -> Sequence[str]:
    """What the page's text field holds at first."""
    return scene.labels if scene is not None and scene.labels else ("chair", "table", "wall")
