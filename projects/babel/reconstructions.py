"""Where reconstructions are, and the files of their images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel import colmap
from projects.babel.colmap import Model
from projects.babel.data import DataSet
from projects.babel.expectations import paths
from projects.babel.splits import landmark_of, read_split
from shared.errors import InputError

MODELS = "WikiScenes3D"
PICTURES = "WikiScenes"


@dataclass(frozen=True)
class Reconstruction:
    """A COLMAP model and the files of its images.

    name: e.g. `12-0`. files: of the images, None where one is missing. truth: uint8 [N] or None.
    """

    name: str
    model: Model
    files: tuple[Path | None, ...]
    truth: np.ndarray | None


@dataclass(frozen=True)
class Places:
    """Where to look: folders of COLMAP models, and folders from which image names start."""

    models: tuple[Path, ...]
    images: tuple[Path, ...]

    def open_all(
        self, *, masks: Path | None = None, point_labels: Path | None = None
    ) -> Iterable[Reconstruction]:
        """The reconstructions, one at a time, as `open_reconstruction`.

        masks: a folder of PNGs named like the images, in place of them.
        """
        for folder in self.models:
            if masks is None:
                yield open_reconstruction(folder, self.images, point_labels=point_labels)
            else:
                yield open_reconstruction(folder, (masks,), ending=".png", point_labels=point_labels)


def find_places(settings: Mapping[str, Any], data: DataSet | None) -> Places:
    """What the settings `reconstruction`, `images` (not needed with `masks`) and `split` ask for.

    InputError: no model or no folder there; no data set that tells where they are.
    """
    given, images = settings["reconstruction"], settings["images"]
    if data is None and (given is None or (images is None and settings["masks"] is None)):
        raise InputError(
            "reconstruction and images: expected both, or a data set (data=wikiscenes data.root=FOLDER)"
        )
    root = Path() if data is None else Path(data.root)
    landmarks: list[str] = []
    if given is None and data is not None:
        rows = read_split(data.split_file(settings["split"]), tuple(data.concepts))
        landmarks = [landmark_of(row.path) for row in rows]
    for key in ("images", "masks"):
        for folder in paths([] if settings[key] is None else settings[key]):
            if not folder.is_dir():
                raise InputError(f"{key}: {folder}: no such folder")
    if images is not None:
        folders = paths(images)
    else:
        folders = sorted(folder for folder in (root / PICTURES).glob("*") if folder.is_dir())
    return Places(tuple(find_reconstructions(given, root, landmarks)), tuple(folders))


def find_reconstructions(
    given: str | Sequence[str] | None, root: Path, landmarks: Iterable[str]
) -> list[Path]:
    """Folders of COLMAP models: `given` ones and all below them, or those of `landmarks` in root/WikiScenes3D.

    InputError when there is none.
    """
    if given is None:
        places = [root / MODELS / landmark for landmark in sorted(set(landmarks))]
    else:
        places = paths(given)
        for place in places:
            if not place.is_dir():
                raise InputError(f"reconstruction: {place}: no such folder")
    found = [folder for place in places for folder in _models_in(place)]
    if not found:
        where = f"{root / MODELS} for the landmarks of the split" if given is None else f"{given}"
        raise InputError(f"reconstruction: no COLMAP model (cameras, images, points3D) in {where}")
    return found


def open_reconstruction(
    folder: Path, folders: Sequence[Path], *, ending: str | None = None, point_labels: Path | None = None
) -> Reconstruction:
    """Read a model, find its pictures (or masks: `ending` in place of theirs), read the true classes if any.

    Names start from one of `folders`, or from the landmark's folder in one. InputError when no file at all is
    found: a model of another scene.
    """
    model = colmap.read_model(folder)
    places = [place for one in folders for place in (one, one / folder.parent.name)]
    files = tuple(_find(name, places, ending) for name in model.names)
    if not any(files):
        looked = ", ".join(str(one) for one in folders)
        raise InputError(
            f"{folder}: none of its {len(files)} images (first: {model.names[0]!r}) is in {looked}: "
            "a model of another scene?"
        )
    labels = point_labels or folder / colmap.POINT_LABELS
    truth = None
    if point_labels is not None or labels.is_file():
        truth = colmap.read_point_labels(labels, model)
    return Reconstruction(f"{folder.parent.name}-{folder.name}", model, files, truth)


def _models_in(place: Path) -> list[Path]:
    names = {f"points3d.{ending}" for ending in ("bin", "txt")}
    return sorted({file.parent for file in place.rglob("*") if file.name.lower() in names})


def _find(name: str, places: Sequence[Path], ending: str | None) -> Path | None:
    """The file of an image, which must lie in one of the places (a name may hold `..`)."""
    for place in places:
        file = place / name if ending is None else (place / name).with_suffix(ending)
        if file.is_file() and file.resolve().is_relative_to(place.resolve()):
            return file
    return None
