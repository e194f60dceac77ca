"""Batches depend on (seed, epoch, index) only: not on workers, ranks, or where a run was resumed."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.data import (
    BatchPlan,
    TrainSampler,
    choose_workers,
    eval_plans,
    item_generator,
    load,
    pad_sequences,
    timed_batches,
    to_device,
)
from shared.errors import InputError


@dataclass
class Batch:
    values: Tensor
    names: list[str]
    optional: Tensor | None = None


def fetch(plan: BatchPlan) -> Batch:
    rows = [item_generator(7, plan.epoch, index).random(4) for index in plan.indices.tolist()]
    return Batch(torch.from_numpy(np.stack(rows)), [str(plan.step)])


def test_item_generator_is_philox_of_key_and_counter() -> None:
    def expected(seed: int, epoch: int, index: int) -> np.ndarray:
        key = np.array([seed, epoch], np.uint64)
        counter = np.array([0, 0, index, 0], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter)).random(5)

    for triple in ((0, 0, 0), (1, 2, 3), (2**63, 5, 2**40)):
        np.testing.assert_array_equal(item_generator(*triple).random(5), expected(*triple))
    item_generator(-1, 0, 0).random()  # any integer is a seed
    before = item_generator(1, 2, 3)
    item_generator(9, 9, 9).random(100)
    np.testing.assert_array_equal(before.random(5), expected(1, 2, 3))


def test_item_generators_are_independent_of_their_neighbours() -> None:
    seeds, epochs, indices, draws = 8, 8, 64, 8
    values = np.array(
        [
            [[item_generator(s, e, i).random(draws) for i in range(indices)] for e in range(epochs)]
            for s in range(seeds)
        ]
    )
    count = values.size
    assert len(np.unique(values)) == count
    assert abs(values.mean() - 0.5) < 5 * np.sqrt(1 / 12 / count)
    histogram = np.histogram(values, 64, (0, 1))[0]
    chi_square = ((histogram - count / 64) ** 2 / (count / 64)).sum()
    assert chi_square < 63 + 5 * np.sqrt(2 * 63)
    centred = values - 0.5
    for axis in range(4):  # neighbours along seed, epoch, index and draw
        left, right = (np.delete(centred, end, axis) for end in (-1, 0))
        correlation = (left * right).mean() * 12
        assert abs(correlation) < 5 / np.sqrt(left.size)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("num_items", "batch_size"), [(23, 5), (20, 5), (7, 7), (50, 6)])
def test_epoch_holds_each_item_once(
    num_items: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    samplers = [
        TrainSampler(num_items, batch_size, seed=1, drop_last=drop_last, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    single = list(TrainSampler(num_items, batch_size, seed=1, drop_last=drop_last).plans(4))
    shares = [list(sampler.plans(4)) for sampler in samplers]
    assert {len(share) for share in shares} == {samplers[0].steps_per_epoch}
    for step, parts in enumerate(zip(*shares, strict=True)):
        assert all(part.step == step and part.epoch == 4 for part in parts)
        assert all(part.indices.dtype == np.int64 and len(part.indices) for part in parts)
        np.testing.assert_array_equal(np.concatenate([p.indices for p in parts]), single[step].indices)
    seen = np.concatenate([plan.indices for plan in single])
    rest = num_items % batch_size
    assert len(np.unique(seen)) == len(seen) == num_items - (rest if drop_last else 0)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([p.indices for p in TrainSampler(100, 10, seed=seed).plans(epoch)]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    plain = TrainSampler(6, 2, seed=0, shuffle=False).plans(0)
    assert [plan.indices.tolist() for plan in plain] == [[0, 1], [2, 3], [4, 5]]


def test_resumed_epoch_is_the_rest_of_the_epoch() -> None:
    sampler = TrainSampler(40, 6, seed=3, drop_last=False)
    whole = [plan.indices.tolist() for plan in sampler.plans(2)]
    for first in range(sampler.steps_per_epoch + 1):
        rest = list(sampler.plans(2, first))
        assert [plan.indices.tolist() for plan in rest] == whole[first:]
        assert [plan.step for plan in rest] == list(range(first, sampler.steps_per_epoch))


def test_last_batch_without_an_item_for_each_rank_is_left_out() -> None:
    assert TrainSampler(13, 4, seed=0, drop_last=False, world_size=2).steps_per_epoch == 3
    assert TrainSampler(14, 4, seed=0, drop_last=False, world_size=2).steps_per_epoch == 4


def test_sets_too_small_are_one_line() -> None:
    with pytest.raises(InputError, match="3 training items are fewer than the 4 of one batch"):
        TrainSampler(3, 4, seed=0)
    with pytest.raises(InputError, match="0 training items"):
        TrainSampler(0, 4, seed=0, drop_last=False)
    with pytest.raises(InputError, match="batch_size 2 is smaller than the 4 processes"):
        TrainSampler(30, 2, seed=0, world_size=4)
    assert TrainSampler(3, 4, seed=0, drop_last=False).steps_per_epoch == 1


@pytest.mark.parametrize("num_items", [0, 1, 2, 7, 24])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_holds_each_item_once_in_order(num_items: int, world_size: int) -> None:
    plans = [eval_plans(num_items, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    indices = [plan.indices.tolist() for rank in plans for plan in rank]
    assert [index for batch in indices for index in batch] == list(range(num_items))
    assert all(0 < len(batch) <= 4 for batch in indices)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 3, None])
def test_batches_do_not_depend_on_workers(workers: int | None) -> None:
    plans = list(TrainSampler(30, 4, seed=0, drop_last=False).plans(1))
    state = torch.get_rng_state()
    found = list(load(fetch, iter(plans), workers=workers))
    assert torch.equal(torch.get_rng_state(), state)
    for plan, batch in zip(plans, found, strict=True):
        expected = fetch(plan)
        assert torch.equal(batch.values, expected.values)
        assert batch.names == expected.names
        assert batch.optional is None


def slow(plan: BatchPlan) -> Batch:
    time.sleep(0.005)
    return fetch(plan)


def test_timed_batches_are_those_of_the_plans() -> None:
    """The clock of a step runs from the end of the step before it."""
    plans = [BatchPlan(1, step, np.arange(step, step + 3)) for step in range(3)]
    clocks = []
    timed = timed_batches(slow, plans, torch.device("cpu"), workers=0)
    for plan, (batch, clock) in zip(plans, timed, strict=True):
        assert torch.equal(batch.values, fetch(plan).values)
        assert 0.005 <= clock.data_time <= clock.batch_time
        time.sleep(0.005)
        assert clock.batch_time >= clock.data_time + 0.005
        clocks.append(clock)
    assert len({id(clock) for clock in clocks}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_no_plans_no_batches(workers: int) -> None:
    assert list(load(fetch, [], workers=workers)) == []


def fail(plan: BatchPlan) -> Tensor:
    if plan.step == 2:
        raise InputError("images/7.jpg: empty file, expected an image")
    return torch.zeros(1)


def crash(plan: BatchPlan) -> Tensor:
    raise RuntimeError("a bug")


def die(plan: BatchPlan) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return torch.zeros(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers(workers: int) -> None:
    batches = load(fail, eval_plans(20, 4), workers=workers)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(InputError) as error:
        next(batches)
    assert str(error.value) == "images/7.jpg: empty file, expected an image"
    with pytest.raises(RuntimeError, match="a bug"):
        list(load(crash, eval_plans(20, 4), workers=workers))


def test_a_dead_worker_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    with pytest.raises(InputError, match="a data loading worker died"):
        list(load(die, eval_plans(20, 4), workers=2))


def test_workers_chosen_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(cores: int, ranks: int) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        return choose_workers()

    assert [chosen(1, 1), chosen(2, 1), chosen(4, 1), chosen(64, 1)] == [0, 0, 3, 8]
    assert [chosen(16, 4), chosen(8, 4), chosen(2, 4)] == [3, 0, 0]


class Pair(NamedTuple):
    left: Tensor
    right: list[Tensor]


def tensors_of(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Batch):
        yield from tensors_of([value.values, value.optional])
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_of(part)


def test_to_device_reaches_every_tensor() -> None:
    one = torch.ones(2)
    batch = {
        "batch": Batch(one, ["a"], one),
        "pair": Pair(one, [one, one]),
        "tuple": (one, 3, None),
        "text": "x",
    }
    moved = to_device(batch, "meta")
    found = list(tensors_of(moved))
    assert len(found) == 6
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert isinstance(moved["pair"], Pair)
    assert (moved["text"], moved["tuple"][1:], moved["batch"].names) == ("x", (3, None), ["a"])
    assert one.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches(workers: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for batch in load(fetch, eval_plans(8, 4), workers=workers, pin_memory=True):
        assert batch.values.is_pinned()
        assert torch.equal(to_device(batch, "cuda").values.cpu(), batch.values)


def test_pad_sequences() -> None:
    padded, lengths = pad_sequences([[5, 6, 7], [], [8]])
    assert padded.tolist() == [[5, 6, 7], [0, 0, 0], [8, 0, 0]]
    assert lengths.tolist() == [3, 0, 1]
    assert padded.dtype == lengths.dtype == np.int64
    rows = [np.full((n, 2), n, np.float32) for n in (1, 3)]
    padded, lengths = pad_sequences(rows, value=-1)
    assert padded.dtype == np.float32
    assert padded.tolist() == [[[1, 1], [-1, -1], [-1, -1]], [[3, 3], [3, 3], [3, 3]]]
    assert lengths.tolist() == [1, 3]
    assert pad_sequences([])[0].shape == (0, 0)
