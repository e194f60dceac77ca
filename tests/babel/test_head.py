"""The head's fast paths beside their plain definitions; gate, draws, pooling."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.aspp import ASPP, convolve
from projects.babel.draws import Dropout, draw_kept
from projects.babel.gate import StochasticGate
from projects.babel.gci import GlobalCueInjection
from projects.babel.pooling import foreground_share, pooled_scores
from projects.babel.upsampling import convolve_upsampled
from tests.babel.slim import images, slim_net


def gradients(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
    return list(torch.autograd.grad((value * weights).sum(), leaves))


@pytest.mark.parametrize(
    "size", [(14, 14), (13, 20), (12, 12), (5, 7), (1, 1), (26, 26), (40, 9), (24, 24), (23, 23)]
)
def test_sparse_pyramid_is_the_dilated_convolution(size: tuple[int, int]) -> None:
    """Maps smaller than the dilation, between it and twice it, and larger; also where no branch is dense."""
    torch.manual_seed(0)
    pyramid = ASPP(3, 4).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    found = convolve(x, pyramid.branches())
    leaves = [x, *(branch.atrous_conv.weight for branch in pyramid.branches())]
    for branch, result in zip(pyramid.branches(), found, strict=True):
        torch.testing.assert_close(result, branch.atrous_conv(x))
    expected = torch.cat([branch.atrous_conv(x) for branch in pyramid.branches()], dim=1)
    for ours, plain in zip(
        gradients(torch.cat(found, 1), *leaves), gradients(expected, *leaves), strict=True
    ):
        torch.testing.assert_close(ours, plain)


def test_pyramid_is_the_plain_one() -> None:
    torch.manual_seed(0)
    pyramid = ASPP(6, 5, dropout=0.0).double().train()
    x = torch.randn(3, 6, 14, 14, dtype=torch.float64)
    found = pyramid(x)
    maps = [F.relu(branch.bn(branch.atrous_conv(x))) for branch in pyramid.branches()]
    pooled = F.interpolate(pyramid.global_avg_pool(x), (14, 14), mode="bilinear", align_corners=True)
    expected = F.relu(pyramid.bn1(pyramid.conv1(torch.cat([*maps, pooled], 1))))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("low", "high"),
    [((14, 14), (56, 56)), ((3, 5), (12, 19)), ((1, 1), (6, 4)), ((7, 1), (15, 9)), ((9, 9), (12, 12))],
)
def test_convolution_of_an_upsampled_map(low: tuple[int, int], high: tuple[int, int]) -> None:
    """Both ways through the function: the small products, and the plain one where nothing is gained."""
    torch.manual_seed(0)
    deep = torch.randn(2, 3, *low, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 2, *high, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    found = convolve_upsampled(deep, skip, weight)
    upsampled = F.interpolate(deep, high, mode="bilinear", align_corners=True)
    expected = F.conv2d(torch.cat([upsampled, skip], 1), weight, padding=1)
    torch.testing.assert_close(found, expected)
    leaves = (deep, skip, weight)
    for ours, plain in zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True):
        torch.testing.assert_close(ours, plain)


def test_gate_keeps_the_expectation_in_training() -> None:
    deep, refined = torch.full((1, 64, 50, 50), 2.0), torch.full((1, 64, 50, 50), -1.0)
    gate = StochasticGate(0.3).train()
    torch.manual_seed(0)
    found = gate(deep, refined)
    assert found.mean().item() == pytest.approx(2.0, abs=0.02)
    values, counts = found.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([-1.0, (2 + 0.3) / 0.7]))
    assert counts[0].item() / found.numel() == pytest.approx(0.3, abs=0.005)
    torch.testing.assert_close(gate.eval()(deep, refined), torch.full_like(deep, 0.7 * 2 - 0.3))


@pytest.mark.parametrize("channels_last", [False, True])
def test_draws_have_their_probability_at_every_place(channels_last: bool) -> None:
    """Each of the four numbers in a random word, odd counts, and memory formats."""
    like = torch.empty(3, 5, 181, 77)
    if channels_last:
        like = like.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(3)
    kept = draw_kept(like, 0.7)
    assert kept.shape == like.shape
    assert kept.stride() == like.stride()
    flat = kept.permute(0, 2, 3, 1).reshape(-1) if channels_last else kept.reshape(-1)
    for place in range(4):
        assert flat[place::4].float().mean().item() == pytest.approx(0.7, abs=0.01)
    pairs = (flat[:-1] & flat[1:]).float().mean().item()
    assert pairs == pytest.approx(0.49, abs=0.01)  # neighbours are independent
    torch.manual_seed(3)
    assert torch.equal(draw_kept(like, 0.7), kept)
    assert draw_kept(like, 1.0).all()
    assert not draw_kept(like, 0.0).any()


def test_dropout_scales_what_it_keeps() -> None:
    x = torch.randn(7, 300, requires_grad=True)
    layer = Dropout(0.1)
    torch.manual_seed(0)
    found = layer(x)
    kept = found != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(found[kept], x[kept] / 0.9)
    (slope,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(slope, kept / 0.9)
    assert torch.equal(layer.eval()(x), x)


def test_pooling_is_its_definition() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    masks = logits.softmax(1)
    found = pooled_scores(logits, masks, power=3, floor=0.01)
    for image in range(2):
        for concept in range(3):
            x, m = logits[image, concept + 1], masks[image, concept + 1]
            expected = (x * m).sum() / (1 + m.sum())
            expected += (1 - m.mean()) ** 3 * torch.log(0.01 + m.mean())
            assert found[image, concept].item() == pytest.approx(expected.item())
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    share = foreground_share(masks, labels)
    assert share[0].item() == pytest.approx((masks[0, 1].mean() + masks[0, 3].mean()).item() / 2)
    assert share[1].item() == pytest.approx(masks[1, 2].mean().item())


def test_net_draws_by_torch_s_generator_alone() -> None:
    net = slim_net().train()
    torch.manual_seed(5)
    first = net(images()).scores
    second = net(images()).scores
    torch.manual_seed(5)
    assert torch.equal(net(images()).scores, first)
    assert not torch.equal(second, first)


def test_injected_cues_are_the_released_ones() -> None:
    torch.manual_seed(0)
    module = GlobalCueInjection(3, 4).double().train()
    shallow, deep = (
        torch.randn(2, channels, 5, 6, dtype=torch.float64, requires_grad=True) for channels in (3, 4)
    )
    found = module(shallow, deep)
    scale, shift = module.fc_deep(deep).amax((2, 3), keepdim=True).chunk(2, dim=1)
    expected = module.fc_cls(F.relu(module.fc_skip(shallow) * (scale + 1) + shift))
    torch.testing.assert_close(found, expected)
    leaves = (shallow, deep, *module.parameters())
    for ours, plain in zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True):
        torch.testing.assert_close(ours, plain)
