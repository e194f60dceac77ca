"""The control without learning: relevancies in voxels, thickened."""

import numpy as np
import torch

from projects.semabs.back_projection import EMPTY, BackProjection

BOUNDS = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    side, dilation = 6, 1
    network = BackProjection(task="ovssc", voxel_shape=[side] * 3, bounds=BOUNDS, dilation=dilation)
    points = torch.from_numpy(rng.random((2, 30, 3), np.float32))
    maps = torch.from_numpy(rng.standard_normal((2, 3, 30, 1), np.float32))
    queries = torch.from_numpy(rng.random((2, 3, 50, 3), np.float32))
    found = network(input_xyz_pts=points, input_feature_pts=maps, output_xyz_pts=queries)
    assert found.shape == (2, 3, 50)
    voxels = (points * (side - 1)).long()
    for scene in range(2):
        for patch in range(3):
            for number in range(50):
                here = (queries[scene, patch, number] * (side - 1)).long()
                best = EMPTY
                for voxel in voxels[scene].unique(dim=0):
                    if (voxel - here).abs().max() <= dilation:
                        inside = (voxels[scene] == voxel).all(1)
                        best = max(best, float(maps[scene, patch, inside, 0].mean()))
                assert abs(float(found[scene, patch, number]) - best) < 1e-5


def test_localisation_shows_the_target() -> None:
    network = BackProjection(task="vool", voxel_shape=[4] * 3, bounds=BOUNDS, dilation=0)
    points = torch.tensor([[[0.1, 0.1, 0.1]]])
    target, reference = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 5.0)
    found = network(
        input_xyz_pts=points,
        input_target_saliency_pts=target,
        input_reference_saliency_pts=reference,
        output_xyz_pts=torch.tensor([[[[0.1, 0.1, 0.1], [0.9, 0.9, 0.9]]]]),
    )
    assert found.flatten().tolist() == [3.0, EMPTY]
