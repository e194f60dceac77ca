"""Cached embeddings against the plain way: the same gradients, dropout and batch norm included."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from projects.vseinfty.cached_embeddings import CachedEmbeddings, RunningStatistics, chunk_slices
from projects.vseinfty.losses import triplet_loss

CPU = torch.device("cpu")


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (5, 2), (10, 4), (10, 10), (10, 99), (128, 7), (0, 3)])
def test_chunks_cover_all_rows_evenly(rows: int, size: int) -> None:
    slices = chunk_slices(rows, size)
    assert [i for s in slices for i in range(s.start, s.stop)] == list(range(rows))
    lengths = [s.stop - s.start for s in slices]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def loss_of(images: Tensor, captions: Tensor) -> Tensor:
    return triplet_loss(images, captions, margin=0.2, hardest=True)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("chunk_size", [1, 3, 8])
def test_gradients_equal_those_of_a_graph_over_all_chunks(dropout: float, chunk_size: int) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 16), nn.Dropout(dropout), nn.ReLU(), nn.Linear(16, 4)).double()
    x, y = torch.randn(2, 8, 5, dtype=torch.float64)
    slices = chunk_slices(8, chunk_size)

    torch.manual_seed(1)  # the oracle: the same chunks and draws, all graphs kept
    images = torch.cat([encoder(x[s]) for s in slices])
    captions = torch.cat([encoder(y[s]) for s in slices])
    expected_loss = loss_of(images, captions)
    expected_loss.backward()
    expected, state_after = gradients(encoder), torch.get_rng_state()

    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    cached_images = CachedEmbeddings(lambda s: encoder(x[s]), slices, CPU)
    cached_captions = CachedEmbeddings(lambda s: encoder(y[s]), slices, CPU)
    loss = loss_of(cached_images.embeddings, cached_captions.embeddings)
    loss.backward()
    cached_images.backward()
    cached_captions.backward()

    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    found = gradients(encoder)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    assert torch.equal(torch.get_rng_state(), state_after), "the replay must not move the generator"


def test_frozen_encoder_has_nothing_to_replay() -> None:
    encoder = nn.Linear(3, 2).requires_grad_(False)
    cached = CachedEmbeddings(lambda s: encoder(torch.ones(4, 3)[s]), chunk_slices(4, 2), CPU)
    cached.embeddings.sum().backward()
    cached.backward()
    assert encoder.weight.grad is None


def test_backward_before_the_loss_is_a_mistake() -> None:
    cached = CachedEmbeddings(lambda s: torch.ones(4, 2)[s], chunk_slices(4, 2), CPU)
    with pytest.raises(AssertionError, match="back-propagated"):
        cached.backward()


def run_two_passes(norm: nn.BatchNorm1d, x: Tensor, chunk_size: int) -> None:
    slices = chunk_slices(len(x), chunk_size)
    statistics = RunningStatistics(norm, len(slices))
    with statistics.paused():
        cached = CachedEmbeddings(lambda s: norm(x[s]), slices, CPU)
    cached.embeddings.square().sum().backward()
    with statistics.one_update():
        cached.backward(statistics)


def test_running_statistics_move_once_by_the_mean_over_chunks() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 3) * 2 + 5
    norm = nn.BatchNorm1d(3, momentum=0.1)
    norm(torch.randn(6, 3))  # running statistics that are not the initial ones
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()

    run_two_passes(norm, x, chunk_size=4)

    chunks = x.split(4)
    torch.testing.assert_close(norm.running_mean, 0.9 * mean + 0.1 * x.mean(0))
    chunk_variance = torch.stack([chunk.var(0) for chunk in chunks]).mean(0)
    torch.testing.assert_close(norm.running_var, 0.9 * variance + 0.1 * chunk_variance)
    assert norm.num_batches_tracked.item() == 2
    assert norm.momentum == 0.1
    assert norm.track_running_stats


@pytest.mark.parametrize("prepare", [lambda norm: norm.eval(), lambda norm: norm])
def test_one_chunk_is_the_plain_pass(prepare: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    plain, chunked = (prepare(nn.BatchNorm1d(3)) for _ in range(2))
    plain(x).square().sum().backward()
    run_two_passes(chunked, x, chunk_size=6)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(chunked.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(chunked)[name], gradient)
