"""Scenes for visualize.py: a picture with depth, its camera, and what to look for in it.

The released format is a pickle of a dict:

    rgb             uint8 [h, w, 3]
    depth           float32 [h, w], metres, 0 where nothing was measured
    img_shape       optional (width, height): both pictures are resized to it, bilinearly
    cam_intr        [3, 3] or larger; only fx, fy, cx, cy are read, in pixels of the resized picture
    cam_extr        [4, 4], camera (x right, y down, z forward) to scene (z up)
    ovssc_obj_classes   list of labels to complete
    descriptions        list of [target, relation, reference]

It comes from the internet, so it is read by `shared.untrusted`, which runs nothing. The released example is a
portrait picture whose principal point is that of the landscape one (x and y exchanged): it is taken as it is,
because the released pictures were made so.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs.geometry import check_depth, check_intrinsics, check_pose
from shared.errors import InputError
from shared.untrusted import load_pickle

RELATIONS = ("in", "behind", "in front of", "on the left of", "on the right of", "on")
_NAME_BYTES = 180  # of a file's name, which may have 255 with its suffix

Description = tuple[str, str, str]  # target, relation, reference


@dataclass(frozen=True)
class Scene:
    """A picture with depth.

    rgb uint8 [h, w, 3]; depth float32 [h, w] in metres, 0 = not measured; intrinsics float64 [3, 3];
    pose float64 [4, 4], camera to scene; labels as given; descriptions (target, relation, reference).
    """

    name: str
    rgb: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray
    labels: tuple[str, ...] = ()
    descriptions: tuple[Description, ...] = ()


def read_scene(path: str | os.PathLike[str]) -> Scene:
    """Read a scene pickle. InputError names the file, the field, what was expected and found."""
    found = load_pickle(path)
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: expected a dict with rgb, depth, cam_intr, found {type(found).__name__}")
    missing = [name for name in ("rgb", "depth", "cam_intr", "cam_extr") if name not in found]
    if missing:
        raise InputError(
            f"{path}: no {', '.join(missing)} in it; it holds {', '.join(map(str, found)) or 'nothing'}"
        )
    rgb, depth, intrinsics, pose = (
        _array(path, name, found[name]) for name in ("rgb", "depth", "cam_intr", "cam_extr")
    )
    labels = _texts(path, "ovssc_obj_classes", found.get("ovssc_obj_classes", []))
    descriptions = _descriptions(path, found.get("descriptions", []))
    scene = Scene(Path(path).stem, rgb, depth, intrinsics, pose, labels, descriptions)
    if found.get("img_shape") is not None:
        scene = _resized(scene, _size(path, found["img_shape"]), source=str(path))
    return checked(scene, source=str(path))


def checked(scene: Scene, *, source: str) -> Scene:
    """The scene with plain types, or an InputError that begins with `source`: sizes, units, camera."""
    rgb, depth = scene.rgb, scene.depth
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(f"{source}: rgb: expected uint8 [h, w, 3], found {_kind(rgb)}")
    if depth.shape != rgb.shape[:2]:
        raise InputError(f"{source}: depth: expected {list(rgb.shape[:2])} as rgb, found {_kind(depth)}")
    check_depth(depth, source)
    check_intrinsics(scene.intrinsics, depth.shape, source)
    check_pose(scene.pose, source, "cam_extr")
    return replace(
        scene,
        depth=np.ascontiguousarray(depth, np.float32),
        intrinsics=scene.intrinsics[:3, :3].astype(float),
        pose=scene.pose.astype(float),
    )


def checked_label(label: Any, *, source: str) -> str:
    """A label without blanks around it; InputError when it is empty or no text."""
    if not isinstance(label, str):
        raise InputError(f"{source}: expected texts, found {type(label).__name__}")
    text = " ".join(label.split())
    if not text:
        raise InputError(f"{source}: empty label")
    return text


def file_name(text: str) -> str:
    """A text from outside as the name of a file, without suffix: no folders, no control characters, not too long."""
    clean = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text).strip(" .") or "_"
    return clean.encode()[:_NAME_BYTES].decode(errors="ignore")


def _array(path: Any, name: str, value: Any) -> np.ndarray:
    array = np.asarray(value) if isinstance(value, np.ndarray | list | tuple) else None
    if array is None or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name}: expected an array of numbers, found {type(value).__name__}")
    return array


def _texts(path: Any, name: str, value: Any) -> tuple[str, ...]:
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, list | tuple | set | frozenset):
        raise InputError(f"{path}: {name}: expected a list of texts, found {type(value).__name__}")
    return tuple(checked_label(item, source=f"{path}: {name}") for item in items)


def _descriptions(path: Any, value: Any) -> tuple[Description, ...]:
    source = f"{path}: descriptions"
    if not isinstance(value, list | tuple):
        raise InputError(f"{source}: expected a list, found {type(value).__name__}")
    return tuple(checked_description(item, source=source) for item in value)


def checked_description(item: Any, *, source: str) -> Description:
    """(target, relation, reference); InputError when it is not three labels with a known relation."""
    if not isinstance(item, list | tuple) or len(item) != 3:
        raise InputError(f"{source}: expected [target, relation, reference], found {item!r}")
    target, relation, reference = (checked_label(part, source=source) for part in item)
    if relation not in RELATIONS:
        raise InputError(f"{source}: unknown relation {relation!r}; expected one of {', '.join(RELATIONS)}")
    return target, relation, reference


def _size(path: Any, value: Any) -> tuple[int, int]:
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, list | tuple) or len(items) != 2 or not all(isinstance(n, int) for n in items):
        raise InputError(f"{path}: img_shape: expected (width, height), found {value!r}")
    if not all(0 < n <= 16384 for n in items):
        raise InputError(f"{path}: img_shape: expected 1 to 16384 pixels, found {items}")
    return items[0], items[1]


def _resized(scene: Scene, size: tuple[int, int], *, source: str) -> Scene:
    """Both pictures at `size` (width, height), bilinearly as released: depth is mixed across edges."""
    import cv2

    try:
        rgb, depth = (
            cv2.resize(image, dsize=size) for image in (scene.rgb, scene.depth.astype(np.float32, copy=False))
        )
    except cv2.error:
        raise InputError(f"{source}: rgb and depth: expected pictures, found {_kind(scene.rgb)}") from None
    return replace(scene, rgb=rgb, depth=depth)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name} {list(array.shape)}"
