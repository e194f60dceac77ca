"""Meshes, point clouds, completion: fast ways against plain ones, files that come back as they were."""

from pathlib import Path

import numpy as np
import pytest

from projects.semabs import completion_post as post
from projects.semabs import meshes
from shared.errors import InputError


def ball(side: int = 14, radius: float = 4.2) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"), -1)
    return (np.linalg.norm(grid, axis=-1) < radius).astype(np.uint8)


def test_a_surface_is_closed_and_where_it_belongs() -> None:
    bounds = np.array([[-1, -1, -0.1], [1, 1, 1.9]])
    surface = meshes.surface_of(ball())
    assert surface is not None
    edges = np.sort(np.concatenate([surface.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # every edge has two faces
    placed = meshes.placed(surface.vertices, bounds, 14)
    centre, step = bounds.mean(0), 2 / 13
    assert np.abs(placed.mean(0) - centre).max() < 1e-3
    radius = np.linalg.norm(placed - centre, axis=1) / step
    assert (np.abs(radius - 4.2) < 0.9).all()
    assert (np.einsum("vc,vc->v", surface.normals, placed - centre) > 0).all()  # outwards


def test_a_full_volume_is_closed_at_the_border_and_flat_ones_have_normals() -> None:
    surface = meshes.surface_of(np.ones((6, 6, 6), np.uint8))
    assert surface is not None
    assert np.isfinite(surface.normals).all()
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=1), 1, atol=1e-5)
    assert meshes.surface_of(np.zeros((6, 6, 6))) is None
    shell = np.zeros((6, 6, 6))
    shell[0] = 1
    assert meshes.surface_of(shell) is None  # only the outermost voxels, which are emptied


def test_degenerate_faces_get_unit_normals() -> None:
    plate = np.zeros((40, 40, 40), np.uint8)
    plate[:, :, 8:13] = 1
    surface = meshes.surface_of(plate)
    assert surface is not None
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=1), 1, atol=1e-5)


def test_files_come_back(tmp_path: Path) -> None:
    surface = meshes.surface_of(ball())
    assert surface is not None
    meshes.write_obj(tmp_path / "a.obj", surface)
    again = meshes.read_obj(tmp_path / "a.obj")
    np.testing.assert_allclose(again.vertices, surface.vertices, atol=1e-6)
    np.testing.assert_allclose(again.normals, surface.normals, atol=1e-6)
    np.testing.assert_array_equal(again.faces, surface.faces)
    rng = np.random.default_rng(0)
    points, colours = (
        rng.standard_normal((70, 3)).astype(np.float32),
        rng.integers(0, 256, (70, 3)).astype(np.uint8),
    )
    meshes.write_ply(tmp_path / "a.ply", points, colours)
    for found, expected in zip(meshes.read_ply(tmp_path / "a.ply"), (points, colours), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_files_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "b.obj").write_text("# x\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1/1 2/1/1 3/1/1\n")
    surface = meshes.read_obj(tmp_path / "b.obj")
    np.testing.assert_array_equal(surface.faces, [[0, 1, 2]])
    np.testing.assert_allclose(surface.normals, [[0, 0, 1]] * 3)
    table = np.zeros(
        2, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    )
    table["x"], table["green"] = [1, 2], 9
    header = "ply\nformat binary_little_endian 1.0\ncomment x\nelement vertex 2\n"
    header += "".join(f"property double {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    (tmp_path / "b.ply").write_bytes(header.encode() + b"end_header\n" + table.tobytes())
    points, colours = meshes.read_ply(tmp_path / "b.ply")
    np.testing.assert_array_equal(points[:, 0], [1, 2])
    np.testing.assert_array_equal(colours, [[0, 9, 0]] * 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.obj", b"v 0 0\n"),
        ("a.obj", b"v 0 0 0\nf 1 2 3\n"),
        ("a.obj", b"v 0 0 0\nf 0 1 1\n"),
        ("a.obj", b"v 0 0 0\nf 1 1 1 1\n"),
        ("a.ply", b"plz"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n2\n"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 9\nproperty float x\nend_header\n1\n"),
        ("a.ply", b"ply\nformat binary_big_endian 1.0\nelement vertex 9\nproperty float x\nend_header\n1\n"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list x\nend_header\n1\n"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    read = meshes.read_obj if name.endswith("obj") else meshes.read_ply
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / f"absent{name}")


def test_completion_is_argmax_cutoff_and_carving() -> None:
    """One class at a time and only at open points, against all logits at once."""
    rng = np.random.default_rng(0)
    points = post.grid_points(np.array([[-1, -1, -0.1], [1, 1, 1.9]]), 6)
    logits = np.round(rng.normal(-3, 1, (5, len(points))), 1).astype(np.float32)  # with ties
    filled = rng.random(len(points)) < 0.6
    asked = []

    def of(index: int, wanted: np.ndarray) -> np.ndarray:
        asked.append(len(wanted))
        return logits[index][filled]

    found = post.complete(of, 5, points, filled, cutoff=-3.0)
    expected = logits.argmax(0)
    expected[(logits < -3.0).all(0) | ~filled] = post.EMPTY
    np.testing.assert_array_equal(found, expected)
    assert asked == [int(filled.sum())] * 5


def test_the_grid_has_both_ends() -> None:
    bounds = np.array([[-1, -2, 0], [1, 2, 3]])
    points = post.grid_points(bounds, 4)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points[0], bounds[0])
    np.testing.assert_array_equal(points[-1], bounds[1])
    np.testing.assert_allclose(points[1] - points[0], [0, 0, 1])  # z is the fastest


def test_heat_is_blue_to_red() -> None:
    colours = post.heat_colours(np.array([-1.0, -0.5, 0.0]))
    np.testing.assert_array_equal(colours[[0, 2]], [[0, 0, 127], [127, 0, 0]])
    assert post.heat_colours(np.array([2.0])).tolist() == [[127, 0, 0]]
    assert post.close_to_best(np.array([0.0, -0.1, -0.2]), margin=0.15).tolist() == [True, True, False]
