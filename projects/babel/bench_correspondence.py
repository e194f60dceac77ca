"""Bench cases of the correspondences: reading them, the image graph, and what the processes of a loader hold."""

import gc
import json
import multiprocessing
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel.correspondence import Correspondence
from projects.babel.correspondence_json import write_images
from projects.babel.graph import Neighbours, image_graph
from shared.bench import Case, Sides, Target

RELEASED = "released: dict of sets"
FIRST, LATER = "ours, first start", "ours, later starts"
THRESHOLD = 10
_PER_LANDMARK = 50  # images
_folders: list[tempfile.TemporaryDirectory[str]] = []  # until the bench ends
Keypoints = dict[str, dict[str, list[float]]]


def graph(quick: bool) -> Sides:
    """The graph of 600 images x 300 keypoints that are in memory (released: as dicts, ours: as mapped arrays)."""
    path = corpus(60, 50) if quick else corpus(600, 300)
    loaded = json.loads(path.read_text(encoding="utf-8"))
    names = list(loaded)
    points = Correspondence.open(path, silent=True)
    return {
        RELEASED: partial(_released_graph, names, loaded),
        "ours": lambda: image_graph(points, points.indices_of(names), THRESHOLD),
    }


def loading(quick: bool) -> Sides:
    """From correspondence.json to a graph that pairs are drawn from: 1,000 images x 1,000 keypoints."""
    path = corpus(60, 50) if quick else corpus(1000, 1000)
    Correspondence.open(path, silent=True)
    names = [line.split('"')[1] for line in path.read_text(encoding="utf-8").splitlines() if '"' in line]
    return {
        RELEASED: partial(_load_as_released, path, names),
        FIRST: partial(_load_first, path, names),
        LATER: partial(_load, path, names),
    }


def check_graphs(outputs: Mapping[str, Any]) -> str:
    """Every neighbour of every image."""
    expected = outputs[RELEASED]
    for side, found in outputs.items():
        if side != RELEASED:
            ours = {row: found.of(row).tolist() for row in range(len(found)) if len(found.of(row))}
            assert ours == expected, side
    return f"{sum(map(len, expected.values()))} links of {len(expected)} images are equal"


def workers(quick: bool) -> Sides:
    """Each of 1, 2, 4 processes looks up the shared points of the same pairs."""
    path = corpus(60, 50) if quick else corpus(600, 1000)
    loaded: Keypoints = json.loads(path.read_text(encoding="utf-8"))
    names = list(loaded)
    points = Correspondence.open(path, silent=True)
    places = [place for place in points.indices_of(names) if place is not None]

    def dicts(i: int, j: int) -> int:
        return len(loaded[names[i]].keys() & loaded[names[j]].keys())

    def arrays(i: int, j: int) -> int:
        return len(points.shared(places[i], places[j])[0])

    pairs = [
        (i, j) for i in range(0, len(names), 3) for j in range(i, min(i + 3, len(names)))
    ]  # the released look-up is slow
    gc.collect()
    counts = (1, 2) if quick else (1, 2, 4)
    return {
        f"{name}, {count} worker{'s' * (count > 1)}": partial(_fork, count, lookup, pairs)
        for name, lookup in ((RELEASED, dicts), ("ours", arrays))
        for count in counts
    }


def check_workers(outputs: Mapping[str, Any]) -> str:
    """Equal numbers of shared points; memory that only the workers hold, ours below a tenth of the released."""
    assert len({shared for shared, _ in outputs.values()}) == 1
    held = {side: kilobytes / 1024 for side, (_, kilobytes) in outputs.items()}
    for side, size in held.items():
        if side.startswith(RELEASED) and size > 10:
            ours = held[side.replace(RELEASED, "ours")]
            assert ours < size / 10, f"{side}: {size:.1f} MiB, ours {ours:.1f} MiB"
    told = ", ".join(f"{side} {size:.1f} MiB" for side, size in held.items())
    return f"the same {next(iter(outputs.values()))[0]} shared points; copied pages: {told}"


