"""Two processes train like one: the same gradients on the same batch, the same run, the same result after a kill."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from projects.vseinfty.distributed import synchronize_batch_norm
from projects.vseinfty.losses import triplet_loss
from shared.batch_norm import SynchronizedBatchNorm
from shared.runtime import Runtime
from tests.shared.group import processes, torchrun
from tests.shared.runs import KILL_DRIVER
from tests.vseinfty import two_ranks_training
from tests.vseinfty.training_runs import (
    TRAIN,
    assert_same_run,
    make_set,
    metrics,
    results,
    settings,
    trained,
    weights,
)
from tests.vseinfty.two_ranks_training import SHARES, TEXT_ENCODERS, build, gradients, whole_batch

ONE = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny", dev=30)


@pytest.fixture(scope="module")
def two_ranks(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes under torchrun found, by case."""
    out = tmp_path_factory.mktemp("two_ranks")
    finished = torchrun(two_ranks_training.__file__, out, root)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("text_encoder", TEXT_ENCODERS)
def test_synchronised_ranks_equal_one_process(
    text_encoder: str, two_ranks: list[dict[str, dict[str, Tensor]]]
) -> None:
    """The loss sees the global batch, batch norm its statistics: gradients and running statistics are equal."""
    expected = gradients(text_encoder, ONE, whole_batch(), sync_batchnorm=True)
    for rank in two_ranks:
        assert_close(rank[f"synchronised, {text_encoder}"], expected)


@pytest.mark.parametrize("case", ["per replica", "micro batch"])
@pytest.mark.parametrize("text_encoder", TEXT_ENCODERS)
def test_unsynchronised_ranks_normalise_their_own_rows(
    case: str, text_encoder: str, two_ranks: list[dict[str, dict[str, Tensor]]]
) -> None:
    """As the released replicas (quirk 2): batch norm sees parts of the batch, padded to its one maximum."""
    model, batch = build(text_encoder), whole_batch()
    assert batch.image_lengths is not None
    parts = [slice(*bounds) for bounds in SHARES]
    if case == "micro batch":
        parts = [slice(start, start + 2) for start in range(0, 10, 2)]
    images = torch.cat([model.encode_images(batch.images[p], batch.image_lengths[p]) for p in parts])
    captions = model.encode_captions(batch.captions, batch.caption_lengths)
    loss = triplet_loss(images, captions, margin=0.2, hardest=True)
    loss.backward()
    expected = {"loss": loss.detach()}
    expected |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for rank in two_ranks:
        found = rank[f"{case}, {text_encoder}"]
        assert_close({name: found[name] for name in expected}, expected)


def test_unsynchronised_running_statistics_are_each_ranks_own(
    two_ranks: list[dict[str, dict[str, Tensor]]],
) -> None:
    name = "img_enc.mlp.bns.0.running_mean"
    first, second = (rank["per replica, bigru"][name] for rank in two_ranks)
    assert not torch.allclose(first, second), "if they were equal, broadcast_buffers would not be tested"


def test_validation_uses_rank_0s_running_statistics_on_every_rank(
    two_ranks: list[dict[str, dict[str, Tensor]]], root: Path
) -> None:
    expected = two_ranks_training.validated(ONE, root, statistics=0)
    for rank in two_ranks:
        assert_close(rank["validated"], expected)
    as_rank_1 = two_ranks_training.validated(ONE, root, statistics=1)
    assert as_rank_1["meanr"] != expected["meanr"], "rank 1's own statistics would have given other metrics"


def test_batch_norm_of_the_cnn_is_never_synchronised() -> None:
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(5), "of the CNN": nn.BatchNorm2d(2)})
    synchronize_batch_norm(model)
    assert [type(norm) for norm in model.values()] == [SynchronizedBatchNorm, nn.BatchNorm2d]


def test_run_under_torchrun_equals_the_run_of_one_process(root: Path, tmp_path: Path) -> None:
    """SGD, whose steps are as close as the gradients (Adam turns rounding noise into steps, quirk 3)."""
    overrides = settings(root, "optim.name=sgd", "optim.learning_rate=0.01", "sync_batchnorm=true")
    one = trained(tmp_path / "one", *overrides)
    finished = torchrun(TRAIN, f"hydra.run.dir={tmp_path / 'two'}", *overrides)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("best dev rsum") == 1, "rank 0 alone prints"
    two = tmp_path / "two"
    expected = weights(one)
    for name, value in weights(two).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-3), (key, theirs["step"])
    assert results(two)["machine"]["ranks"] == 2


def test_killed_group_continues_bit_for_bit(root: Path, tmp_path: Path) -> None:
    overrides = settings(root)
    for name in ("whole", "killed"):
        arguments = [f"hydra.run.dir={tmp_path / name}", *overrides]
        if name == "killed":
            ranks = processes(KILL_DRIVER, TRAIN, "step", "3", *arguments)
            assert {rank.returncode for rank in ranks} == {-signal.SIGKILL}, ranks[0].stderr[-2000:]
        for rank in processes(TRAIN, *arguments):
            assert rank.returncode == 0, rank.stderr[-3000:]
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
