"""Segment pictures and write their masks: those of a list, of a split, or the user's photographs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from projects.babel import masks
from projects.babel.data import Split
from projects.babel.expectations import expect, expect_positive, paths
from projects.babel.merging import BACKGROUND_POWER, LABEL_CHOICES, label_map
from projects.babel.palette import concept_colours
from projects.babel.segmenting import Prediction, Predictor, with_crf
from projects.babel.splits import image_id
from shared.errors import InputError
from shared.files import read_image
from shared.progress import Progress

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".gif", ".bmp", ".webp")
SHOWN = ("overlay", "released", "voc", "none")  # the pictures in vis/


@dataclass(frozen=True)
class Item:
    """A picture: what its files are called, where it is, where its true mask is (or none)."""

    name: str
    picture: Path
    truth: Path | None = None


@dataclass(frozen=True)
class Writing:
    """What is written of a mask.

    Attributes:
        folder: `<name>.png` (labels), crf/`<name>.png`, vis/`<name>_pred.png`, vis/`<name>_pred_crf.png`.
        labels: which concepts may occur, see `merging.choose_labels`.
        background_power: see `merging.restrict`.
        crf: with the dense CRF.
        vis: "overlay" (a colour per concept), "released" (one colour for all), "voc" (Pascal VOC's) or "none".
        upright: turn pictures as their EXIF orientation says; True for photographs.
    """

    folder: Path
    labels: str = "best"
    background_power: float = BACKGROUND_POWER
    crf: bool = False
    vis: str = "overlay"
    upright: bool = False

    def check(self) -> None:
        """InputError when a setting makes no sense, or an extra is not installed."""
        if self.labels not in LABEL_CHOICES:
            raise InputError(f"labels: expected one of {', '.join(LABEL_CHOICES)}, found {self.labels!r}")
        if self.vis not in SHOWN:
            raise InputError(f"vis: expected one of {', '.join(SHOWN)}, found {self.vis!r}")
        expect_positive("background_power", self.background_power)
        expect("crf", isinstance(self.crf, bool), "true or false", self.crf)
        if self.crf:
            from projects.babel import dense_crf

            dense_crf.require()


@dataclass
class Segmented:
    """What was found in a picture.

    Attributes:
        scores: probability of each concept [C].
        pixels: the photograph, uint8 [H, W, 3].
        labels: its mask, uint8 [H, W] (after the CRF if there is one); None for a model without masks.
        files: what was written, by kind, relative to the folder.
    """

    item: Item
    scores: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray | None
    files: dict[str, str] = field(default_factory=dict)

    def shares(self, classes: int) -> np.ndarray:
        """Share of each class in the mask [K]; the background first."""
        if self.labels is None:
            return np.zeros(classes)
        return np.bincount(self.labels.reshape(-1), minlength=classes) / self.labels.size


def list_items(pairs: Sequence[tuple[Path, Path]]) -> list[Item]:
    """Of a list `picture mask`: named like the picture; InputError when two would have one name."""
    return _unique([Item(picture.stem, picture, truth) for picture, truth in pairs])


def split_items(split: Split) -> list[Item]:
    """Of a split: named like the image in correspondence.json, without its ending."""
    rows = enumerate(split.rows)
    return _unique(
        [Item(Path(image_id(row.path)).with_suffix("").as_posix(), split.path(i)) for i, row in rows]
    )


def photo_items(given: str | Sequence[str]) -> list[Item]:
    """Photographs: files, folders (with all below), or several of them; a number tells equal names apart.

    InputError when one does not exist, or there is no picture at all.
    """
    files: list[Path] = []
    for path in paths(given):
        if path.is_dir():
            below = (p for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS and p.is_file())
            files += sorted(below)
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"photos: {path}: no such file or folder")
    if not files:
        raise InputError(f"photos: no pictures found in {given} ({' '.join(PICTURE_ENDINGS)})")
    taken: set[str] = set()
    items = []
    for path in files:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        items.append(Item(name, path))
    return items


def segment(
    items: Sequence[Item],
    predictor: Predictor,
    how: Writing,
    *,
    unreadable: str = "error",
    skipped: list[str] | None = None,
) -> Iterator[Segmented]:
    """Predict, write and hand on, picture by picture, with progress.

    unreadable: a picture (or true mask, where needed) that cannot be read is an "error", or is noted in
    `skipped` ("skip").
    """
    if unreadable not in ("error", "skip"):
        raise InputError(f"unreadable: expected error or skip, found {unreadable!r}")
    with Progress(len(items), unit="picture", label="masks", device=predictor.runtime.device) as bar:
        for item in items:
            try:
                pixels = read_image(item.picture, exif=how.upright)
                truth = _truth(item) if how.labels == "ground_truth" else None
            except InputError as error:
                if unreadable == "error":
                    raise
                if skipped is not None:
                    skipped.append(str(error))
            else:
                yield write(item, pixels, predictor(pixels), how, truth)
            bar.update()


def write(
    item: Item, pixels: np.ndarray, found: Prediction, how: Writing, truth: np.ndarray | None = None
) -> Segmented:
    """Write the files of one picture, at its own size."""
    if found.merged is None:
        return Segmented(item, found.scores, pixels, None)
    mask = found.restricted(how.labels, how.background_power, truth)
    done = Segmented(item, found.scores, pixels, None)
    versions = {"": mask, **({"crf": with_crf(found.picture, mask)} if how.crf else {})}
    for kind, probabilities in versions.items():
        done.labels = label_map(probabilities, pixels.shape[:2])
        name = f"{kind}/{item.name}.png" if kind else f"{item.name}.png"
        masks.write_mask(how.folder / name, done.labels)
        done.files[f"mask_{kind}" if kind else "mask"] = name
        if how.vis != "none":
            ending = f"_pred{'_crf' if kind else ''}.{'jpg' if how.upright else 'png'}"
            shown = f"vis/{item.name}{ending}"
            masks.write_picture(how.folder / shown, _shown(pixels, done.labels, how.vis, len(mask)))
            done.files[f"picture_{kind}" if kind else "picture"] = shown
    return done


def _shown(pixels: np.ndarray, labels: np.ndarray, kind: str, classes: int) -> np.ndarray:
    if kind == "overlay":
        return masks.overlay(pixels, labels, concept_colours(classes - 1))
    colours = masks.voc_colours if kind == "voc" else masks.released_colours
    return masks.blend(pixels, labels, colours(classes))


def _truth(item: Item) -> np.ndarray:
    if item.truth is None:
        raise InputError(f"{item.picture}: labels=ground_truth needs a list with masks")
    return masks.read_mask(item.truth)


def _unique(items: list[Item]) -> list[Item]:
    counts = Counter(item.name for item in items)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} pictures would be written as {name}.png")
    return items
