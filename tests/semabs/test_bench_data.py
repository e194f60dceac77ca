"""The bench cases of the scene data agree on tiny inputs, and would notice another result."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from projects.semabs import bench_data
from projects.semabs.item_settings import ItemSettings


@pytest.fixture(scope="module")
def outputs() -> dict[str, dict[str, Any]]:
    return {case.name: {name: side() for name, side in case.make(True).items()} for case in bench_data.CASES}


@pytest.mark.parametrize("case", bench_data.CASES, ids=lambda case: case.name)
def test_a_case_agrees(case: Any, outputs: dict[str, dict[str, Any]]) -> None:
    assert case.check(outputs[case.name])
    assert {side for target in case.targets for side in (target.side, target.than)} <= set(outputs[case.name])


def test_another_result_would_be_noticed(outputs: dict[str, dict[str, Any]]) -> None:
    volumes, items = (outputs[case.name] for case in bench_data.CASES)
    with pytest.raises(AssertionError, match="of the voxels differ"):
        bench_data.check_volumes({**volumes, "ours": volumes["ours"][::-1]})
    same = items["ours, released draws"]
    for name in ("input_xyz_pts", "input_feature_pts", "output_xyz_pts", "semantic_class_features"):
        with pytest.raises(AssertionError, match=name):
            bench_data.check_items({**items, "ours, released draws": {**same, name: same[name] * 1.01}})
    uniform = replace(ItemSettings(num_input_pts=500, num_output_pts=2000), balance_spatial_sampling=False)
    other = bench_data.our_item(bench_data.scene_path(True), uniform, np.random.default_rng(0))
    with pytest.raises(AssertionError, match="positive points"):
        bench_data.check_items({**items, "ours": other})
