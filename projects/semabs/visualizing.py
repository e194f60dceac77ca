"""The commands of visualize.py: what each reads and writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from projects.semabs import (
    clip_weights,
    completion_post,
    geometry,
    meshes,
    relevancy_figure,
    text_features,
)
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.scene_pickle import Scene, file_name
from projects.semabs.trained import Trained
from projects.semabs.visualization import (
    Completion,
    LabelMaps,
    Observed,
    completed,
    described_labels,
    item_request,
    label_maps,
    places,
)
from shared.errors import InputError
from shared.files import atomic_write, write_json
from shared.runtime import Runtime

SCENE_CLOUD = "scene_rgb.ply"
SCENE_PICTURE = "scene.png"
NOTE = "scene.json"  # the grid, and which file is which label
RELEASED_PROMPTS = ("a photograph of a {} in a home.",)


@dataclass
class Model:
    """A trained network with the CLIP that makes its relevancies.

    Args:
        trained: the network and the settings of its run.
        clip: name or file of CLIP; None: the one of the run's data, else ViT-B/32.
        prompts: with {} for the label; None: those of the run's data, else the released one for photographs.
        augmentations: colour jitters; None: as many as the run's data have, else the extractor's own (5).
    """

    trained: Trained
    runtime: Runtime
    clip: str | None = None
    prompts: Sequence[str] | None = None
    augmentations: int | None = None
    seed: int = 0
    _loaded: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.trained.network.to(self.runtime.device).eval()
        data = self.trained.settings.get("data") or {}
        self.clip = self.clip or data.get("clip") or "ViT-B/32"
        self.prompts = tuple(self.prompts or data.get("prompts") or RELEASED_PROMPTS)
        if self.augmentations is None:
            self.augmentations = data.get("augmentations")

    @property
    def loaded(self) -> Any:
        """CLIP, read once."""
        if self._loaded is None:
            self._loaded = clip_weights.load_clip(str(self.clip))
        return self._loaded

    @property
    def cutoff(self) -> float:
        """A logit below which a place stays empty: the best of the run's validation, else the released one."""
        found = (self.trained.progress.get("found") or {}).get("cutoff")
        return completion_post.CUTOFF if found is None else float(found)

    @property
    def bounds(self) -> np.ndarray:
        """The scene's box [2, 3] that the network knows."""
        return item_request(self.trained.settings, self.trained.approach).settings.bounds

    def extractor(self, config: str | None = None) -> RelevancyExtractor:
        """What makes relevancies as the network was trained on, or of another config."""
        given: dict[str, Any] = {} if self.augmentations is None else {"augmentations": self.augmentations}
        return RelevancyExtractor(
            self.loaded,
            config=config or self.trained.saliency_config,
            precision=self.runtime.precision,
            device=self.runtime.device,
            **given,
        )

    def prompted(self, labels: Sequence[str]) -> Tensor | None:
        """Text features [L, D] for the approach that points with them."""
        if self.trained.approach != "semantic_aware":
            return None
        return text_features.label_features(self.loaded, labels, self.prompts or ())

    def raw(self, names: Sequence[str]) -> dict[str, Tensor] | None:
        """Text features of bare names for the approach that is told them."""
        if self.trained.approach != "semantic_aware":
            return None
        unique = sorted(set(names))
        return dict(zip(unique, text_features.text_embeddings(self.loaded, unique), strict=True))

    def relevancies(self, scene: Scene, labels: Sequence[str], extra: Sequence[str] = ()) -> LabelMaps:
        """Maps of a scene's picture less their mean."""
        return label_maps(
            scene.rgb, labels, self.extractor(), self.prompts or (), extra=extra, seed=self.seed
        )

    def observed(self, scene: Scene, *, points: int) -> Observed:
        """What the network sees of a scene."""
        request = item_request(self.trained.settings, self.trained.approach)
        rng = np.random.default_rng(self.seed)
        return Observed.draw(scene, request, self.trained.task, count=points, rng=rng)


def model_path(given: str | None, task: str, project: Path) -> Path:
    """The network to load; the run of the bare training command where none is named."""
    path = Path(given).expanduser() if given else project / "runs" / f"{task}_mini"
    if not path.exists():
        hint = "" if given else f"; `python train_{task}.py` makes it"
        raise InputError(f"model: {path}: no such run folder or checkpoint{hint}")
    return path


