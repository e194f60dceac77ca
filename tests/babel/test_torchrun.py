"""Two processes train like one: negatives of the global batch, the same gradients, the same run, also after a kill."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from projects.babel.data import Batch
from shared.runtime import Runtime
from tests.babel import two_ranks_training
from tests.babel.tiny_wikiscenes import make_set
from tests.babel.training_runs import (
    SERVER,
    TRAIN,
    assert_same_run,
    metrics,
    results,
    settings,
    train,
    trained,
    weights,
)
from tests.babel.two_ranks_training import OBJECTIVES, SHARES, share, stepped, whole_batch
from tests.shared.group import torchrun
from tests.shared.runs import KILL_DRIVER

ONE = Runtime(torch.device("cpu"))
Found = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def batch(root: Path) -> Batch:
    """What the parts of the two ranks make up: labels and matches are not spread evenly over them."""
    found = whole_batch(root)
    counts = found.matches.counts
    assert (counts == 0).any()
    assert (counts > 1).sum() >= 3
    assert 0 < (found.first < 0).sum() < 6
    return found


@pytest.fixture(scope="module")
def two_ranks(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found, by case."""
    out = tmp_path_factory.mktemp("two_ranks")
    files = {name: str(out / name) for name in ("stdout", "stderr")}
    script = str(two_ranks_training.__file__)
    codes = SERVER.run(script=script, arguments=[str(out), str(root)], ranks=2, **files)
    assert codes == [0, 0], (out / "stderr").read_text()[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], *, rtol: float = 1e-3) -> None:
    """Gradients pass many batch norms of a few pixels: compared with the size of each."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        atol = 1e-5 + rtol * float(value.abs().max())
        close(name, actual[name], value, rtol=rtol, atol=atol)


def close(name: str, actual: Tensor, expected: Tensor, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("aim", OBJECTIVES)
def test_synchronised_ranks_equal_one_process(aim: str, two_ranks: list[Found], batch: Batch) -> None:
    """The negatives are drawn from the global batch, means are over it, batch norm has its statistics."""
    expected = stepped(ONE, batch, OBJECTIVES[aim], sync_batchnorm=True)
    assert expected["gradient_norm"] > 0
    assert expected["correspondence"] > 0
    for rank in two_ranks:
        assert_close(rank[f"synchronised, {aim}"], expected)


def test_negatives_of_the_own_share_alone_would_give_another_loss(batch: Batch) -> None:
    """That the test above can fail."""
    aim = OBJECTIVES["all terms"]
    whole = stepped(ONE, batch, aim, sync_batchnorm=True)["correspondence"]
    apart = [stepped(ONE, share(batch, *bounds), aim, sync_batchnorm=True) for bounds in SHARES]
    assert abs(sum(float(part["correspondence"]) for part in apart) - float(whole)) > 1e-2


def test_unsynchronised_ranks_have_statistics_of_their_own(two_ranks: list[Found]) -> None:
    first, second = (rank["per replica"] for rank in two_ranks)
    assert first["loss"] == second["loss"]
    assert torch.equal(first["last_conv.0.weight"], second["last_conv.0.weight"]), "the sum of both gradients"
    assert not torch.allclose(first["bn1.running_mean"], second["bn1.running_mean"])


def test_validation_uses_rank_0s_running_statistics_on_every_rank(two_ranks: list[Found], root: Path) -> None:
    expected = two_ranks_training.validated(ONE, root, statistics=0)
    for rank in two_ranks:
        assert_close(rank["validated"], expected)
    as_rank_1 = two_ranks_training.validated(ONE, root, statistics=1)
    assert as_rank_1["loss"] != expected["loss"], "rank 1's own statistics would have given other numbers"


def test_run_under_torchrun_equals_the_run_of_one_process(root: Path, tmp_path: Path) -> None:
    """A real torchrun. What is drawn apart on each rank is left out, and Adam, which makes steps of rounding noise."""
    overrides = settings(
        root,
        "sync_batchnorm=true",
        "optim.kind=SGD",
        "optim.lr=1e-4",
        "model.dropout=0",
        "model.last_dropout=0",
        "model.gate_alpha=0",
        "data.labelled=0.8",
    )
    one = trained(tmp_path / "one", *overrides)
    finished = torchrun(TRAIN, f"hydra.run.dir={tmp_path / 'two'}", *overrides)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("trained for 2 epochs") == 1, "rank 0 alone prints"
    two = tmp_path / "two"
    expected = weights(one)
    for name, value in weights(two).items():
        is_weight = name.startswith("model.")  # weights move by about 1e-4 in this run
        atol = 1e-5 if is_weight else 1e-5 + 1e-2 * float(expected[name].abs().max())
        close(name, value, expected[name], rtol=1e-3, atol=atol)
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key in (
            "step",
            "epoch",
            "data/loss",
            "data/loss_cls",
            "data/loss_3d",
            "data/kp number",
            "val/all/loss",
        ):
            if key in theirs:
                assert ours[key] == pytest.approx(theirs[key], rel=1e-3), (key, theirs["step"])
    assert results(two)["machine"]["ranks"] == 2
    assert len(list((two / "snapshots").iterdir())) == 2


def test_killed_group_continues_bit_for_bit(root: Path, tmp_path: Path) -> None:
    overrides = settings(root)
    trained(tmp_path / "whole", *overrides, ranks=2)
    point = (str(TRAIN), "step", "3")
    killed = train(tmp_path / "killed", *overrides, script=KILL_DRIVER, arguments=point, ranks=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    trained(tmp_path / "killed", *overrides, ranks=2)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
