"""TSDF volumes beside the plain way of all voxels at once; several views; what is not observed."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from projects.semabs import bench_data, tsdf
from projects.semabs.tsdf import View

BOUNDS = np.array([[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]])


def turned(seen: View, angle: float) -> View:
    """The same picture, seen by a camera that is turned about the scene's z axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return View(seen.depth, seen.intrinsics, turn @ seen.pose)


def from_inside(seen: View) -> View:
    """The camera in the middle of the box: some voxels are behind it."""
    pose = seen.pose.copy()
    pose[:3, 3] = 0, 0, 0.9
    return View(seen.depth * np.float32(0.3), seen.intrinsics, pose)


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("change", [lambda seen: seen, from_inside, lambda seen: turned(seen, 2.0)])
def test_a_volume_is_the_plain_one(change: Callable[[View], View]) -> None:
    seen = change(bench_data.view(90))
    expected = bench_data.released_tsdf(seen, 40)
    assert np.unique(np.sign(expected)).size > 1
    found = tsdf.tsdf_volume(seen.depth, seen.intrinsics, seen.pose, BOUNDS, voxels=40)
    assert found.shape == (40, 40, 40)
    assert found.dtype == np.float32
    assert (np.abs(found - expected) > 1e-5).sum() <= 3


def test_voxels_keep_the_mean_of_the_views_that_observe_them() -> None:
    views = [bench_data.view(90), turned(bench_data.view(90), 0.5), turned(bench_data.view(90), -0.4)]
    singles = [bench_data.released_tsdf(seen, 30).astype(np.float64) for seen in views]
    # observed and clipped at -1 looks like not observed: such a voxel is left out here
    clear = np.stack([single > -1 + 1e-6 for single in singles])
    count = clear.sum(axis=0)
    found = tsdf.fuse(views, BOUNDS, voxels=30)
    means = np.where(clear, singles, 0).sum(axis=0) / np.maximum(count, 1)
    agree = np.abs(found - means) < 1e-4
    assert (count > 1).sum() > 1000
    assert agree[count == 3].mean() > 0.999
    assert agree[count > 0].mean() > 0.95
    np.testing.assert_array_equal(found[count == 0], -1)


def test_without_depth_nothing_is_observed() -> None:
    seen = bench_data.view(40)
    empty = View(np.zeros_like(seen.depth), seen.intrinsics, seen.pose)
    assert (tsdf.fuse([empty], BOUNDS, voxels=16) == -1).all()
    np.testing.assert_array_equal(
        tsdf.fuse([empty, seen], BOUNDS, voxels=16), tsdf.fuse([seen], BOUNDS, voxels=16)
    )


@pytest.mark.parametrize("count", [7, 60, 64, 128, 240, 241])
def test_rounding_adds_no_voxel(count: int) -> None:
    size, shape = tsdf.grid_of(BOUNDS, voxel_size=2 / count)
    assert shape == (count, count, count)
    assert tsdf.grid_of(BOUNDS, voxels=count) == (size, shape)


def test_boxes_need_not_be_cubes_and_stay_as_they_are() -> None:
    bounds = np.array([[0.0, -1, 0], [1.0, 1, 0.55]])
    before = bounds.copy()
    volume = tsdf.fuse([bench_data.view(40)], bounds, voxel_size=0.1)
    assert volume.shape == (10, 20, 6)
    np.testing.assert_array_equal(bounds, before)
    points = tsdf.tsdf_points(bounds, voxel_size=0.1)
    expected = np.array([[0, -1, 0], [0, -1, 0.1], [0, -0.9, 0], [0.1, -1, 0]])
    np.testing.assert_allclose(points[[0, 1, 6, 120]], expected, atol=1e-6)
    with pytest.raises(ValueError, match="either"):
        tsdf.grid_of(bounds)


def test_values_are_read_at_points() -> None:
    volume = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    points = np.array([[-1, -1, -0.1], [1, 1, 1.9], [0.01, -1, -0.1], [5, -9, 0]], np.float32)
    np.testing.assert_array_equal(tsdf.value_at(points, volume, BOUNDS), [0, 26, 9, 18])
