"""What infer.py and demo.py do with a picture: relevancies with a CLIP; with depth, completion with a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import own_picture, trained, visualizing
from projects.semabs.clip_weights import load_clip
from projects.semabs.expectations import expect, expect_positive, expect_whole, is_number
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.own_picture import labels_of
from projects.semabs.scene_pickle import Scene
from projects.semabs.scene_source import open_scene
from projects.semabs.visualization import LabelMaps, label_maps
from projects.semabs.visualizing import RELEASED_PROMPTS, Model, model_path
from shared.errors import InputError
from shared.images import read_image
from shared.runtime import Runtime

_OWN = ("clip", "prompts", "augmentations", "seed")


def check(settings: Mapping[str, Any]) -> None:
    """InputError for settings of infer.py that cannot be meant."""
    expect_whole(settings, "side", "points", least=1)
    expect_whole(settings, "grid", least=4)
    expect_whole(settings, "augmentations", or_null=True)
    expect_whole(settings, "film.frames")
    expect_positive(settings, "depth_unit", or_null=True)
    cutoff = settings["cutoff"]
    expect("cutoff", cutoff is None or is_number(cutoff), "a number or null", cutoff)
    view, tilt = settings["field_of_view"], settings["tilt"]
    expect("field_of_view", is_number(view) and 0 < view < 180, "degrees between 0 and 180", view)
    expect("tilt", is_number(tilt) and -90 < tilt < 90, "degrees between -90 and 90", tilt)
    if settings["picture"] is not None and not settings["labels"]:
        raise InputError(
            "labels: expected what to look for in the picture, e.g. labels=[chair,table], found none"
        )
    if settings["picture"] is None and settings["depth"] is not None:
        raise InputError("depth: expected a picture that it belongs to, found picture=null")
    if settings["depth"] is not None and settings["model"] is None:
        raise InputError(
            "model: expected a network for ovssc, which completes a picture with depth, found null"
        )


@dataclass
class Finder:
    """A CLIP, and maybe a network that completes.

    model: the network; None: relevancies only, by `extractor` and `prompts`.
    """

    runtime: Runtime
    extractor: RelevancyExtractor
    prompts: Sequence[str]
    clip_name: str
    model: Model | None = None
    seed: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any], runtime: Runtime, runs: Path) -> "Finder":
        """The network and CLIP that settings name; `runs`: where trained networks are."""
        chosen = {name: settings[name] for name in _OWN}
        if settings["model"] is None and settings["picture"] is not None:
            return cls.without_network(
                runtime,
                clip=chosen["clip"] or "ViT-B/32",
                prompts=chosen["prompts"] or RELEASED_PROMPTS,
                augmentations=chosen["augmentations"],
                config=settings["config"] or "ours",
                seed=chosen["seed"],
            )
        loaded = trained.load(model_path(settings["model"], "ovssc", runs.parent))
        return cls.with_network(Model(loaded, runtime, **chosen), config=settings["config"])

    @classmethod
    def without_network(
        cls,
        runtime: Runtime,
        *,
        clip: str,
        prompts: Sequence[str],
        augmentations: int | None = None,
        config: str = "ours",
        seed: int = 0,
    ) -> "Finder":
        """Relevancies only."""
        given: dict[str, Any] = {} if augmentations is None else {"augmentations": augmentations}
        extractor = RelevancyExtractor(
            load_clip(clip), config=config, precision=runtime.precision, device=runtime.device, **given
        )
        return cls(runtime, extractor, tuple(prompts), clip, None, seed)

    @classmethod
    def with_network(cls, model: Model, *, config: str | None = None) -> "Finder":
        """Relevancies as the network was trained on, and completion."""
        if model.trained.task != "ovssc":
            raise InputError(f"model: expected a network for ovssc, found one for {model.trained.task}")
        extractor = model.extractor(config)
        return cls(model.runtime, extractor, tuple(model.prompts or ()), str(model.clip), model, model.seed)

    def read(self, settings: Mapping[str, Any]) -> Scene:
        """The picture of the settings as a scene; without depth its depth is all 0."""
        labels = labels_of(settings["labels"]) if settings["labels"] else None
        if settings["picture"] is None:
            assert self.model is not None
            return open_scene(None, self.model.trained.settings, "ovssc", labels=labels)
        whole = read_image(settings["picture"])
        picture = own_picture.shrunk(whole, settings["side"])
        return self.scene(
            picture, labels or [], settings, full=whole.shape[:2], name=Path(settings["picture"]).stem
        )

    def scene(
        self,
        picture: np.ndarray,
        labels: Sequence[str],
        settings: Mapping[str, Any],
        *,
        full: tuple[int, ...],
        name: str = "picture",
    ) -> Scene:
        """A scene of a picture [h, w, 3], with the depth and camera that settings name; `full`: size on the disk."""
        shape = (picture.shape[0], picture.shape[1])
        if settings["depth"] is None or self.model is None:
            return own_picture.own_scene(
                picture, labels, np.zeros(shape, np.float32), np.eye(3), np.eye(4), name
            )
        depth = own_picture.read_depth(settings["depth"], shape, unit=settings["depth_unit"])
        camera = own_picture.read_intrinsics(
            settings["intrinsics"], shape, full=(full[0], full[1]), field_of_view=settings["field_of_view"]
        )
        bounds = self.model.bounds
        pose = own_picture.read_pose(settings["pose"], depth, camera, bounds, tilt=settings["tilt"])
        return own_picture.own_scene(picture, labels, depth, camera, pose, name)

    def relevancies(
        self, picture: np.ndarray, labels: Sequence[str], contrast: Sequence[str] = ()
    ) -> LabelMaps:
        """Maps of labels less their mean."""
        return label_maps(picture, labels, self.extractor, self.prompts, extra=contrast, seed=self.seed)

    def completes(self, scene: Scene) -> bool:
        """Whether there is a network, and depth."""
        return self.model is not None and bool(scene.depth.any())

    def complete(
        self, scene: Scene, maps: LabelMaps, folder: Path, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Meshes of the labels in `folder`; returns scene.json."""
        assert self.model is not None
        folder.mkdir(parents=True, exist_ok=True)
        return visualizing.complete_scene(
            self.model,
            scene,
            folder,
            side=settings["grid"],
            points=settings["points"],
            cutoff=settings["cutoff"],
            relevancies=maps,
        )

    def facts(self) -> dict[str, Any]:
        """What made the results, for the page."""
        facts = {
            "CLIP": Path(self.clip_name).name,
            "maps": self.extractor.config,
            "prompts": "; ".join(self.prompts),
        }
        if self.model is not None:
            facts["network"] = self.model.trained.name
        return facts
