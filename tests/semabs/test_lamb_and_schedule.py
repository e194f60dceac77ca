"""LAMB tensor by tensor, and schedules that go on where they stopped."""

import copy

import pytest
import torch
from torch import nn

from projects.semabs.bench_networks import plain_lamb
from projects.semabs.lamb import Lamb
from projects.semabs.schedule import KINDS, Schedule, learning_rate_factor
from shared.errors import InputError


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    found = [torch.randn(4, 3), torch.randn(5) * 20, torch.zeros(2)]
    return [nn.Parameter(p) for p in found]


def test_lamb_is_its_formula_tensor_by_tensor() -> None:
    ours, plain = parameters(), parameters()
    optimizer = Lamb(ours, lr=1e-3, weight_decay=1e-5)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain]
    for step in range(4):
        for p, q in zip(ours, plain, strict=True):
            p.grad = q.grad = torch.sin(torch.arange(p.numel()) + step).view_as(p)
        optimizer.step()
        plain_lamb(plain, moments)
        for p, q in zip(ours, plain, strict=True):
            torch.testing.assert_close(p, q)


def test_lamb_goes_on_from_its_state_and_leaves_parameters_without_gradient() -> None:
    ours = parameters()
    optimizer = Lamb(ours, lr=1e-2)
    untouched = ours[1].detach().clone()

    def step(params: list[nn.Parameter], optimizer: Lamb) -> None:
        for p in (params[0], params[2]):
            p.grad = torch.ones_like(p)
        optimizer.step()

    step(ours, optimizer)
    others = [nn.Parameter(p.detach().clone()) for p in ours]
    resumed = Lamb(others, lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(ours, optimizer)
    step(others, resumed)
    for p, q in zip(ours, others, strict=True):
        assert torch.equal(p, q)
    assert torch.equal(ours[1], untouched)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_goes_on_where_it_stopped(kind: str) -> None:
    def schedule() -> Schedule:
        return Schedule(Lamb(parameters(), lr=0.5), kind=kind, warmup=3, total=10)

    first = schedule()
    rates = []
    for step in range(10):
        rates.append(first.optimizer.param_groups[0]["lr"])
        assert rates[-1] == 0.5 * learning_rate_factor(kind, step, warmup=3, total=10)
        first.step()
        if step == 4:
            state = copy.deepcopy(first.state_dict())
    second = schedule()
    second.load_state_dict(state)
    assert second.optimizer.param_groups[0]["lr"] == rates[5]
    with pytest.raises(ValueError, match=r"schedule.total: expected 10, found 12"):
        second.load_state_dict({**state, "total": 12})


def test_the_shape_of_schedules() -> None:
    def at(kind: str, step: int) -> float:
        return learning_rate_factor(kind, step, warmup=4, total=20)

    assert [at("constant", step) for step in (0, 30)] == [1, 1]
    for kind in KINDS[1:]:
        assert [at(kind, step) for step in (0, 1, 2)] == [0, 0.25, 0.5]
        assert at(kind, 4) == 1
    assert at("linear", 12) == pytest.approx(0.5)
    assert at("cosine", 12) == pytest.approx(0.5)
    assert at("cosine_with_restarts", 20) == at("linear", 25) == 0
    restarted = [
        learning_rate_factor("cosine_with_restarts", s, warmup=0, total=20, cycles=2) for s in (0, 9, 10)
    ]
    assert restarted[0] == restarted[2] == 1
    assert restarted[1] < 0.1
    with pytest.raises(InputError, match=r"optim.schedule: expected one of .*, found 'step'"):
        at("step", 0)
