"""A data set from a simulator: scene files under the released names, split files, lists of novel rooms and classes."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from projects.semabs import splits, vocabulary
from projects.semabs.scene_arrays import SceneArrays
from projects.semabs.scene_file import SceneFile, write_scene
from projects.semabs.scene_generation import make_scene
from projects.semabs.simulator import Simulator
from shared.errors import InputError
from shared.files import atomic_write

_SUFFIX = ".hdf5"


@dataclass(frozen=True)
class Job:
    """What is made of every view: where scenes go, points kept, voxels of the TSDF, gzip level (None = none)."""

    folder: Path
    points: int | None = 1_000_000
    tsdf_voxels: int = 64
    fictitious: str | None = "banana"
    gzip: int | None = 9


@dataclass
class Counts:
    """How many views were written, there already, without a good place to look from."""

    written: int = 0
    there: int = 0
    rejected: list[str] = field(default_factory=list)


def scene_file_name(seed: int, room: str) -> str:
    """`00007|FloorPlan26_physics.hdf5`."""
    return f"{seed:05d}|{room}{_SUFFIX}"


def room_of(file: str) -> str:
    """The room in a scene file's name; InputError for another name."""
    number, separator, rest = file.partition("|")
    if not separator or not number.isdigit() or not rest.endswith(_SUFFIX):
        raise InputError(f"{file}: expected a name like 00007|FloorPlan26_physics.hdf5")
    return rest.removesuffix(_SUFFIX)


def plan(rooms: Sequence[str], views: int, start_seed: int = 0) -> list[tuple[int, str]]:
    """(seed, room) of each view: rooms in turn, so that `views` of them are spread evenly."""
    if not rooms:
        raise InputError("rooms: expected at least one, found none")
    return [(seed, rooms[seed % len(rooms)]) for seed in range(start_seed, start_seed + views)]


def export(
    start: Callable[[], Simulator], planned: Sequence[tuple[int, str]], job: Job, *, processes: int = 0
) -> Iterator[tuple[str, bool | None]]:
    """Make the planned scenes; yields (file name, written: True, there already: False, no good view: None).

    `start` makes a simulator, once in each of `processes` (0: in this one). A scene is written beside and renamed,
    and what is there is not made again: a killed run continues.
    """
    if not processes:
        simulator = start()
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            for seed, room in planned:
                yield _one(simulator, seed, room, job)
        finally:
            simulator.close()
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin, (start, job)) as pool:
        yield from pool.map(_next, planned)


_HERE: dict[str, tuple[Simulator, Job]] = {}  # of a worker process


def _begin(start: Callable[[], Simulator], job: Job) -> None:
    _HERE["simulator"] = start(), job


def _next(planned: tuple[int, str]) -> tuple[str, bool | None]:
    simulator, job = _HERE["simulator"]
    return _one(simulator, *planned, job)


def _one(simulator: Simulator, seed: int, room: str, job: Job) -> tuple[str, bool | None]:
    name = scene_file_name(seed, room)
    if (job.folder / name).exists():
        return name, False
    view = simulator.view(room, seed)
    if view is None:
        return name, None
    rng = np.random.RandomState(seed)
    scene = make_scene(
        view, rng=rng, points=job.points, tsdf_voxels=job.tsdf_voxels, fictitious=job.fictitious
    )
    write_scene(job.folder / name, scene, gzip=job.gzip)
    return name, True


def visible_objects(scene: SceneArrays) -> list[str]:
    """Class names that the camera of a scene sees."""
    ids = np.unique(scene.segmentation)
    return vocabulary.visible_names(ids[ids >= 0], dict(enumerate(scene.class_names)))


def write_splits(folder: Path) -> dict[str, int]:
    """Divide the scene files of a folder, write both split files and the lists; sizes of the splits.

    Training scenes are those outside the novel rooms that show no novel class.
    """
    names: dict[str, list[str]] = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        with SceneFile(path) as scene:
            ids = np.unique(scene.segmentation())
            names[path.name] = vocabulary.visible_names(ids[ids >= 0], scene.classes)
    novel_rooms = [name for name in names if room_of(name) in vocabulary.TEST_ROOMS]
    novel = set(vocabulary.NOVEL_CLASSES)
    train = [name for name in names if name not in novel_rooms and not novel & set(names[name])]
    divided = divide(train, novel_rooms, names)
    others = set(names) - set(train) - set(novel_rooms)
    divided[splits.NOVEL_CLASSES] = sorted({*divided[splits.NOVEL_CLASSES], *others})
    for file in splits.SPLIT_FILES.values():
        splits.write_splits(folder / file, divided)
    write_lists(folder)
    return {split: len(files) for split, files in divided.items()}


def divide(train: list[str], test: list[str], names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The released splits of training and test scenes; `names`: what each scene shows."""
    known, novel = set(vocabulary.SYNONYMS), set(vocabulary.NOVEL_CLASSES)
    return {
        splits.TRAIN: train,
        splits.NOVEL_ROOMS: test,
        splits.NOVEL_VISUAL: test,
        splits.NOVEL_VOCABULARY: [file for file in test if known & set(names[file])],
        splits.NOVEL_CLASSES: [file for file in test if novel & set(names[file])],
    }


def write_lists(folder: Path) -> None:
    """The lists of novel rooms and novel classes."""
    for file, lines in (
        (vocabulary.TEST_ROOMS_FILE, vocabulary.TEST_ROOMS),
        (vocabulary.NOVEL_CLASSES_FILE, vocabulary.NOVEL_CLASSES),
    ):
        with atomic_write(folder / file) as out:
            out.write("".join(f"{line}\n" for line in lines).encode())
