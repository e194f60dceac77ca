"""The tiny rooms with relevancies that are made up: an object's place, blurred, and a little noise. No CLIP."""

import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np

from projects.semabs import vocabulary
from projects.semabs.scene_file import CONFIGS, IMAGES, Relevancies, SceneFile, add_saliencies

FEATURES = 64  # length of the text features
SIDE = 16  # of the maps; the released ones have 128


def with_relevancies(root: Path, folder: Path) -> Path:
    """A copy of `root` at `folder` whose scenes all have relevancies."""
    shutil.copytree(root, folder)
    for path in sorted(folder.glob("*.hdf5")):
        add(path)
    return folder


def add(path: Path) -> None:
    """Add relevancies to a scene: both configs of each of its images."""
    with SceneFile(path) as scene:
        seen, classes = scene.segmentation(), scene.classes
        labels = vocabulary.labels_of_scene(
            vocabulary.visible_names(np.unique(seen), classes), scene.descriptions()
        )
        images = [image for image in IMAGES if image == "rgb" or scene.has_randomized()]
    sets = [
        Relevancies(image, config, labels, maps(labels, seen, classes, config), features(labels))
        for image in images
        for config in CONFIGS
    ]
    add_saliencies(path, sets, [name for name in labels if name in classes.values()])


def maps(labels: list[str], seen: np.ndarray, classes: dict[int, str], config: str) -> np.ndarray:
    """[L, SIDE, SIDE] float32: where the objects named by a label are."""
    found = []
    for label in labels:
        name = vocabulary.CLASS_OF_SYNONYM.get(label, label)
        ids = [number for number, other in classes.items() if other in (name, label)]
        mask = np.isin(seen, ids).astype(np.float32)
        noise = np.random.default_rng(zlib.crc32(f"{label}{config}".encode())).random((SIDE, SIDE))
        found.append(0.02 * cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA) + 0.002 * noise)
    return np.stack(found).astype(np.float32)


def features(labels: list[str]) -> np.ndarray:
    """[L, FEATURES] float32 of unit norm, the same for a label everywhere."""
    rows = [np.random.default_rng(zlib.crc32(label.encode())).standard_normal(FEATURES) for label in labels]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)
