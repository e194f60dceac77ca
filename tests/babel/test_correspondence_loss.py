"""The 3D losses: each kind beside its definition point by point, and what must not change the numbers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.bilinear_rows import sample_rows
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.matches import KINDS, Draws, Matches
from shared.errors import InputError

COUNTS = (6, 0, 3, 1)
CHANNELS, HEIGHT, WIDTH = 7, 6, 9
NEGATIVES = 4


def step(
    kind: str = "contrastive_easy", counts: tuple[int, ...] = COUNTS, seed: int = 0
) -> tuple[Tensor, Matches, Draws]:
    """Features of the pairs, matches with places on borders, draws."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2 * len(counts), CHANNELS, HEIGHT, WIDTH, generator=generator)
    points = [torch.rand(count, 4, generator=generator) for count in counts]
    if counts[0] > 2:
        points[0][:2] = torch.tensor([[0, 0, 1, 1], [1, 0.5, 0, 0.25]])
    matches = Matches.of(points)
    return features, matches, Draws.draw(kind, generator, matches.counts, NEGATIVES)


def at(one_map: Tensor, row: float, column: float) -> Tensor:
    """[D, h, w] -> [D], by grid_sample."""
    grid = torch.tensor([[[[2 * column - 1, 2 * row - 1]]]])
    return F.grid_sample(one_map[None], grid, align_corners=True)[0, :, 0, 0]


