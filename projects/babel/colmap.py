"""COLMAP models (`WikiScenes3D/<landmark>/<k>/{cameras,images,points3D}.{bin,txt}`) as flat arrays, and back.

pycolmap reads and writes them, so text, binary and models older than its rigs are one. I images, N points, M
observations (a keypoint in an image that belongs to a point; a point's track are its observations).
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel import colmap_records, colmap_text
from projects.babel.colmap_model import Camera, Model, check_numbers, make_model
from shared.atomic import atomic_path, first_line
from shared.errors import InputError
from shared.files import load_npz, save_npz

__all__ = [
    "Camera",
    "Model",
    "make_model",
    "read_model",
    "read_point_labels",
    "write_model",
    "write_point_labels",
]
PARTS = ("cameras", "images", "points3D")
POINT_LABELS = "points_labels.npz"
UNKNOWN = 255  # class of a point that nobody labelled


def read_model(folder: str | Path) -> Model:
    """Read a model. InputError when a file is missing, damaged or names what another one does not have."""
    import pycolmap

    folder = Path(folder).expanduser()
    with _three_files(folder) as (place, binary), _quiet():
        if binary:
            _check(place, folder)
        try:
            reconstruction = pycolmap.Reconstruction()
            (reconstruction.read_binary if binary else reconstruction.read_text)(str(place))
            if not binary:
                reconstruction.write_binary(str(place))
        except (ValueError, IndexError, RuntimeError, MemoryError) as error:
            fault = None if binary else colmap_text.find_fault(place)
            told = f"{folder}: not a whole COLMAP model: {_cause(error)}"
            raise InputError(told if fault is None else fault.replace(str(place), str(folder))) from None
        return _flatten(reconstruction, place, folder, None if binary else place / "images.txt")


def write_model(folder: str | Path, model: Model, *, binary: bool = True) -> None:
    """Write cameras, images and points3D (.bin or .txt) into `folder`, as the released models have them.

    Camera i gets the id i + 1, image i the id i + 1.
    """
    import pycolmap

    made = pycolmap.Reconstruction()
    for number, camera in enumerate(model.cameras, 1):
        size = {"width": camera.width, "height": camera.height}
        made.add_camera_with_trivial_rig(
            pycolmap.Camera(camera_id=number, model=camera.model, params=list(camera.params), **size)
        )
    tracks = [pycolmap.Track() for _ in model.point_ids]
    for i, name in enumerate(model.names):
        part = slice(model.offsets[i], model.offsets[i + 1])
        points = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in model.xy[part].astype(np.float64)])
        image = pycolmap.Image(
            image_id=i + 1, camera_id=int(model.camera_of[i]) + 1, name=name, points2D=points
        )
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(model.cam_from_world[i]))
        for k, point in enumerate(model.points[part].tolist()):
            tracks[point].add_element(i + 1, k)
    for n, track in enumerate(tracks):
        content = pycolmap.Point3D(xyz=model.xyz[n], color=model.rgb[n], track=track, error=model.error[n])
        made.add_point3D_with_id(int(model.point_ids[n]), content)
    folder, suffix = Path(folder), ".bin" if binary else ".txt"
    with tempfile.TemporaryDirectory() as place:
        (made.write_binary if binary else made.write_text)(place)
        for part_name in PARTS:
            with atomic_path(folder / f"{part_name}{suffix}") as target:
                target.write_bytes((Path(place) / f"{part_name}{suffix}").read_bytes())


def write_point_labels(folder: str | Path, ids: np.ndarray, labels: np.ndarray) -> None:
    """Write the true classes of points beside their model: ids int64 [n], labels uint8 [n] (255: unknown)."""
    save_npz(Path(folder) / POINT_LABELS, ids=np.asarray(ids, np.int64), labels=np.asarray(labels, np.uint8))


def read_point_labels(path: str | Path, model: Model) -> np.ndarray:
    """True classes uint8 [N] of a model's points, UNKNOWN where the file says nothing.

    path: an .npz file with `ids` and `labels`, or the folder that holds points_labels.npz. InputError when ids
    are not those of the model (labels of another scene).
    """
    path = Path(path)
    path = path / POINT_LABELS if path.is_dir() else path
    stored = load_npz(path)
    missing = {"ids", "labels"} - set(stored)
    if missing:
        raise InputError(f"{path}: no array {sorted(missing)[0]!r}, expected ids and labels of points")
    ids, labels = stored["ids"], stored["labels"]
    if (
        ids.ndim != 1
        or ids.shape != labels.shape
        or ids.dtype.kind not in "iu"
        or labels.dtype.kind not in "iu"
    ):
        raise InputError(
            f"{path}: ids {ids.dtype} {list(ids.shape)}, labels {labels.dtype} {list(labels.shape)}: expected two "
            "lists of integers of equal length"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() <= UNKNOWN):
        raise InputError(f"{path}: labels from {labels.min()} to {labels.max()}, expected 0 to {UNKNOWN}")
    rows, known = _rows_of(model.point_ids, ids.astype(np.int64))
    if not known.all():
        raise InputError(
            f"{path}: {int((~known).sum())} of {len(ids)} point ids (first: {ids[~known][0]}) are not in the model: "
            "labels of another scene?"
        )
    classes = np.full(len(model.point_ids), UNKNOWN, np.uint8)
    classes[rows] = labels
    return classes


def _rows_of(sorted_ids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each id is among the sorted ones, and whether it is there at all."""
    rows = np.searchsorted(sorted_ids, ids)
    inside = np.minimum(rows, max(len(sorted_ids) - 1, 0))
    known = sorted_ids[inside] == ids if len(sorted_ids) else np.zeros(len(ids), bool)
    return inside.astype(np.int32), known


