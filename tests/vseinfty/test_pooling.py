"""Pooling: fast paths against plain definitions, gradients, and the table kept in evaluation."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from projects.vseinfty import coefficients as coefficients_module
from projects.vseinfty.coefficients import coefficients, positional_encoding
from projects.vseinfty.pooling import GPO, KMaxPooling, build_pooling, inside
from projects.vseinfty.sorting import sort_descending, sorted_weighted_sum
from shared.errors import InputError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_sets(batch: int, size: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(1, size + 1, (batch,))
    lengths[0] = size
    return torch.randn(batch, size, dim, dtype=dtype), lengths


def random_weights(lengths: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    scores = torch.randn(len(lengths), size, dtype=dtype)
    return torch.softmax(scores.masked_fill(~inside(lengths, size), -torch.inf), dim=1)


def plain_sum(features: Tensor, weights: Tensor, lengths: Tensor) -> Tensor:
    """The definition, sample by sample."""
    rows = []
    for x, w, n in zip(features, weights, lengths.tolist(), strict=True):
        ranked = x[:n].sort(dim=0, descending=True, stable=True).values
        rows.append((w[:n, None] * ranked).sum(0))
    return torch.stack(rows)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value.dtype)
    (value * upstream).sum().backward()
    return value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize(
    ("batch", "size", "dim"),
    [(1, 1, 1), (3, 7, 5), (70, 11, 130), (5, 36, 1200), (4, 300, 150), (2, 64, 700)],
)
def test_sorted_sum_is_the_definition(batch: int, size: int, dim: int) -> None:
    features, lengths = random_sets(batch, size, dim)
    weights = random_weights(lengths, size)
    ours = gradients(lambda x, w: sorted_weighted_sum(x, w, lengths), features, weights)
    plain = gradients(lambda x, w: plain_sum(x, w, lengths), features, weights)
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_both_paths_agree_and_only_one_is_for_doubles() -> None:
    features, lengths = random_sets(6, 20, 40)
    weights = random_weights(lengths, 20)
    single = gradients(lambda x, w: sorted_weighted_sum(x, w, lengths), features, weights)
    double = gradients(lambda x, w: sorted_weighted_sum(x, w, lengths), features.double(), weights.double())
    assert double[0].dtype == torch.float64
    for found, expected in zip(single, double, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_values_are_exact() -> None:
    """One-hot weights pick a value: positions hidden in the keys must not show."""
    features, lengths = random_sets(9, 31, 50)
    features *= torch.logspace(-20, 20, 50)  # all magnitudes
    lengths[:] = 31
    for rank in (0, 15, 30):
        weights = torch.zeros(9, 31)
        weights[:, rank] = 1.0
        expected = features.sort(dim=1, descending=True).values[:, rank]
        assert torch.equal(sorted_weighted_sum(features, weights, lengths), expected)


def test_equal_values_and_zeros() -> None:
    """The gradients of equal values are some permutation: their sum is fixed, and nothing is lost."""
    features = torch.randint(-2, 3, (8, 12, 30)).float().requires_grad_()
    lengths = torch.full((8,), 12)
    weights = random_weights(lengths, 12)
    upstream = torch.randn(8, 30)
    value = sorted_weighted_sum(features, weights, lengths)
    value.backward(upstream)
    torch.testing.assert_close(value, plain_sum(features, weights, lengths))
    assert features.grad is not None
    torch.testing.assert_close(features.grad.sum(1), upstream)  # weights sum to one
    again = features.detach().clone().requires_grad_()
    sorted_weighted_sum(again, weights, lengths).backward(upstream)
    assert again.grad is not None
    assert torch.equal(features.grad, again.grad)


def test_padding_is_ignored_whatever_it_holds() -> None:
    features, lengths = random_sets(20, 15, 33)
    weights = random_weights(lengths, 15)
    spoiled = features.masked_fill(~inside(lengths, 15)[:, :, None], 1e6)
    ours = gradients(lambda x, w: sorted_weighted_sum(x, w, lengths), spoiled, weights)
    clean = gradients(lambda x, w: sorted_weighted_sum(x, w, lengths), features, weights)
    for found, expected in zip(ours, clean, strict=True):
        assert torch.equal(found, expected)
    assert (ours[1][~inside(lengths, 15)] == 0).all()


@pytest.mark.parametrize("padding_value", [-10000.0, -torch.inf])
def test_features_below_the_padding_value(padding_value: float) -> None:
    """As released: they change places with the padding. With -inf they do not."""
    features, lengths = random_sets(6, 9, 12)
    features *= 20_000
    weights = random_weights(lengths, 9)

    def released(x: Tensor, w: Tensor) -> Tensor:
        outside = ~inside(lengths, 9)[:, :, None]
        ranked = x.masked_fill(outside, padding_value).sort(dim=1, descending=True).values
        return (ranked.masked_fill(outside, 0.0) * w[:, :, None]).sum(1)

    ours = gradients(lambda x, w: sorted_weighted_sum(x, w, lengths, padding_value), features, weights)
    for found, expected in zip(ours, gradients(released, features, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-2)
    exact = plain_sum(features, weights, lengths)
    assert torch.allclose(ours[0], exact, rtol=1e-5, atol=1e-2) == (padding_value == -torch.inf)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    features, lengths = random_sets(37, 18, 120)
    weights = random_weights(lengths, 18)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = gradients(lambda x: sorted_weighted_sum(x, weights, lengths), features)
        torch.set_num_threads(threads)
        found = gradients(lambda x: sorted_weighted_sum(x, weights, lengths), features)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


FORKING = """
import os, signal
import torch
from tests.vseinfty.test_pooling import random_sets, random_weights
from projects.vseinfty.sorting import sorted_weighted_sum

