"""Two processes train like one: negatives of the global batch, the same gradients, the same run, also after a kill."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from projects.xmrs.losses import batch_hard_loss
from shared.runtime import Runtime
from tests.shared.group import torchrun
from tests.shared.runs import KILL_DRIVER
from tests.xmrs import two_ranks_training
from tests.xmrs.sets import make_set
from tests.xmrs.training_runs import (
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
from tests.xmrs.two_ranks_training import LOSSES, SHARES, build, share, stepped, whole_batch

ONE = Runtime(torch.device("cpu"))
SGD = Path(__file__).with_name("sgd_driver.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def two_ranks(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found, by case."""
    out = tmp_path_factory.mktemp("two_ranks")
    files = {name: str(out / name) for name in ("stdout", "stderr")}
    script = str(two_ranks_training.__file__)
    codes = SERVER.run(script=script, arguments=[str(out), str(root)], ranks=2, **files)
    assert codes == [0, 0], (out / "stderr").read_text()[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        close(name, actual[name], value, rtol=1e-4, atol=1e-5 + 1e-4 * float(value.abs().max()))


def close(name: str, actual: Tensor, expected: Tensor, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("loss", LOSSES)
def test_synchronised_ranks_equal_one_process(
    loss: str, two_ranks: list[dict[str, dict[str, Tensor]]]
) -> None:
    """The loss sees the global batch, batch norm its statistics: gradients and running statistics are equal."""
    expected = stepped(ONE, whole_batch(), LOSSES[loss], sync_batchnorm=True)
    assert expected["norm"] > 0
    for rank in two_ranks:
        assert_close(rank[f"synchronised, {loss}"], expected)


def test_negatives_of_the_own_share_alone_would_give_another_loss(
    two_ranks: list[dict[str, dict[str, Tensor]]],
) -> None:
    """That the test above can fail: mined within each share, the mean of the losses is another."""
    model, batch = build(False, ONE), whole_batch()
    images, recipes = model.encode_images(batch.images), model.encode_recipes(batch.tokens, batch.lengths)
    shares = [slice(*bounds) for bounds in SHARES]
    apart = [len(images[s]) * batch_hard_loss(images[s], recipes[s])[0].item() for s in shares]
    whole = two_ranks[0]["synchronised, published"]["loss"].item()
    assert abs(sum(apart) / 10 - whole) > 0.01


def test_unsynchronised_ranks_normalise_their_own_rows(
    two_ranks: list[dict[str, dict[str, Tensor]]],
) -> None:
    """As the released replicas: batch norm sees parts of the batch, the loss all of it."""
    model, batch = build(False, ONE), whole_batch()
    parts = [share(batch, *bounds) for bounds in SHARES]
    images = torch.cat([model.encode_images(part.images) for part in parts])
    recipes = torch.cat([model.encode_recipes(part.tokens, part.lengths) for part in parts])
    loss, _, _ = batch_hard_loss(images, recipes)
    loss.backward()
    expected = {"loss": loss.detach()}
    expected |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for rank in two_ranks:
        assert_close({name: rank["per replica"][name] for name in expected}, expected)
    name = "align_img.0.running_mean"
    first, second = (rank["per replica"][name] for rank in two_ranks)
    assert not torch.allclose(first, second), "each has its own running statistics"


def test_validation_uses_rank_0s_running_statistics_on_every_rank(
    two_ranks: list[dict[str, dict[str, Tensor]]], root: Path
) -> None:
    expected = two_ranks_training.validated(ONE, root, statistics=0)
    for rank in two_ranks:
        assert_close(rank["validated"], expected)
    as_rank_1 = two_ranks_training.validated(ONE, root, statistics=1)
    assert as_rank_1["loss"] != expected["loss"], "rank 1's own statistics would have given other metrics"


def test_run_under_torchrun_equals_the_run_of_one_process(root: Path, tmp_path: Path) -> None:
    """A real torchrun. What turns rounding noise into whole steps is left out: Adam, and the choice of one negative."""
    overrides = settings(
        root,
        "sync_batchnorm=true",
        "model.text.dropout=0",
        "model.text.init_std=0.4",
        "optim.learning_rate=1e-4",
        "optim.epochs=1",
        "loss.hardest=false",
    )
    one = trained(tmp_path / "one", *overrides, script=SGD)
    finished = torchrun(SGD, f"hydra.run.dir={tmp_path / 'two'}", *overrides)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("best epoch") == 1, "rank 0 alone prints"
    two = tmp_path / "two"
    expected = weights(one)
    for name, value in weights(two).items():
        close(name, value, expected[name], rtol=1e-2, atol=2e-3)
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key, number in theirs.items():
            assert ours[key] == pytest.approx(number, rel=0.03 if key == "grad_norm" else 5e-3), (
                key,
                theirs["step"],
            )
    assert results(two)["machine"]["ranks"] == 2


def test_killed_group_continues_bit_for_bit(root: Path, tmp_path: Path) -> None:
    overrides = settings(root)
    trained(tmp_path / "whole", *overrides, ranks=2)
    point = (str(TRAIN), "step", "3")
    killed = train(tmp_path / "killed", *overrides, script=KILL_DRIVER, arguments=point, ranks=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    trained(tmp_path / "killed", *overrides, ranks=2)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
