"""The bench cases of the networks agree on tiny inputs, and would notice another result."""

import ctypes
import sys
from typing import Any

import pytest

from projects.semabs import bench_networks, bench_released
from projects.semabs.bench import CASES


@pytest.fixture(scope="module")
def outputs() -> dict[str, dict[str, Any]]:
    return {
        case.name: {name: side() for name, side in case.make(True).items()} for case in bench_networks.CASES
    }


@pytest.mark.parametrize("case", bench_networks.CASES, ids=lambda case: case.name)
def test_a_case_agrees(case: Any, outputs: dict[str, dict[str, Any]]) -> None:
    assert case.check(outputs[case.name])
    assert {side for target in case.targets for side in (target.side, target.than)} <= set(outputs[case.name])


def test_another_result_would_be_noticed(outputs: dict[str, dict[str, Any]]) -> None:
    features, steps, decoded, optimized = (outputs[case.name] for case in bench_networks.CASES)
    with pytest.raises(AssertionError, match="features differ"):
        bench_networks.check_forward({**features, "ours": features["ours"] * 1.001})
    wrong = {name: norm * 1.01 for name, norm in steps["ours"].items()}
    for side in ("ours", "ours, checkpointing"):
        with pytest.raises(AssertionError, match=side):
            bench_networks.check_training({**steps, side: wrong})
    logits, gradient = decoded["ours"]
    with pytest.raises(AssertionError, match="logits or gradients"):
        bench_networks.check_decoding({**decoded, "ours": (logits, gradient * 1.001)})
    with pytest.raises(AssertionError, match="parameters differ"):
        bench_networks.check_optimizing({**optimized, "ours": [p + 1e-4 for p in optimized["ours"]]})


def test_names_are_unique_and_the_targets_are_those_that_were_set() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    targets = {case.name: [t.ratio for t in case.targets if t.ratio] for case in bench_networks.CASES}
    assert targets == {"unet_forward": [1.7], "network_step": [1.7], "decoder": [], "lamb": []}


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux only")
def test_only_the_released_side_goes_without_huge_pages() -> None:
    def forbidden() -> int:
        return int(ctypes.CDLL(None).prctl(42, 0, 0, 0, 0))

    with bench_released.plain_pages():
        assert forbidden() == 1
    assert forbidden() == 0
