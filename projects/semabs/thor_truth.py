"""The ground truth of THOR rooms as it is on the disk: points with object ids, class names, boxes of receptacles.

A folder of exported rooms holds `<room>.npz` or the release's `<room>.pkl` (a dict), and beside it, optionally,
`<room>_receptacles.txt` with a line for each container (see thor_geometry.read_receptacle).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from projects.semabs import thor_geometry, thor_names
from projects.semabs.thor_views import RoomTruth
from shared.errors import InputError
from shared.files import load_npz, read_lines
from shared.untrusted import load_pickle

_FIELDS = ("full_xyz_pts", "full_objid_pts", "objids")


def rooms_in(folder: Path) -> list[str]:
    """Names of the exported rooms of a folder, sorted; InputError when there is none."""
    names = sorted({path.stem for ending in ("npz", "pkl") for path in folder.glob(f"FloorPlan*.{ending}")})
    if not names:
        raise InputError(f"{folder}: expected exported rooms (FloorPlan*.npz or .pkl), found none")
    return names


def read_truth(folder: Path, room: str) -> RoomTruth:
    """The points of a room; InputError for a missing file, a missing field, ids without a name."""
    path = next((one for one in (folder / f"{room}.npz", folder / f"{room}.pkl") if one.is_file()), None)
    if path is None:
        raise InputError(f"{folder / room}: expected .npz or .pkl with the room's points, found neither")
    fields = load_npz(path) if path.suffix == ".npz" else load_pickle(path)
    if not isinstance(fields, Mapping):
        raise InputError(f"{path}: expected a dict, found {type(fields).__name__}")
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise InputError(f"{path}: {missing[0]}: expected, found only {', '.join(map(str, fields))}")
    points, ids = (np.asarray(fields[name]) for name in _FIELDS[:2])
    names = [_text(one) for one in fields["objids"]]
    if points.ndim != 2 or points.shape[1] != 3 or points.shape[:1] != ids.shape:
        found = f"{list(points.shape)}, {list(ids.shape)}"
        raise InputError(f"{path}: full_xyz_pts, full_objid_pts: expected [N, 3] and [N], found {found}")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(names):
        raise InputError(
            f"{path}: full_objid_pts: expected 0 to {len(names) - 1} (objids), found {ids.max()}"
        )
    classes = fields.get("objid_to_class")
    told = [_text(one).split("[")[0] for one in classes] if classes is not None else _classes(names)
    if len(told) != len(names):
        raise InputError(f"{path}: objid_to_class: expected {len(names)} names, found {len(told)}")
    return RoomTruth(points, ids, names, told, _receptacles(folder, room, points, names))


def _classes(names: list[str]) -> list[str]:
    return [thor_names.class_name(name) for name in names]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _receptacles(folder: Path, room: str, points: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """The points in each container, by the id of the object whose name begins as the box's."""
    path = folder / f"{room}_receptacles.txt"
    if not path.is_file():
        return {}
    found = {}
    for line in read_lines(path):
        if line.strip():
            box = thor_geometry.read_receptacle(line, str(path))
            for name in names:
                if name == box.name or name.split("|")[0] == box.name:
                    found[name] = box.contains(points)
    return found