def complete_scene(
    model: Model,
    scene: Scene,
    folder: Path,
    *,
    side: int = 240,
    points: int = 80_000,
    cutoff: float | None = None,
    contrast: Sequence[str] = (),
    relevancies: LabelMaps | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """ovssc-inference: relevancies.png, scene.png, scene_rgb.ply, an .obj for each label that occurs, scene.json.

    cutoff: None = `Model.cutoff`. relevancies: of the scene's labels, where they are known already.

    Returns:
        the content of scene.json.
    """
    if model.trained.task != "ovssc":
        raise InputError(
            f"{model.trained.path}: expected a network for ovssc, found one for {model.trained.task}"
        )
    if not scene.labels:
        raise InputError(f"scene {scene.name}: ovssc_obj_classes: expected labels, found none")
    observed = model.observed(scene, points=points)
    if relevancies is None:
        relevancies = model.relevancies(scene, scene.labels, contrast)
    write_scene(folder, scene, relevancies, observed)
    say(f"{len(relevancies.labels)} labels; relevancies: {folder / 'relevancies.png'}")
    completion = Completion(
        model.trained.network,
        observed,
        relevancies,
        model.runtime,
        text_features=model.prompted(relevancies.labels),
    )
    cutoff = model.cutoff if cutoff is None else cutoff
    found = completed(completion, scene, side=side, cutoff=cutoff)
    note = write_completion(folder, found, relevancies.labels, observed.request.settings.bounds)
    say(f"{len(note['files'])} of them have a volume at cutoff {cutoff:g}; U-Net passes: {completion.passes}")
    return note


def write_scene(folder: Path, scene: Scene, relevancies: LabelMaps, observed: Observed) -> None:
    """relevancies.png, scene.png and scene_rgb.ply."""
    import cv2

    with atomic_write(folder / SCENE_PICTURE) as file:
        file.write(cv2.imencode(".png", scene.rgb[:, :, ::-1])[1].tobytes())
    full = relevancy_figure.full_scale(observed.request.settings.relevancy_scale)
    relevancy_figure.write_grid(folder / "relevancies.png", relevancies.maps, relevancies.labels, vmax=full)
    points = geometry.back_project(scene.depth, scene.intrinsics, scene.pose)
    kept = (scene.depth.reshape(-1) > 0) & geometry.in_bounds(points, observed.request.settings.bounds)
    meshes.write_ply(folder / SCENE_CLOUD, points[kept], scene.rgb.reshape(-1, 3)[kept])


def write_completion(
    folder: Path, found: np.ndarray, labels: Sequence[str], bounds: np.ndarray
) -> dict[str, Any]:
    """An .obj for each label that occurs in `found` [G, G, G], and scene.json; old meshes go."""
    for old in folder.glob("*.obj"):
        old.unlink()
    files: dict[str, str] = {}
    counts = np.bincount(found[found >= 0].ravel(), minlength=len(labels))
    for index, label in enumerate(labels):
        surface = meshes.surface_of((found == index).astype(np.uint8)) if counts[index] else None
        if surface is None:
            continue
        name = _free_name(f"{file_name(label)}.obj", files.values())
        meshes.write_obj(folder / name, surface)
        files[label] = name
    note = {
        "bounds": np.asarray(bounds).tolist(),
        "grid": found.shape[0],
        "labels": list(labels),
        "voxels": dict(zip(labels, counts.tolist(), strict=True)),
        "files": files,
    }
    write_json(folder / NOTE, note)
    return note


def locate_in_scene(
    model: Model,
    scene: Scene,
    folder: Path,
    *,
    side: int = 240,
    points: int = 80_000,
    margin: float = completion_post.VOOL_MARGIN,
    contrast: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[str]:
    """vool-inference: relevancies.png, scene.png, scene_rgb.ply, `the {target} {relation} the {reference}.ply`.

    The last are coloured by logit.

    Returns:
        names of the last.
    """
    trained = model.trained
    if trained.task != "vool":
        raise InputError(f"{trained.path}: expected a network for vool, found one for {trained.task}")
    if not scene.descriptions:
        raise InputError(
            f"scene {scene.name}: descriptions: expected [target, relation, reference], found none"
        )
    observed = model.observed(scene, points=points)
    sentences = trained.approach == "clip_spatial"
    names = described_labels(scene.descriptions, sentences=sentences)
    relevancies = model.relevancies(scene, names, contrast)
    write_scene(folder, scene, relevancies, observed)
    found = places(
        trained.network,
        observed,
        relevancies,
        scene.descriptions,
        model.runtime,
        sentences=sentences,
        text_features=model.raw(names),
        side=side,
        margin=margin,
    )
    written: list[str] = []
    for place in found:
        name = _free_name(f"{file_name(place.title)}.ply", written)
        meshes.write_ply(folder / name, place.points, completion_post.heat_colours(place.logits))
        written.append(name)
        say(f"{place.title}: {len(place.points)} points: {folder / name}")
    return written


def _free_name(name: str, taken: Any) -> str:
    """The name, with a number where another label has become the same."""
    used, stem, suffix, number = set(taken), Path(name).stem, Path(name).suffix, 2
    while name in used:
        name, number = f"{stem}-{number}{suffix}", number + 1
    return name
