"""The embedded data, "mini-cathedrals": procedural cathedrals in the layout of WikiScenes.

Photos are rendered (`shared.scenes`), categories and captions composed, labels distilled from them through the
same code that distils WikiScenes; correspondences, COLMAP models and segmentation masks come from the geometry.

    python -m projects.babel.mini --root DIR
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel import colmap, mini_landmark, mini_names, mini_photos, mini_reconstruction, tree
from projects.babel.concept_words import ConceptWords
from projects.babel.correspondence_json import write_images
from projects.babel.distillation import distil
from projects.babel.mini_elements import CONCEPTS
from projects.babel.mini_names import Entry
from projects.babel.mini_photos import Shot
from projects.babel.splits import image_id, write_split
from shared.errors import InputError
from shared.made_once import make_once

__all__ = ["CONCEPTS", "DEFAULTS", "make"]
FORMAT = 5  # raised whenever the same settings give other data
DEFAULTS = {
    "seed": 0,
    "train": 16,
    "dev": 6,
    "test": 8,
    "views": 18,
    "side": 128,
    "points": 5000,
    "hard": 0.5,
    "wrong": 0.1,
    "framing": 0.0,
}
SPLITS = ("train", "val_easy", "dev", "val")
LISTS = {"val_easy": "wikiscenes_val_easy.txt", "dev": "wikiscenes_dev.txt", "val": "wikiscenes_val.txt"}
_LEAST = {"seed": 0, "train": 0, "dev": 0, "test": 0, "views": 1, "side": 16, "points": 1}
_SHARES = ("hard", "wrong", "framing")
_HELD_OUT = 1 / 6  # of the photos of train landmarks
_REGISTERED = 0.93  # of the photos are in the reconstruction
_POINT_IDS = 1_000_000  # for each landmark


@dataclass(frozen=True)
class Photo:
    """A photo, the split it belongs to, what the tree says of it."""

    landmark: str
    split: str
    shot: Shot
    entry: Entry


def make(
    root: Path | str,
    *,
    seed: int | None = None,
    train: int | None = None,
    dev: int | None = None,
    test: int | None = None,
    views: int | None = None,
    side: int | None = None,
    points: int | None = None,
    hard: float | None = None,
    wrong: float | None = None,
    framing: float | None = None,
) -> Path:
    """Make the set in the folder `root` on first use, in one step; return `root`. Takes about half a minute.

    A setting left out takes its default in a new folder, any value in an old one. Two processes may race: the
    loser discards its copy.

    Args:
        root: the folder.
        seed: of everything.
        train, dev, test: numbers of landmarks: for training (and val_easy), for choices, for the final test (val).
        views: photos of a landmark.
        side: longer side of a photo, pixels.
        points: tried for the reconstruction of a landmark.
        hard: 0 to 1, how much viewpoints and light vary.
        wrong: share of the training photos that lie in the category of another concept.
        framing: share of the photos that show as many metres whatever their concept: else nearness and sky tell it.

    Raises:
        InputError: `root` holds something else, or this set with other settings.
    """
    asked = {
        "format": FORMAT,
        "seed": seed,
        "train": train,
        "dev": dev,
        "test": test,
        "views": views,
        "side": side,
        "points": points,
        "hard": hard,
        "wrong": wrong,
        "framing": framing,
    }
    return make_once(Path(root), asked, DEFAULTS, _write)


def _check(settings: Mapping[str, Any]) -> None:
    for name, low in _LEAST.items():
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(f"mini data: {name}: expected a whole number, at least {low}, found {value!r}")
    for name in _SHARES:
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"mini data: {name}: expected 0 to 1, found {value!r}")
    if not settings["train"] + settings["dev"] + settings["test"]:
        raise InputError("mini data: train, dev, test: expected at least one landmark, found none")


def _write(folder: Path, settings: Mapping[str, Any]) -> None:
    _check(settings)
    groups = ["train"] * settings["train"] + ["dev"] * settings["dev"] + ["val"] * settings["test"]
    photos: list[Photo] = []
    names: dict[str, str] = {}
    sightings: list[tuple[list[int], mini_reconstruction.Reconstruction]] = []
    for number, group in enumerate(groups):
        rng = np.random.default_rng([settings["seed"], number])
        landmark = mini_landmark.build(rng, free_statues=3 if settings["framing"] else 1)
        name = mini_names.draw_name(rng)
        names[str(number)] = name.name
        first = len(photos)
        photos += _photograph(str(number), group, landmark, name, rng, settings)
        tried = [row for row in range(first, len(photos)) if rng.random() < _REGISTERED]
        cameras = [photos[row].shot.camera for row in tried]
        found = mini_reconstruction.reconstruct(landmark, cameras, rng, points=settings["points"])
        sightings.append(([tried[row] for row in found.registered], found))
    paths = _write_tree(folder, photos, names)
    _write_reconstructions(folder, paths, photos, sightings)
    _write_splits(folder, paths, photos)
    _write_masks(folder, paths, photos)


def _photograph(
    number: str,
    group: str,
    landmark: mini_landmark.Landmark,
    name: mini_names.Name,
    rng: np.random.Generator,
    settings: Mapping[str, Any],
) -> Iterator[Photo]:
    given = {name: settings[name] for name in ("side", "hard", "framing")}
    chosen = mini_photos.subjects(landmark, rng, settings["views"], framing=settings["framing"])
    for view, element in enumerate(chosen):
        shot = mini_photos.take(landmark, element, rng, **given)
        split = "val_easy" if group == "train" and rng.random() < _HELD_OUT else group
        wrong = split == "train" and rng.random() < settings["wrong"]
        yield Photo(number, split, shot, mini_names.describe(name, element, view, rng, wrong=wrong))


def _write_tree(folder: Path, photos: list[Photo], names: dict[str, str]) -> list[str]:
    entries = (
        (
            photo.landmark,
            photo.entry.categories,
            photo.entry.file,
            photo.entry.caption,
            f"https://example.org/{photo.landmark}/{photo.entry.file}",
            [photo.entry.language],
        )
        for photo in photos
    )
    paths = tree.write_tree(folder, entries, landmark_names=names)
    for path, photo in zip(paths, photos, strict=True):
        _save(folder / path, photo.shot.rgb)
    return paths


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        Image.fromarray(pixels).save(path, format="JPEG", quality=92)


def _write_reconstructions(
    folder: Path,
    paths: list[str],
    photos: list[Photo],
    sightings: list[tuple[list[int], mini_reconstruction.Reconstruction]],
) -> None:
    keypoints: list[tuple[str, dict[str, tuple[float, float]]]] = []
    for landmark, (registered, found) in enumerate(sightings):
        first_id = (landmark + 1) * _POINT_IDS
        names = [image_id(paths[row]) for row in registered]
        cameras = [photos[row].shot.camera for row in registered]
        for number, (name, camera) in enumerate(zip(names, cameras, strict=True)):
            mine = found.image == number
            xy = found.xy[mine] / [camera.width, camera.height]
            ids = first_id + found.point[mine]
            keypoints.append(
                (name, {str(i): (float(x), float(y)) for i, (x, y) in zip(ids, xy, strict=True)})
            )
        if not registered:  # nothing to reconstruct from so few photos or points
            continue
        place = folder / "WikiScenes3D" / str(landmark) / "0"
        place.mkdir(parents=True)
        model = mini_reconstruction.to_model(found, cameras, names, first_id)
        colmap.write_model(place, model, binary=bool(landmark % 2))
        colmap.write_point_labels(place, first_id + np.arange(len(found.xyz)), found.label)
    write_images(folder / "correspondence.json", keypoints)


def _write_splits(folder: Path, paths: list[str], photos: list[Photo]) -> None:
    """The split files, distilled from the tree that was written."""
    split_of = {path: photo.split for path, photo in zip(paths, photos, strict=True)}
    rows = list(distil(tree.walk(folder), ConceptWords(CONCEPTS)))
    for split in SPLITS:
        mine = [row for row in rows if split_of[row.path] == split]
        if mine:
            write_split(folder / f"{split}.txt", mine)


def _write_masks(folder: Path, paths: list[str], photos: list[Photo]) -> None:
    """The segmented photos: those of all splits but train."""
    for split, name in LISTS.items():
        lines = []
        for number, (path, photo) in enumerate(zip(paths, photos, strict=True)):
            if photo.split == split:
                picture, mask = f"val_seg/images/{number}.jpg", f"val_seg/masks/{number}.png"
                (folder / picture).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, folder / picture)
                _save(folder / mask, photo.shot.mask)
                lines.append(f"./{picture} ./{mask}\n")
        if lines:
            (folder / name).write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Make the embedded data by hand; the entries make what they need themselves."""
    parser = argparse.ArgumentParser(prog="mini", description="Make the embedded data of babel.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the set")
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=type(value), default=None)
    args = vars(parser.parse_args())
    try:
        print(make(args.pop("root"), **args))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