def naive(
    kind: str, features: Tensor, matches: Matches, draws: Draws, *, normalize: bool, tau: float, margin: float
) -> Tensor:
    """Sum over pairs of the mean over points, from the paper's equation and the released negatives."""

    def unit(x: Tensor) -> Tensor:
        return x / (x.norm() + 1e-6) if normalize else x

    first, second = features.chunk(2)
    total = features.new_zeros(())
    for pair, count in enumerate(matches.counts.tolist()):
        if count <= 1:
            continue
        for t in (matches.pair == pair).nonzero().flatten().tolist():
            row0, column0, row1, column1 = matches.rowcol[t].tolist()
            q, p = unit(at(first[pair], row0, column0)), unit(at(second[pair], row1, column1))
            u = draws.uniform[t].tolist()
            if kind == "contrastive_easy":
                chosen = draws.images[pair].tolist()
                n = [unit(at(second[image], *u[i])) for i, image in enumerate(chosen)]
            elif kind == "contrastive":
                n = []
                for axis, moved in enumerate((row1, column1)):
                    for sign, size, other in u[axis]:
                        place = max(0.0, moved + (-1 if sign < 0.5 else 1) * (0.25 + 0.5 * size))
                        n.append(unit(at(second[pair], *((place, other) if axis == 0 else (other, place)))))
            elif kind == "triplet":
                n = [unit(at(second[pair], row1 + u[0][0], column1 + u[0][1]))]
            if kind == "mse":
                loss = (q - p).square().mean()
            elif kind == "triplet":
                loss = (margin + (q - p + 1e-6).norm() - (q - n[0] + 1e-6).norm()).clamp(min=0)
            else:
                parts = torch.stack([q @ p, *(q @ other for other in n)]) / tau
                loss = -(parts[0].exp() / parts.exp().sum()).log()
            total = total + loss / count
    return total


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_the_definitions(kind: str, normalize: bool) -> None:
    features, matches, draws = step(kind)
    options: dict[str, Any] = {"normalize": normalize, "tau": 0.3 if normalize else 2.0, "margin": 0.5}
    leaf = features.clone().requires_grad_()
    naive(kind, leaf, matches, draws, **options).div(5).backward()
    found = features.clone().requires_grad_()
    loss, stats = correspondence_loss(found, matches, draws, kind=kind, batch_size=5, **options)
    loss.backward()
    expected = naive(kind, features, matches, draws, **options) / 5
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.grad, leaf.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stats["sum"], expected * 5, rtol=1e-5, atol=1e-6)
    assert (int(stats["points"]), int(stats["pairs"])) == (10, 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_are_those_of_grid_sample(layout: torch.memory_format) -> None:
    """Inside, on the border, half outside, far outside; in both layouts."""
    maps = torch.randn(3, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64).contiguous(memory_format=layout)
    image = torch.arange(3).repeat_interleave(40)
    rowcol = torch.rand(120, 2, dtype=torch.float64) * 1.8 - 0.4
    rowcol[:4] = torch.tensor([[0, 0], [1, 1], [1.05, 0.5], [-7, 900]])
    leaf, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    found = sample_rows(leaf, image, rowcol)
    grid = (rowcol.flip(1) * 2 - 1).view(3, 40, 1, 2)
    expected = F.grid_sample(other, grid, align_corners=True)[..., 0].transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_no_points_at_all_leave_a_zero_that_can_be_differentiated() -> None:
    for counts in ((0, 0), (1, 0)):
        features, matches, draws = step(counts=counts)
        others = torch.randn(3, CHANNELS, HEIGHT, WIDTH).requires_grad_()
        leaf = features.requires_grad_()
        loss, stats = correspondence_loss(leaf, matches, draws, batch_size=2, second_images=others)
        assert loss.item() == 0
        loss.backward()
        assert leaf.grad is not None
        assert others.grad is not None
        assert not leaf.grad.any()
        assert int(stats["points"]) == sum(counts)
        assert int(stats["pairs"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_loss_and_gradient_of_one(kind: str) -> None:
    """Pairs 0, 1 here and 2, 3 there; negatives from all; gradients of the gathered maps come back."""
    features, matches, draws = step(kind, counts=(6, 2, 3, 4))
    whole = features.clone().requires_grad_()
    expected, _ = correspondence_loss(whole, matches, draws, kind=kind, batch_size=4)
    expected.backward()
    leaf = features.clone().requires_grad_()
    first, second = leaf.chunk(2)
    total = torch.zeros(())
    for pairs, points in ((slice(0, 2), slice(0, 8)), (slice(2, 4), slice(8, 15))):
        own = Matches(matches.pair[points] - pairs.start, matches.rowcol[points], matches.counts[pairs])
        part, _ = correspondence_loss(
            torch.cat([first[pairs], second[pairs]]),
            own,
            draws.part(pairs, points),
            kind=kind,
            batch_size=4,
            second_images=second,
        )
        total = total + part
    total.backward()
    torch.testing.assert_close(total.detach(), expected.detach())
    torch.testing.assert_close(leaf.grad, whole.grad)


def test_accuracy_is_the_share_of_points_whose_match_is_nearest() -> None:
    features, matches, draws = step(counts=(6, 3))
    features[2:] = features[:2] = torch.randn(1, CHANNELS, 1, 1)
    same = Matches(matches.pair, matches.rowcol[:, [0, 1, 0, 1]], matches.counts)
    spread = torch.randn(2, CHANNELS, HEIGHT, WIDTH).repeat(2, 1, 1, 1)
    _, stats = correspondence_loss(spread, same, draws, batch_size=2)
    assert stats["accuracy"].item() == 1
    _, stats = correspondence_loss(-torch.cat([spread[:2], -spread[:2]]), same, draws, batch_size=2)
    assert stats["accuracy"].item() < 0.5


def test_bfloat16_features_give_nearly_the_same() -> None:
    features, matches, draws = step()
    expected, _ = correspondence_loss(features, matches, draws, batch_size=1)
    leaf = features.bfloat16().requires_grad_()
    found, _ = correspondence_loss(leaf, matches, draws, batch_size=1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
    found.backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16


def test_draws_are_those_of_the_seed_and_lie_where_they_should() -> None:
    counts = torch.tensor([500, 0, 300])
    for kind in KINDS:
        one, two = (
            Draws.draw(kind, torch.Generator().manual_seed(3), counts, 6, pairs_in_batch=9) for _ in range(2)
        )
        assert torch.equal(one.uniform, two.uniform)
        assert torch.equal(one.images, two.images)
        assert len(one.uniform) == 800
        assert len(one.images) == 3
    easy = Draws.draw(
        "contrastive_easy", torch.Generator().manual_seed(3), torch.ones(400, dtype=torch.int64), 6, 9
    )
    assert easy.images.unique().tolist() == list(range(9))
    assert easy.uniform.shape == (400, 6, 2)
    assert 0 <= easy.uniform.min() < 0.01
    assert 0.99 < easy.uniform.max() < 1


def test_parts_of_draws_and_matches_of_points() -> None:
    matches = Matches.of([torch.rand(2, 4), torch.rand(0, 4), torch.rand(3, 4)])
    assert matches.pair.tolist() == [0, 0, 2, 2, 2]
    assert matches.counts.tolist() == [2, 0, 3]
    assert len(matches) == 5
    assert len(Matches.of([])) == 0
    draws = Draws.draw("contrastive_easy", torch.Generator(), matches.counts, 2)
    part = draws.part(slice(1, 3), slice(2, 5))
    assert torch.equal(part.images, draws.images[1:])
    assert torch.equal(part.uniform, draws.uniform[2:])


def test_what_makes_no_loss_is_said() -> None:
    features, matches, draws = step()
    with pytest.raises(
        InputError, match=r"loss\.correspondence.kind: expected one of contrastive_easy, contrastive"
    ):
        correspondence_loss(features, matches, draws, kind="nce", batch_size=1)
    with pytest.raises(InputError, match=r"loss\.correspondence.kind"):
        Draws.draw("nce", torch.Generator(), matches.counts, 4)
    with pytest.raises(InputError, match=r"loss\.correspondence.negatives: expected more than 1, found 1"):
        Draws.draw("contrastive", torch.Generator(), matches.counts, 1)
