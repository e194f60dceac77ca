"""Two processes train like one: one global batch, the same gradients, the same run, also after a kill."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shared.runtime import Runtime
from tests.semabs import two_ranks_training
from tests.semabs.training_runs import (
    SERVER,
    assert_same_run,
    entry,
    metrics,
    results,
    settings,
    train,
    trained,
    weights,
)
from tests.semabs.two_ranks_training import CASES, stepped
from tests.shared.runs import KILL_DRIVER

ONE = Runtime(torch.device("cpu"))
Found = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def two_ranks(rooms_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found, by case; they hold one and two scenes of a batch of three."""
    out = tmp_path_factory.mktemp("two_ranks")
    files = {name: str(out / name) for name in ("stdout", "stderr")}
    script = str(two_ranks_training.__file__)
    codes = SERVER.run(script=script, arguments=[str(out), str(rooms_root)], ranks=2, **files)
    assert codes == [0, 0], (out / "stderr").read_text()[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_two_processes_is_that_of_one(case: str, two_ranks: list[Found], rooms_root: Path) -> None:
    expected = stepped(ONE, rooms_root, case)
    assert expected["gradient_norm"] > 0
    for rank in two_ranks:
        assert rank[case].keys() == expected.keys()
        for name, value in expected.items():
            atol = 1e-6 + 1e-4 * float(value.abs().max())
            torch.testing.assert_close(
                rank[case][name], value, rtol=1e-4, atol=atol, equal_nan=True, msg=name
            )


def test_the_mean_over_points_and_over_scenes_differ(rooms_root: Path) -> None:
    """That the test above can fail."""
    points, scenes = (stepped(ONE, rooms_root, case)["loss"] for case in ("points", "scenes"))
    assert abs(float(points) - float(scenes)) > 1e-3


def test_a_run_of_two_processes_equals_that_of_one(rooms_root: Path, tmp_path: Path) -> None:
    overrides = settings(rooms_root, "loss.balance_positive_negative=true", "validation.every=2")
    one = trained(tmp_path / "one", *overrides)
    two = trained(tmp_path / "two", *overrides, ranks=2)
    expected = weights(one)
    for name, value in weights(two).items():
        # a bias that the next norm takes away has a gradient of rounding noise, and Adam makes steps of it
        if name.startswith("model.") and not name.endswith("upsample.bias"):
            torch.testing.assert_close(value, expected[name], rtol=1e-2, atol=1e-4, msg=name)
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ("step", "epoch", "loss", "accuracy", "val/cutoff"):
            if key in theirs:
                assert ours[key] == pytest.approx(theirs[key], rel=1e-2), (key, theirs["step"])
    assert results(two)["machine"]["ranks"] == 2


def test_a_killed_group_continues_bit_for_bit(rooms_root: Path, tmp_path: Path) -> None:
    overrides = settings(rooms_root, "validation.every=2")
    trained(tmp_path / "whole", *overrides, ranks=2)
    point = (str(entry("ovssc")), "step", "3")
    killed = train(tmp_path / "killed", *overrides, script=KILL_DRIVER, arguments=point, ranks=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    trained(tmp_path / "killed", *overrides, ranks=2)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
