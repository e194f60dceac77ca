"""Two processes train the GAN like one: losses and gradients of the global batch, a whole run of the entry."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.shared.group import torchrun
from tests.xmrs import two_ranks_gan
from tests.xmrs.gan_runs import CPU, GAN_TEST, GAN_TRAIN, settings, world


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    out = tmp_path_factory.mktemp("two_ranks")
    finished = torchrun(two_ranks_gan.__file__, out)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_synchronised_ranks_equal_one_process(two_ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    expected = two_ranks_gan.stepped(CPU, 0, 8, sync_batchnorm=False)
    for rank in two_ranks:
        assert rank["True"].keys() == expected.keys()
        for name, value in expected.items():
            found = rank["True"][name]
            # of all gradients a few are sums that nearly cancel: judged by the largest of their tensor
            far = float((found - value).abs().max() / value.abs().max().clamp(min=1e-6))
            assert far < 2e-3, f"{name}: {far:.1e} of the largest value"


def test_ranks_without_it_still_agree(two_ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    """Batch norm by itself, but one loss and one gradient: the copies of the weights stay copies."""
    first, second = (rank["False"] for rank in two_ranks)
    for name, value in first.items():
        if "running" not in name and name != "embedded":
            assert torch.equal(value, second[name]), name
    assert not torch.equal(first["img_code_s16.3.running_mean"], second["img_code_s16.3.running_mean"])


def test_a_run_under_torchrun(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    root = world(tmp_path_factory.getbasetemp())
    given = settings(root, "sync_batchnorm=true", "optim.epochs=1")
    finished = torchrun(str(GAN_TRAIN), f"hydra.run.dir={tmp_path / 'run'}", *given)
    assert finished.returncode == 0, finished.stderr[-3000:]
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["machine"]["ranks"] == 2
    assert result["steps"] == 5
    assert finished.stdout.count("epoch 1: recipes found") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6

    given = [text for text in settings(root) if text.startswith(("data.", "workers", "runtime"))]
    finished = torchrun(
        str(GAN_TEST),
        f"hydra.run.dir={tmp_path / 'test'}",
        *given,
        f"generator={tmp_path / 'run'}",
        "medr=10",
    )
    assert finished.returncode != 0
    assert "error: gan_test.py runs in one process" in finished.stderr
