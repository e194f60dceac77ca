"""The embedded data, "mini-rooms": procedural rooms in the layout of the released THOR scenes.

python -m projects.semabs.mini --root DIR
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.semabs import splits, vocabulary
from projects.semabs.mini_simulator import TRAIN_ROOMS, MiniRooms
from projects.semabs.scene_arrays import SceneArrays
from projects.semabs.scene_export import divide, scene_file_name, visible_objects, write_lists
from projects.semabs.scene_file import write_scene
from projects.semabs.scene_generation import make_scene
from shared.errors import InputError
from shared.made_once import make_once

FORMAT = 5  # raised whenever the same settings give other data
DEFAULTS = {
    "seed": 0,
    "train_rooms": 160,
    "val_rooms": 12,
    "test_rooms": 40,
    "hiding": 0.25,
    "image_size": 224,
    "points": 64_000,
    "tsdf_voxels": 32,
}
VALIDATION = "val"
_LEAST = {
    "seed": 0,
    "train_rooms": 1,
    "val_rooms": 0,
    "test_rooms": 0,
    "image_size": 8,
    "points": 1,
    "tsdf_voxels": 1,
}
GROUPS = ("train", "val", "test")
_HIDDEN = ("in", "behind", "in")


@dataclass(frozen=True)
class Planned:
    """A scene to write: its number, its room, the group it belongs to, what hides in it (then for VOOL only)."""

    number: int
    room: str
    group: str
    hidden: str | None

    @property
    def file(self) -> str:
        """Its name as released."""
        return scene_file_name(self.number, self.room)


def make(
    root: Path | str,
    *,
    seed: int | None = None,
    train_rooms: int | None = None,
    val_rooms: int | None = None,
    test_rooms: int | None = None,
    hiding: float | None = None,
    image_size: int | None = None,
    points: int | None = None,
    tsdf_voxels: int | None = None,
) -> Path:
    """Make the set in the folder `root` on first use, in one step; return `root`. Takes about a minute.

    A setting left out takes its default in a new folder, any value in an old one. Two processes may race: the
    loser discards its copy.

    Args:
        root: the folder.
        seed: of everything.
        train_rooms, val_rooms, test_rooms: rooms of both tasks: with the training names, the same (to choose
            cutoffs on), with all names.
        hiding: so many more rooms (a share of each of these numbers) hold a thing out of sight; for VOOL only.
        image_size: side of the square pictures, pixels.
        points: of the cloud of a room.
        tsdf_voxels: of the stored TSDF along each axis.

    Raises:
        InputError: `root` holds something else, or this set with other settings.
    """
    asked = {
        "format": FORMAT,
        "seed": seed,
        "train_rooms": train_rooms,
        "val_rooms": val_rooms,
        "test_rooms": test_rooms,
        "hiding": hiding,
        "image_size": image_size,
        "points": points,
        "tsdf_voxels": tsdf_voxels,
    }
    return make_once(Path(root), asked, DEFAULTS, _write)


def _check(settings: Mapping[str, Any]) -> None:
    for name, low in _LEAST.items():
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise InputError(f"mini data: {name}: expected a whole number, at least {low}, found {value!r}")
    value = settings["hiding"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"mini data: hiding: expected 0 to 1, found {value!r}")


def _write(folder: Path, settings: Mapping[str, Any]) -> None:
    _check(settings)
    planned = list(_plan(settings))

    def write(one: Planned) -> tuple[str, list[str]]:
        scene = scene_of(one, settings)
        write_scene(folder / one.file, scene, gzip=None)
        return one.file, visible_objects(scene)

    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        names = dict(pool.map(write, planned))
    for task, file in splits.SPLIT_FILES.items():
        mine = [one for one in planned if task == "vool" or one.hidden is None]
        files = {group: [one.file for one in mine if one.group == group] for group in GROUPS}
        divided = divide(files["train"], files["test"], names)
        splits.write_splits(folder / file, divided | {VALIDATION: files["val"]})
    write_lists(folder)


def scene_of(one: Planned, settings: Mapping[str, Any]) -> SceneArrays:
    """The arrays of a planned scene."""
    simulator = MiniRooms(
        side=settings["image_size"], points=settings["points"], seed=settings["seed"], hidden=one.hidden
    )
    view = simulator.view(one.room, one.number)
    rng = np.random.default_rng([settings["seed"], 707, one.number])
    return make_scene(view, rng=rng, points=None, tsdf_voxels=settings["tsdf_voxels"], fictitious=None)


def _plan(settings: Mapping[str, Any]) -> Iterator[Planned]:
    number = 0
    for group in GROUPS:
        rooms = vocabulary.TEST_ROOMS if group == "test" else TRAIN_ROOMS
        count = settings[f"{group}_rooms"]
        for index in range(count + round(settings["hiding"] * count)):
            hidden = _HIDDEN[(index - count) % len(_HIDDEN)] if index >= count else None
            yield Planned(number, rooms[index % len(rooms)], group, hidden)
            number += 1


def main() -> None:
    """Make the embedded data by hand; the entries make what they need themselves."""
    parser = argparse.ArgumentParser(prog="mini", description="Make the embedded data of semabs.")
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
