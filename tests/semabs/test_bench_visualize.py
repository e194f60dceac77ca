"""The bench case of visualize.py on tiny inputs: both ways agree, and a difference is found."""

import numpy as np
import pytest

from projects.semabs import bench_visualize


def test_both_ways_agree() -> None:
    (case,) = bench_visualize.CASES
    outputs = {name: side() for name, side in case.make(True).items()}
    assert "agree" in case.check(outputs)
    assert (outputs["ours"] >= 0).any()
    with pytest.raises(AssertionError, match="differ"):
        case.check({**outputs, "ours": np.roll(outputs["ours"], 1)})