features, lengths = random_sets(30, 30, 50)
weights = random_weights(lengths, 30)
torch.set_num_threads(2)
expected = sorted_weighted_sum(features, weights, lengths)
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(60)  # a child that waits for its parent's threads ends here
os._exit(0 if torch.equal(sorted_weighted_sum(features, weights, lengths), expected) else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """In a process of its own: torch's threads, which other tests may have started here, do not survive a fork."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features(dtype: torch.dtype) -> None:
    features, lengths = random_sets(7, 10, 24)
    weights = random_weights(lengths, 10)
    half = features.to(dtype)
    value, gradient = gradients(lambda x: sorted_weighted_sum(x, weights, lengths), half)
    expected = gradients(lambda x: sorted_weighted_sum(x, weights, lengths), half.float())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient.float(), expected[1], rtol=1e-2, atol=1e-2)


def test_not_contiguous_features_and_a_graph_used_twice() -> None:
    features, lengths = random_sets(5, 8, 6)
    weights = random_weights(lengths, 8)
    moved = features.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    value = sorted_weighted_sum(moved, weights, lengths)
    torch.testing.assert_close(value, plain_sum(features, weights, lengths))
    value.sum().backward(retain_graph=True)
    assert moved.grad is not None
    once = moved.grad.clone()
    value.sum().backward()
    torch.testing.assert_close(moved.grad, 2 * once)


def test_gradcheck() -> None:
    features, lengths = random_sets(3, 5, 4, torch.float64)
    weights = random_weights(lengths, 5, torch.float64)
    inputs = (features.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: sorted_weighted_sum(x, w, lengths), inputs)
    pool = GPO(positional_dim=4, hidden_dim=3).double()
    names, parameters = zip(*pool.named_parameters(), strict=True)

    def pooled(x: Tensor, *values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(pool, dict(zip(names, values, strict=True)), (x, lengths))[
            0
        ]
        return found

    assert torch.autograd.gradcheck(pooled, (features, *parameters))


def test_recurrence_is_torch_gru() -> None:
    pool = GPO(positional_dim=8, hidden_dim=6).double()
    sizes = [1, 2, 5, 9, 12]
    results = []
    for states in (coefficients_module._states_cpu, coefficients_module._states_packed):
        pool.zero_grad()
        positions = positional_encoding(12, 8, torch.float64, torch.device("cpu"))
        found = states(pool.gru, positions, sizes)
        found = found * inside(torch.tensor(sizes), 12)[:, :, None]
        (found * torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)).sum().backward()
        results.append([found, *(p.grad for p in pool.gru.parameters())])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-12)


def test_coefficients_sum_to_one_and_end_at_the_length() -> None:
    pool = GPO()
    lengths = torch.tensor([7, 1, 20, 7])
    theta = pool.coefficients(lengths, size=25)
    assert theta.shape == (4, 25)
    torch.testing.assert_close(theta.sum(1), torch.ones(4))
    assert (theta[~inside(lengths, 25)] == 0).all()
    torch.testing.assert_close(theta[0], theta[3])
    torch.testing.assert_close(theta[0, :7], coefficients(pool.gru, pool.linear, [7], 0.1)[0])


def test_kept_coefficients_follow_the_parameters() -> None:
    pool = GPO().eval()
    features, lengths = random_sets(6, 12, 5)

    def theta() -> Tensor:
        with torch.inference_mode():
            return pool(features, lengths)[1].clone()

    def fresh() -> Tensor:
        return copy.deepcopy(pool).train().coefficients(lengths, 12).detach()

    first = theta()
    torch.testing.assert_close(first, fresh())
    assert torch.equal(first, theta())
    other = GPO()
    pool.load_state_dict(other.state_dict())
    torch.testing.assert_close(theta(), fresh())
    assert not torch.allclose(theta(), first)
    optimizer = torch.optim.AdamW(pool.parameters(), lr=0.1, fused=True)
    before = theta()
    pool(features, lengths)[0].sum().backward()
    optimizer.step()
    torch.testing.assert_close(theta(), fresh())
    assert not torch.allclose(theta(), before)
    longer = torch.tensor([30, 2, 12])
    with torch.no_grad():
        torch.testing.assert_close(pool.coefficients(longer), coefficients_of(pool, longer))


def coefficients_of(pool: GPO, lengths: Tensor) -> Tensor:
    distinct = sorted(set(lengths.tolist()))
    table = coefficients(pool.gru, pool.linear, distinct, pool.temperature)
    return table[[distinct.index(length) for length in lengths.tolist()]].detach()


def test_autocast_leaves_coefficients_in_full_precision() -> None:
    pool = GPO()
    features, lengths = random_sets(4, 9, 16)
    expected = pool(features, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, theta = pool(features.bfloat16(), lengths)
    torch.testing.assert_close(theta, expected[1])
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected[0], rtol=2e-2, atol=2e-2)


def test_empty_set() -> None:
    with pytest.raises(ValueError, match="empty set"):
        GPO()(torch.randn(2, 3, 4), torch.tensor([3, 0]))


def plain_pooling(name: str, x: Tensor, pool: nn.Module) -> Tensor:
    """One sample [L, D] by the definition."""
    if name == "avg":
        return x.mean(0)
    if name == "max":
        return x.max(0).values
    if name == "kmax":
        assert isinstance(pool, KMaxPooling)
        return x.sort(dim=0, descending=True).values[: pool.k].mean(0)
    if name == "cls":
        return x[0]
    if name == "gem":
        p = pool.get_parameter("p")
        return x.clamp(min=1e-6).pow(p).mean(0).pow(1 / p)
    assert name == "fspool"
    weight = pool.get_parameter("weight")
    pieces = weight.shape[1] - 1
    pooled = torch.zeros(x.shape[1])
    for rank, values in enumerate(x.sort(dim=0, descending=True).values):
        position = rank / max(1, len(x) - 1) * pieces
        left = min(int(position), pieces - 1)
        share = position - left
        pooled = pooled + values * ((1 - share) * weight[:, left] + share * weight[:, left + 1])
    return pooled


@pytest.mark.parametrize("name", ["avg", "max", "kmax", "cls", "gem", "fspool"])
def test_baselines_are_their_definitions(name: str) -> None:
    features, lengths = random_sets(10, 13, 6)
    features = features.abs() if name == "gem" else features
    pool = build_pooling(name, dim=6, k=4, pieces=5)
    parameters = list(pool.parameters())
    spoiled = features.masked_fill(~inside(lengths, 13)[:, :, None], 77.0)
    ours = gradients(lambda x, *_: pool(x, lengths)[0], spoiled, *parameters)
    own = [p.grad for p in parameters]
    pool.zero_grad()

    def plain(x: Tensor, *_: Tensor) -> Tensor:
        return torch.stack([plain_pooling(name, row[:n], pool) for row, n in zip(x, lengths, strict=True)])

    expected = gradients(plain, spoiled, *parameters)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-4, atol=1e-5)
    for gradient, parameter in zip(own, parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpo", "avg", "max", "kmax"])
def test_weights_are_coefficients_over_the_ranks(name: str) -> None:
    features, lengths = random_sets(10, 13, 6)
    pooled, weights = build_pooling(name, dim=6, k=4)(features, lengths)
    ranked = sort_descending(features, lengths)
    torch.testing.assert_close(pooled, (weights[:, :, None] * ranked).sum(1), rtol=1e-4, atol=1e-5)


def test_kmax_with_small_sets_first() -> None:
    """Spec quirk 19: a short sample must not shrink k for those after it."""
    pool = build_pooling("kmax", dim=2, k=3)
    features = torch.arange(10.0).view(1, 5, 2).expand(2, 5, 2)
    pooled, _ = pool(features, torch.tensor([1, 5]))
    torch.testing.assert_close(pooled, torch.tensor([[0.0, 1.0], [6.0, 7.0]]))
    assert pool.k == 3
    assert pool(features[:, :2], torch.tensor([2, 2]))[0].tolist() == [[1.0, 2.0]] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "median"}, "expected one of gpo, avg.*found 'median'"),
        ({"name": "kmax"}, "needs a positive number, found None"),
        ({"name": "kmax", "k": 0}, "found 0"),
        ({"name": "gpo", "gpo": {"positional_dim": 7}}, "even number, found 7"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_pooling(**settings, dim=4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled() -> None:
    pool = GPO()
    layer = nn.Linear(6, 6)
    features, lengths = random_sets(4, 9, 6)

    def both(x: Tensor) -> Tensor:
        found: Tensor = pool(layer(x), lengths)[0] * 2
        return found

    expected = gradients(both, features)
    for found, value in zip(gradients(torch.compile(both), features), expected, strict=True):
        torch.testing.assert_close(found, value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu() -> None:
    pool = GPO()
    features, lengths = random_sets(16, 36, 64)
    expected = gradients(lambda x: pool(x, lengths)[0], features)
    on_cpu = [p.grad for p in pool.parameters()]
    pool = pool.cuda()
    pool.zero_grad()
    found = gradients(lambda x: pool(x.cuda(), lengths.cuda())[0].cpu(), features)
    for ours, value in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-4)
    for parameter, value in zip(pool.parameters(), on_cpu, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), value, rtol=1e-3, atol=1e-3)


def test_transformer_coefficients_of_a_size_do_not_depend_on_the_other_sizes() -> None:
    pooling = build_pooling("gpo_transformer", dim=8, gpo={"positional_dim": 16, "hidden_dim": 8})
    sizes = torch.tensor([1, 4, 9])
    together = pooling.coefficients(sizes)
    for row, size in zip(together, sizes.tolist(), strict=True):
        alone = pooling.coefficients(torch.tensor([size]), 9)[0]
        torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-6)
        assert row[size:].eq(0).all()
    torch.testing.assert_close(together.sum(1), torch.ones(3))
    features, lengths = random_sets(5, 9, 8)
    pooled, weights = pooling(features, lengths)
    expected = (sort_descending(features, lengths) * weights[:, :, None]).sum(1)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
    pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pooling.parameters())
    pooling.eval()
    with torch.no_grad():
        torch.testing.assert_close(pooling.coefficients(sizes), together.detach(), rtol=1e-4, atol=1e-6)
