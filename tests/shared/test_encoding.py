"""Embeddings of a collection: each item once, in its place, whatever the batches and processes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared.data import BatchPlan
from shared.encoding import encode_all, length_buckets
from shared.runtime import Runtime
from tests.shared import two_ranks
from tests.shared.two_ranks import LENGTHS


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_row_i_is_item_i(batch_size: int, one_process: Runtime) -> None:
    found = two_ranks.encoded(one_process, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([np.arange(7), LENGTHS], axis=1))


def test_every_rank_has_the_rows_of_all(two_rank_results: list[dict[str, Any]], one_process: Runtime) -> None:
    expected = torch.from_numpy(two_ranks.encoded(one_process))
    for found in two_rank_results:
        assert torch.equal(found["encoded"], expected)


def test_it_encodes_in_evaluation_mode_and_puts_training_back(
    one_process: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Linear(1, 1).train()
    modes = []

    def encode(batch: Tensor) -> Tensor:
        modes.append((model.training, torch.is_inference_mode_enabled()))
        if len(modes) == 3:
            raise RuntimeError
        return batch

    def fetch(plan: BatchPlan) -> Tensor:
        return torch.from_numpy(plan.indices)[:, None]

    plans = length_buckets(np.arange(2), 1)
    for _ in range(2):
        try:
            encode_all(model, encode, fetch, plans, (2, 1), one_process, workers=0)
        except RuntimeError:
            assert len(modes) == 3
        assert model.training, "also after an error"
    assert modes == 3 * [(False, True)]
    assert capsys.readouterr().err == "", "no label, no progress"


def test_buckets_hold_each_item_once_in_order_of_length() -> None:
    plans = length_buckets(LENGTHS, 3)
    flat = np.concatenate([plan.indices for plan in plans])
    assert sorted(flat) == list(range(7))
    assert (np.diff(LENGTHS[flat]) >= 0).all()
    assert [plan.step for plan in plans] == [0, 1, 2]


def test_buckets_are_dealt_to_the_ranks_in_turn() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 101)
    plans = [length_buckets(lengths, 8, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(np.concatenate([p.indices for ps in plans for p in ps])) == list(range(101))
    padding = sum(int((lengths[p.indices].max() - lengths[p.indices]).sum()) for ps in plans for p in ps)
    assert padding < 0.1 * lengths.sum()
    assert max(map(len, plans)) - min(map(len, plans)) <= 1
    assert length_buckets(lengths[:0], 8) == []
    assert length_buckets(np.array([4]), 2, rank=1, world_size=2) == []
