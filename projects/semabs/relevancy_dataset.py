"""Relevancy maps for a folder of scenes, each scene by itself: a killed run goes on where it was."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from projects.semabs.clip_weights import LoadedClip
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.scene_arrays import CONFIGS, IMAGES, Relevancies
from projects.semabs.scene_file import SceneFile, add_saliencies, has_saliencies, remove_saliencies
from projects.semabs.vocabulary import labels_of_scene, visible_names
from shared.collectives import barrier, gather_objects
from shared.errors import InputError
from shared.files import remove_leftovers
from shared.progress import Progress
from shared.runtime import Runtime

RENDER_PROMPT = "a render of a {} in a game engine."
PHOTO_PROMPT = "a photograph of a {} in a home."  # for folders of photographs: matterport, nyu
UNREADABLE = ("error", "skip")


@dataclass
class Generated:
    """What was done: scenes that got maps now, that had them, that could not be read (name: why)."""

    written: int = 0
    there: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """In words."""
        skipped = "".join(f"\n  left out: {why}" for why in self.skipped.values())
        return f"{self.written} scenes got maps, {self.there} had them, {len(self.skipped)} left out{skipped}"


def scene_files(root: str | Path) -> list[Path]:
    """All `.hdf5` files below a folder, in reverse order of their names as released; InputError without any."""
    folder = Path(root).expanduser()
    if folder.is_file():
        return [folder]
    found = sorted((path for path in folder.glob("**/*.hdf5") if not path.name.startswith(".")), reverse=True)
    if not found:
        raise InputError(f"{folder}: expected scenes (*.hdf5) in this folder, found none")
    return found


def released_prompts(root: str | Path) -> list[str]:
    """The prompt of the released code: by whether the folder's path names a set of photographs."""
    path = str(root).lower()
    return [PHOTO_PROMPT if "matterport" in path or "nyu" in path else RENDER_PROMPT]


def remove(root: str | Path, runtime: Runtime) -> int:
    """Take the maps out of all scenes; how many had some. To be called on all ranks."""
    files = scene_files(root)[runtime.rank :: runtime.world_size]
    removed = sum(remove_saliencies(path) for path in files)
    return sum(gather_objects(removed))


def generate(
    root: str | Path,
    clip: LoadedClip,
    *,
    runtime: Runtime,
    prompts: Sequence[str] | None = None,
    configs: Sequence[str] = CONFIGS,
    augmentations: int = 5,
    hflip: bool = True,
    batch_size: int | None = None,
    positive_only: bool = True,
    blocks: int = 1,
    float16_sum: bool = False,
    starts_within_short_side: bool = True,
    seed: int = 0,
    gzip: int | None = 9,
    unreadable: str = "error",
    silent: bool = False,
) -> Generated:
    """Add maps to every scene below `root` that has none. To be called on all ranks, which share the scenes.

    Maps depend on the scene and the settings alone, not on the order of work: the jitter of a picture is drawn
    from `seed` and its name.

    Args:
        root: folder of scenes, or one.
        clip: the model.
        runtime: of the run.
        prompts: with {} for the label; None = `released_prompts`.
        configs: ours, chefer_et_al, or both.
        augmentations, hflip, batch_size, positive_only, blocks, float16_sum, starts_within_short_side: of the
            extractor.
        seed: of the colour jitter.
        gzip: compression of what is added; None = none (read quicker).
        unreadable: scenes that cannot be read: error | skip (they are counted).
        silent: show no progress.

    Raises:
        InputError: no scenes, or one that cannot be read or written.
    """
    if unreadable not in UNREADABLE:
        raise InputError(f"unreadable: expected one of {', '.join(UNREADABLE)}, found {unreadable!r}")
    extractors = {
        config: RelevancyExtractor(
            clip,
            config=config,
            augmentations=augmentations,
            hflip=hflip,
            precision=runtime.precision,
            device=runtime.device,
            batch_size=batch_size,
            positive_only=positive_only,
            blocks=blocks,
            float16_sum=float16_sum,
            starts_within_short_side=starts_within_short_side,
        )
        for config in configs
    }
    prompts = released_prompts(root) if prompts is None else list(prompts)
    mine = scene_files(root)[runtime.rank :: runtime.world_size]
    done = Generated()
    with Progress(len(mine), unit="scene", label="relevancy", silent=silent or not runtime.is_main) as bar:
        for path in mine:
            remove_leftovers(path)  # of a killed run; no other process has this scene
            try:
                if has_saliencies(path):
                    done.there += 1
                else:
                    relevancies, visible = of_scene(path, extractors, prompts, seed=seed)
                    add_saliencies(path, relevancies, visible, gzip=gzip)
                    done.written += 1
            except InputError as error:
                if unreadable == "error":
                    raise
                done.skipped[path.name] = str(error)
            bar.update()
    barrier()
    return _joined(gather_objects(done))


def of_scene(
    path: Path, extractors: dict[str, RelevancyExtractor], prompts: Sequence[str], *, seed: int = 0
) -> tuple[list[Relevancies], list[str]]:
    """The maps of all images and configs of a scene, and the names that are visible in it."""
    with SceneFile(path) as scene:
        visible = visible_names(np.unique(scene.segmentation()), scene.classes)
        labels = labels_of_scene(visible, scene.descriptions())
        images = {image: scene.rgb(image) for image in IMAGES if image == "rgb" or scene.has_randomized()}
    if not labels:
        raise InputError(f"{path}: data/seg: expected at least one named object, found none")
    found = []
    for image, pixels in images.items():
        for config, extractor in extractors.items():
            drawn = zlib.crc32(f"{seed}/{path.stem}/{image}".encode())
            maps = extractor.dataset_maps(pixels, labels, prompts, seed=drawn).numpy()
            features = extractor.text_features(labels, prompts).numpy()
            found.append(Relevancies(image, config, labels, maps, features))
    return found, visible


def _joined(parts: Sequence[Generated]) -> Generated:
    whole = Generated()
    for part in parts:
        whole.written += part.written
        whole.there += part.there
        whole.skipped |= part.skipped
    return whole
