"""The authors' example scene through the whole of visualize.py, without a display, on small random weights."""

import os
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from projects.semabs import geometry, meshes, tsdf
from projects.semabs.scene_pickle import read_scene
from shared.files import read_json
from tests.semabs.test_visualize import CPU_SETTINGS, PROJECT, SERVER
from tests.semabs.tiny_models import write_clip, write_run

GOLDEN = Path(__file__).resolve().parents[1] / "goldens" / "semabs" / "arkit_vn_poster_numbers.npz"
BOUNDS = np.array([[-1, -1, -0.1], [1, 1, 1.9]])
SCENE = "semabs/arkit_vn_poster.pkl"


def test_its_points_and_tsdf_are_the_authors(author_data: Callable[[str], Path]) -> None:
    scene = read_scene(author_data(SCENE))
    with np.load(GOLDEN) as arrays:
        expected = dict(arrays)
    np.testing.assert_array_equal(scene.intrinsics, expected["cam_intr"])
    np.testing.assert_array_equal(scene.pose, expected["cam_extr"])
    np.testing.assert_allclose(scene.rgb.reshape(-1, 3).mean(0), expected["rgb_mean"])
    measured = scene.depth[scene.depth > 0]
    found = [measured.min(), measured.max(), measured.mean(dtype=np.float64)]
    np.testing.assert_allclose(found, expected["depth_stats"], rtol=1e-5)
    points = geometry.back_project(scene.depth, scene.intrinsics, scene.pose)
    np.testing.assert_allclose(points[::997], expected["xyz_every_997"], atol=1e-5)
    inside = geometry.in_bounds(points, BOUNDS)
    assert abs(int(inside.sum()) - int(expected["n_in_bounds"])) <= 3
    np.testing.assert_array_equal(inside[::997], expected["in_bounds_every_997"])
    volume = tsdf.tsdf_volume(scene.depth, scene.intrinsics, scene.pose, BOUNDS, voxels=64)
    np.testing.assert_allclose(volume.reshape(-1)[::331], expected["tsdf64_every_331"], atol=1e-5)
    np.testing.assert_allclose(volume.sum(dtype=np.float64), expected["tsdf64_sum"], atol=3)
    assert abs(int((volume > 0).sum()) - int(expected["n_tsdf_positive"])) <= 3
    histogram = np.histogram(volume, bins=20, range=(-1, 1))[0]
    assert np.abs(histogram - expected["tsdf64_hist"]).sum() <= 6


@pytest.mark.parametrize("task", ["ovssc", "vool"])
def test_it_is_visualized_without_a_display(
    author_data: Callable[[str], Path], tmp_path: Path, task: str
) -> None:
    path = author_data(SCENE)
    scene = read_scene(path)
    texts = [*scene.labels, *(word for row in scene.descriptions for word in row)]
    model = write_run(tmp_path / "model", write_clip(tmp_path / "clip.pt", texts), task=task)
    dump = f"dump_path={tmp_path / 'visualization'}"
    given = [f"command={task}", f"scene={path}", f"model={model}", dump, "cutoff=-9", *CPU_SETTINGS]
    small = ["grid=24", "points=2000", "film={frames: 2, size: 64, fps: 24}"]
    displays = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY"), "")
    done = SERVER.entry(PROJECT / "visualize.py", tmp_path / "run", *given, *small, env=displays)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "visualization" / "arkit_vn_poster"
    assert os.path.getsize(folder / "relevancies.png") > 10_000
    points, _ = meshes.read_ply(folder / "scene_rgb.ply")
    assert abs(len(points) - 42225) <= 3
    if task == "ovssc":
        note = read_json(folder / "scene.json")
        assert note["labels"] == sorted(scene.labels)
        assert len(note["files"]) > 3
        assert all(len(meshes.read_obj(folder / name).faces) for name in note["files"].values())
        films = ["completion.mp4"]
    else:
        titles = [
            f"the {target} {relation} the {reference}" for target, relation, reference in scene.descriptions
        ]
        assert sorted(file.stem for file in folder.glob("the *.ply")) == sorted(titles)
        films = [f"{title}.mp4" for title in titles]
    for name in films:
        reader = imageio_ffmpeg.read_frames(str(folder / name))
        assert next(reader)["size"] == (64, 64)
        assert sum(1 for _ in reader) == 2