def corpus(num_images: int, num_keypoints: int) -> Path:
    """A correspondence.json of landmarks with 50 images, each on a stretch of its landmark's points."""
    _folders.append(tempfile.TemporaryDirectory(prefix="babel-bench-"))
    path = Path(_folders[-1].name) / "correspondence.json"
    rng = np.random.default_rng(0)

    def images() -> Any:
        for index in range(num_images):
            landmark, number = divmod(index, _PER_LANDMARK)
            stretch = 2 * num_keypoints
            points = number * num_keypoints // 10 + rng.permutation(stretch)[:num_keypoints]
            xy = rng.random((num_keypoints, 2)).round(6).tolist()
            ids = [f"{landmark}_{point}" for point in points.tolist()]
            yield f"{landmark}/0/{number % 7}/pictures/{number}.jpg", dict(zip(ids, xy, strict=True))

    write_images(path, images())
    return path


def _load_as_released(path: Path, names: list[str]) -> dict[int, list[int]]:
    """The whole file as dicts."""
    with open(path, encoding="utf-8") as file:
        return _released_graph(names, json.load(file))


def _released_graph(names: list[str], loaded: Keypoints) -> dict[int, list[int]]:
    """Swap x and y, collect for each point the images that see it, count common points image by image."""
    keypoints, seen_by = [], defaultdict(set)
    for row, name in enumerate(names):
        keypoints.append({point: [xy[1], xy[0]] for point, xy in loaded[name].items()})
        for point in loaded[name]:
            seen_by[point].add(row)
    found = {}
    for row, own in enumerate(keypoints):
        common: dict[int, int] = defaultdict(int)
        for point in own:
            for other in seen_by[point]:
                common[other] += 1
        linked = sorted(other for other, count in common.items() if count >= THRESHOLD)
        if linked:
            found[row] = linked
    return found


def _load_first(path: Path, names: list[str]) -> Neighbours:
    shutil.rmtree(path.parent / "first", ignore_errors=True)
    return _load(path, names, path.parent / "first")


def _load(path: Path, names: list[str], cache: Path | None = None) -> Neighbours:
    points = Correspondence.open(path, cache=cache, silent=True)
    return image_graph(points, points.indices_of(names), THRESHOLD)


def _fork(count: int, lookup: Callable[[int, int], int], pairs: list[tuple[int, int]]) -> tuple[int, int]:
    """(points found by one, kilobytes that the processes do not share with anybody, beyond those at their start)."""
    context = multiprocessing.get_context("fork")
    started = []
    for _ in range(count):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(there, lookup, pairs))
        process.start()
        started.append((process, here))
    found = [here.recv() for _, here in started]
    for process, _ in started:
        process.join()
    return found[0][0], sum(kilobytes for _, kilobytes in found)


def _work(there: Connection, lookup: Callable[[int, int], int], pairs: list[tuple[int, int]]) -> None:
    gc.disable()  # a collection touches every object, of either side
    before = _private()
    shared = sum(lookup(i, j) for i, j in pairs)
    there.send((shared, _private() - before))
    there.close()


def _private() -> int:
    """Kilobytes of this process's own, written pages."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    return 0


CASES = [
    Case(
        "correspondence_graph",
        "the image graph of 600 images x 300 keypoints in memory",
        graph,
        check_graphs,
        (Target("ours", RELEASED, 5.0),),
    ),
    Case(
        "correspondence_loading",
        "correspondence.json of 1,000 images x 1,000 keypoints to an image graph",
        loading,
        check_graphs,
        (Target(LATER, RELEASED, 5.0), Target(FIRST, RELEASED)),
        memory=True,
    ),
    Case(
        "correspondence_workers",
        "the shared points of pairs out of 600 images x 1,000 keypoints, looked up by forked workers",
        workers,
        check_workers,
        (Target("ours, 2 workers", f"{RELEASED}, 2 workers"),),
    ),
]