@contextlib.contextmanager
def _three_files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A temporary folder with links to the model's files under the names that pycolmap wants; whether binary.

    Rigs and frames are left out: images hold their poses, and models were published before there were any.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a COLMAP model")
    there = {file.name.lower(): file for file in folder.iterdir() if file.is_file()}
    wanted = {suffix: [f"{part}.{suffix}" for part in PARTS] for suffix in ("bin", "txt")}
    for suffix, names in wanted.items():
        found = [there.get(name.lower()) for name in names]  # the release also writes points3d.txt
        if all(found):
            with tempfile.TemporaryDirectory() as place:
                for name, file in zip(names, found, strict=True):
                    assert file is not None
                    (Path(place) / name).symlink_to(file.resolve())
                yield Path(place), suffix == "bin"
            return
    partial = next(
        (names for names in wanted.values() if any(n.lower() in there for n in names)), wanted["bin"]
    )
    missing = ", ".join(name for name in partial if name.lower() not in there)
    raise InputError(
        f"{folder}: not a COLMAP model: no {missing} (expected cameras, images, points3D as .bin or .txt)"
    )


def _check(place: Path, folder: Path) -> None:
    """The structure of the binary files, before pycolmap believes their counts."""
    import pycolmap

    def num_parameters(model: int) -> int:
        try:
            known = pycolmap.CameraModelId(model)
            return len(pycolmap.Camera.create_from_model_id(1, known, 1.0, 1, 1).params)
        except (ValueError, TypeError):
            raise InputError(f"{folder}/cameras.bin: camera model {model} does not exist") from None

    try:
        colmap_records.check_cameras(place / "cameras.bin", num_parameters)
        for _ in colmap_records.walk_images(place / "images.bin"):
            pass
        colmap_records.read_points(place / "points3D.bin")
    except InputError as error:
        raise InputError(str(error).replace(str(place), str(folder))) from None


def _flatten(reconstruction: Any, place: Path, folder: Path, names_in: Path | None) -> Model:
    """The arrays of a model that pycolmap has found whole; the large ones come from its binary files."""
    found = colmap_records.read_points(place / "points3D.bin")
    found = found[np.argsort(found["id"])]
    camera_ids = sorted(reconstruction.cameras)
    whole = {} if names_in is None else colmap_text.image_names(names_in)
    names, camera_of, poses, counts = [], [], [], []
    points, xy = [np.empty(0, np.int32)], [np.empty((0, 2), np.float32)]
    for image in colmap_records.walk_images(place / "images.bin"):
        seen = image.points[image.points["point"] != -1]
        rows, known = _rows_of(found["id"], seen["point"])
        if not known.all():
            raise InputError(
                f"{folder}: image {image.name!r} sees point {seen['point'][~known][0]}, which points3D does not have"
            )
        names.append(whole.get(image.id, image.name))
        camera_of.append(camera_ids.index(image.camera))
        poses.append(reconstruction.images[image.id].cam_from_world().matrix())
        counts.append(len(seen))
        points.append(rows)
        with np.errstate(over="ignore"):  # checked below
            xy.append(seen["xy"].astype(np.float32))
    if not names:
        raise InputError(f"{folder}: a COLMAP model without images")
    model = Model(
        names=tuple(names),
        cameras=tuple(_camera(reconstruction.cameras[key]) for key in camera_ids),
        camera_of=np.array(camera_of, np.int64),
        cam_from_world=np.array(poses),
        point_ids=found["id"].copy(),
        xyz=found["xyz"].copy(),
        rgb=found["rgb"].copy(),
        error=found["error"].copy(),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        points=np.concatenate(points),
        xy=np.concatenate(xy),
    )
    check_numbers(model, folder)
    return model


def _camera(camera: Any) -> Camera:
    return Camera(camera.model.name, camera.width, camera.height, tuple(camera.params.tolist()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pycolmap also logs what it raises."""
    import pycolmap

    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _cause(error: BaseException) -> str:
    """pycolmap's message without its source line, and its C++ condition."""
    text = first_line(error)
    return text.split("] ", 1)[-1] if text.startswith("[") else text
