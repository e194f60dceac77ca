"""Films of what inference wrote: completed meshes, places of described objects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from projects.semabs import meshes, palette, turntable
from projects.semabs.expectations import expect, expect_whole
from projects.semabs.meshes import Surface
from projects.semabs.scene_pickle import file_name
from projects.semabs.turntable import Cloud, Painted
from projects.semabs.visualizing import NOTE, SCENE_CLOUD, SCENE_PICTURE
from shared.errors import InputError
from shared.files import atomic_write, read_image, read_json

OVERVIEW = "overview.png"
_OVERVIEW = 400  # pixels of each of its three parts
_NEARER = 0.75  # the corners of the room may be cut off
_FILM_POINTS = 60_000  # of a cloud that are drawn
_FAINT = 0.55  # of the scene's colours beside a described place


@dataclass(frozen=True)
class Film:
    """Frames of a turn, side of a picture in pixels, frames per second."""

    frames: int = turntable.FRAMES
    size: int = turntable.SIZE
    fps: int = turntable.FPS

    def __post_init__(self) -> None:
        expect_whole({"film": vars(self)}, *(f"film.{name}" for name in vars(self)), least=1)
        expect("film.size", self.size % 2 == 0, "an even number", self.size)


def film_completion(folder: Path, film: Film, *, say: Callable[[str], None] = print) -> Path:
    """ovssc-visualize: completion.mp4 of all .obj in a folder, each label in a colour of its own; overview.png."""
    stage, names, colours = completion_stage(folder)
    path = folder / "completion.mp4"
    _write(path, stage, film, names, colours)
    say(f"film: {path}")
    if (folder / SCENE_PICTURE).is_file() and (folder / SCENE_CLOUD).is_file():
        write_overview(folder, stage, names, colours)
        say(f"picture: {folder / OVERVIEW}")
    return path


def write_overview(folder: Path, stage: turntable.Stage, names: Sequence[str], colours: np.ndarray) -> None:
    """overview.png: what the camera saw, its points, and the completed scene from the same side."""
    points, their_colours = thinned(*meshes.read_ply(folder / SCENE_CLOUD))
    cloud = Cloud(points, their_colours, size=0.02)
    wide = turntable.stage_round(stage.meshes, [cloud])
    wide = replace(wide, radius=_NEARER * wide.radius)
    turn, side = 0.06, _OVERVIEW
    picture = ImageOps.contain(Image.fromarray(read_image(folder / SCENE_PICTURE)), (side, side))
    whole = Image.new("RGB", (3 * side, side), "white")
    whole.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    whole.paste(Image.fromarray(replace(wide, meshes=()).picture(turn, side)), (side, 0))
    behind = replace(wide, meshes=(), clouds=(replace(cloud, colours=_faint(their_colours)),))
    front = replace(wide, clouds=()).picture(turn, side)
    empty = (front == 255).all(-1, keepdims=True)
    completed = palette.with_legend(np.where(empty, behind.picture(turn, side), front), names, colours)
    whole.paste(Image.fromarray(completed), (2 * side, 0))
    with atomic_write(folder / OVERVIEW) as file:
        whole.quantize(128).save(file, format="PNG", optimize=True)


def completion_stage(folder: Path) -> tuple[turntable.Stage, list[str], np.ndarray]:
    """The meshes of a folder on a stage, their names and colours uint8 [n, 3]."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; ovssc-inference makes one")
    note = read_json(folder / NOTE) if (folder / NOTE).is_file() else None
    files = {path.stem: path for path in sorted(folder.glob("*.obj"))}
    labels = sorted(files)
    if (
        isinstance(note, Mapping)
        and isinstance(note.get("files"), Mapping)
        and isinstance(note.get("labels"), list)
    ):
        files = {str(label): folder / file_name(str(name)) for label, name in note["files"].items()}
        labels = [str(label) for label in note["labels"]]
    if not files:
        raise InputError(
            f"{folder}: expected meshes (*.obj) of ovssc-inference, found none: no label has a volume"
        )
    all_colours = palette.colours(len(labels))
    shown = [label for label in labels if label in files]
    colours = all_colours[[labels.index(label) for label in shown]]
    painted = []
    for label, colour in zip(shown, colours, strict=True):
        surface = meshes.read_obj(files[label])
        if isinstance(note, Mapping) and "bounds" in note:
            vertices = meshes.placed(surface.vertices, np.array(note["bounds"], float), int(note["grid"]))
            surface = Surface(vertices, surface.normals, surface.faces)
        painted.append(Painted(surface, colour))
    return turntable.stage_round(painted, []), shown, colours


def film_places(folder: Path, film: Film, *, say: Callable[[str], None] = print) -> list[Path]:
    """vool-visualize: a film for each description's .ply, in the cloud of the scene."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; vool-inference makes one")
    clouds = [path for path in sorted(folder.glob("*.ply")) if path.name != SCENE_CLOUD]
    if not clouds:
        raise InputError(f"{folder}: expected point clouds (*.ply) of vool-inference, found none")
    around = []
    if (folder / SCENE_CLOUD).is_file():
        points, colours = thinned(*meshes.read_ply(folder / SCENE_CLOUD))
        around = [Cloud(points, _faint(colours))]
    written = []
    for path in clouds:
        place = Cloud(*thinned(*meshes.read_ply(path)), size=0.02)
        stage = turntable.stage_round([], [*around, place])
        film_path = path.with_suffix(".mp4")
        _write(film_path, stage, film, [path.stem], np.array([[220, 60, 30]], np.uint8))
        written.append(film_path)
        say(f"film: {film_path}")
    return written


def thinned(
    points: np.ndarray, colours: np.ndarray, most: int = _FILM_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """At most so many of the points, evenly."""
    if len(points) <= most:
        return points, colours
    kept = np.linspace(0, len(points) - 1, most).astype(int)
    return points[kept], colours[kept]


def _write(path: Path, stage: turntable.Stage, film: Film, names: Sequence[str], colours: np.ndarray) -> None:
    turntable.write_film(
        path,
        stage,
        frames=film.frames,
        size=film.size,
        fps=film.fps,
        decorate=lambda picture: palette.with_legend(picture, names, colours),
    )


def _faint(colours: np.ndarray) -> np.ndarray:
    """Colours uint8, nearer to white."""
    return (255 - (255 - colours.astype(float)) * _FAINT).astype(np.uint8)
