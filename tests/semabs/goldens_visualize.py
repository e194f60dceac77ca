"""Golden calls of visualize.py: OBJ and PLY text, completion of three classes, the camera of the released scene."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from projects.semabs import completion_post, geometry, meshes, tsdf
from tests.goldens.case import Case

BOUNDS = np.array([[-1, -1, -0.1], [1, 1, 1.9]])


def mesh_texts(case: Case) -> None:
    """The .obj of a volume and the .ply of five points, letter for letter."""
    expected = case.npz()
    surface = meshes.surface_of(expected["vol"])
    assert surface is not None
    with tempfile.TemporaryDirectory() as folder:
        obj, ply = Path(folder) / "a.obj", Path(folder) / "a.ply"
        meshes.write_obj(obj, surface)
        assert obj.read_text() == str(expected["obj_text"])
        colours = case.input("plyc", (5, 3), kind="uniform") * 255
        meshes.write_ply(ply, case.input("plyv", (5, 3)), colours.astype(np.uint8))
        assert ply.read_text() == str(expected["ply_text"])


def completion(case: Case) -> None:
    """Three classes that compete for a grid, carved by what the camera saw; borders of the TSDF may differ."""
    expected, side = case.npz(), case.data["side"]
    view = (expected["depth"], expected["cam_intr"], expected["cam_extr"])
    points = completion_post.grid_points(BOUNDS, side)

    def logits(index: int, asked: np.ndarray) -> np.ndarray:
        centre = np.array([0.3 * index, -0.3 * index, 0.2 + 0.2 * index])
        return (-1 - 4 * np.linalg.norm(asked - centre, axis=-1)).astype(np.float32)

    filled = completion_post.may_be_filled(points, *view, BOUNDS, side)
    found = completion_post.complete(logits, 3, points, filled, cutoff=case.data["cutoff"])
    for index, name in enumerate("abc"):
        wanted = expected[f"completion_{name}"].astype(bool)
        differing = int((wanted != (found.reshape(wanted.shape) == index)).sum())
        assert differing <= case.data["borders"], f"class {name}: {differing} voxels differ"


def released_camera(case: Case) -> None:
    """The frustum of the authors' example scene. (Its pictures are not here: see test_released_scene.py.)"""
    expected, every = case.npz(), case.data["every"]
    grid = completion_post.grid_points(BOUNDS, 64)
    seen = geometry.in_frustum(grid, tuple(case.data["shape"]), expected["cam_intr"], expected["cam_extr"])
    assert abs(int(seen.sum()) - int(expected["grid64_in_frustum"])) <= case.data["borders"]
    np.testing.assert_array_equal(seen[::every], expected["grid64_in_frustum_every_331"])
    assert tsdf.grid_of(BOUNDS, 240)[1] == tuple(expected["tsdf240_shape"])


CALLS: dict[str, Callable[[Case], None]] = {
    "mesh_texts": mesh_texts,
    "completion": completion,
    "released_camera": released_camera,
}
