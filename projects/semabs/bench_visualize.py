"""Bench case of visualize.py: the U-Net once per class, open points only, beside a pass for each block of points."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from projects.semabs import completion_post as post
from projects.semabs.item_points import ItemRequest
from projects.semabs.item_settings import ItemSettings
from projects.semabs.model import build_network
from projects.semabs.scene_pickle import Scene
from projects.semabs.visualization import Completion, LabelMaps, Observed, completed
from shared.bench import Case, Sides, Target
from shared.runtime import Runtime

_CUTOFF = -0.05
_PASSES = 14  # of the released code: a grid of 240^3 points in blocks of 2^20


def inputs(quick: bool) -> tuple[Any, Observed, LabelMaps, int]:
    """A network with random weights, a view of a floor and a wall, made-up relevancies, the side of the grid."""
    side, voxels, levels, count = (12, 8, 2, 300) if quick else (120, 64, 5, 20_000)
    torch.manual_seed(0)
    network = build_network(voxel_shape=(voxels,) * 3, unet={"levels": levels}).eval()
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 1, 96, dtype=np.float32)[:, None]
    depth = np.broadcast_to(2.6 - 1.2 * rows, (96, 128)).astype(np.float32)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0.0, -0.3, 0.954], [-1, 0, 0], [0, -0.954, -0.3]])
    pose[:3, 3] = [-1.9, 0, 1.5]
    camera = np.array([[110.0, 0, 63.5], [0, 110, 47.5], [0, 0, 1]])
    scene = Scene("bench", np.zeros((96, 128, 3), np.uint8), depth, camera, pose)
    request = ItemRequest(ItemSettings(), voxel_shape=(voxels,) * 3)
    observed = Observed.draw(scene, request, "ovssc", count=count, rng=rng)
    maps = rng.normal(0, 0.01, (3, 96, 128)).astype(np.float32)
    return network, observed, LabelMaps(("bed", "chair", "table"), maps), side


def released(network: Any, observed: Observed, relevancies: LabelMaps, side: int) -> np.ndarray:
    """As the released code: every point of the grid, in blocks; each block runs the U-Net of each class anew.

    The released code also draws other input points for each block; here they are the same, for the comparison.
    """
    scene, bounds = observed.scene, observed.request.settings.bounds
    points = post.grid_points(bounds, side)
    logits = np.empty((len(relevancies.labels), len(points)), np.float32)
    block = -(-len(points) // _PASSES)
    with torch.inference_mode():
        for start in range(0, len(points), block):
            for index in range(len(logits)):
                features = observed.features(relevancies.maps[index][None])
                found = network(
                    input_xyz_pts=torch.from_numpy(observed.points)[None],
                    input_feature_pts=torch.from_numpy(features)[None],
                    output_xyz_pts=torch.from_numpy(points[start : start + block])[None, None],
                )
                logits[index, start : start + block] = found[0, 0].numpy()
    labels = logits.argmax(0).astype(np.int16)
    labels[(logits < _CUTOFF).all(0)] = post.EMPTY
    view = (scene.depth, scene.intrinsics, scene.pose)
    labels[~post.may_be_filled(points, *view, bounds, side)] = post.EMPTY
    return labels.reshape(side, side, side)


def ours(network: Any, observed: Observed, relevancies: LabelMaps, side: int) -> np.ndarray:
    """`visualization.completed`."""
    completion = Completion(network, observed, relevancies, Runtime(torch.device("cpu")))
    return completed(completion, observed.scene, side=side, cutoff=_CUTOFF)


def sides(quick: bool) -> Sides:
    """Both ways on the same input."""
    given = inputs(quick)
    return {"released": partial(released, *given), "ours": partial(ours, *given)}


def check(outputs: Mapping[str, Any]) -> str:
    """The same classes, but where two logits are equal up to rounding."""
    differing = float((outputs["released"] != outputs["ours"]).mean())
    filled = float((outputs["ours"] >= 0).mean())
    assert differing < 1e-3, f"{differing:.2%} of the voxels differ"
    return f"{1 - differing:.3%} of the voxels agree ({filled:.0%} filled)"


CASES = [
    Case(
        "visualize",
        "completion of 3 classes on 120^3 points, a U-Net of 64^3 voxels",
        sides,
        check,
        (Target("ours", "released", 4.0),),
    )
]
