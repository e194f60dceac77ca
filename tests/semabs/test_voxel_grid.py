"""Voxel grids: pooling beside a plain loop over points, gradients, what lies outside."""

import numpy as np
import pytest
import torch

from projects.semabs.voxel_grid import VoxelGrid

BOUNDS = [[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]]


def a_cloud(points: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(2, points, 3, generator=generator) * 2.4 - torch.tensor([1.2, 1.2, 0.3])
    return places, torch.randn(2, points, 5, generator=generator)


def plain(grid: VoxelGrid, places: torch.Tensor, features: torch.Tensor, reduce: str) -> torch.Tensor:
    """Voxel by voxel."""
    low, high = np.asarray(grid.bounds, np.float32)
    out = torch.zeros(len(places), features.shape[2], *grid.shape)
    for b in range(len(places)):
        held: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for point, feature in zip(places[b].numpy(), features[b], strict=True):
            last = np.array(grid.shape, np.float32) - 1
            index = np.clip((point - low) * last / (high - low), 0, last).astype(int)
            held.setdefault(tuple(index.tolist()), []).append(feature)
        for (x, y, z), values in held.items():
            stack = torch.stack(values)
            pooled = {"mean": stack.mean(0), "sum": stack.sum(0), "max": stack.amax(0)}
            out[b, :, x, y, z] = pooled[reduce]
    return out


@pytest.mark.parametrize("reduce", ["mean", "max", "sum"])
def test_pooling_is_that_of_a_loop_over_voxels(reduce: str) -> None:
    grid, (places, features) = VoxelGrid(BOUNDS, (4, 3, 5)), a_cloud()
    found = grid.scatter(places, features, reduce)
    assert found.shape == (2, 5, 4, 3, 5)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, plain(grid, places, features, reduce))


@pytest.mark.parametrize("reduce", ["mean", "max", "sum"])
def test_gradients_are_those_of_the_loop(reduce: str) -> None:
    grid, (places, features) = VoxelGrid(BOUNDS, (3, 3, 3)), a_cloud(40)
    cotangent = torch.randn(2, 5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    gradients = []
    for pool in (grid.scatter, lambda *given: plain(grid, *given)):
        leaf = features.clone().requires_grad_()
        (pool(places, leaf, reduce) * cotangent).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_what_is_outside_goes_to_the_border() -> None:
    grid = VoxelGrid(BOUNDS, (4, 4, 4))
    points = np.array([[-9, 0, 9], [9, 9, 9], [-9, -9, -9]], np.float32)
    np.testing.assert_array_equal(grid.indices(points), [[0, 1, 3], [3, 3, 3], [0, 0, 0]])


def test_voxels_are_where_their_points_are() -> None:
    grid = VoxelGrid(BOUNDS, (4, 5, 6))
    points = grid.points()
    assert points.shape == (4, 5, 6, 3)
    np.testing.assert_allclose(points[0, 0, 0], BOUNDS[0], rtol=1e-6)
    np.testing.assert_allclose(points[-1, -1, -1], BOUNDS[1], rtol=1e-6)
    middle = points + np.float32(1e-3)  # a point on the face itself may round to either side
    index = np.stack(np.meshgrid(range(4), range(5), range(6), indexing="ij"), axis=-1)
    np.testing.assert_array_equal(grid.indices(middle), index)
    np.testing.assert_array_equal(grid.flat(index).reshape(-1), np.arange(120))


def test_an_unknown_way_of_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="mean, max, sum"):
        VoxelGrid(BOUNDS, (2, 2, 2)).scatter(*a_cloud(), "median")
