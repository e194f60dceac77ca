"""Generator, discriminator and frozen image encoder: fast paths against plain ones, sizes, refusals."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from projects.xmrs import discriminator, generator
from projects.xmrs.bench_gan import plain_features, plain_generator
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.generator import Generator
from projects.xmrs.image_encoder import FoodSpaceImageEncoder
from projects.xmrs.upsampling import tiled_conv3x3, upsampled_conv3x3
from shared.errors import InputError

SMALL = {"embed_dim": 12, "width": 4, "noise_dim": 6, "condition_dim": 8}


def gradients(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
    return list(torch.autograd.grad((value * weights).sum(), leaves))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (3, 9), (8, 5)])
def test_enlarging_convolution_equals_enlarging_then_convolving(height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    plain = functional.conv2d(functional.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    found = upsampled_conv3x3(x, weight)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradients(found, x, weight), gradients(plain, x, weight))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 3), (4, 7), (8, 8)])
def test_convolution_of_a_tiled_vector(height: int, width: int) -> None:
    torch.manual_seed(0)
    vector = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    tiled = vector[:, :, None, None].expand(-1, -1, height, width)
    plain = functional.conv2d(tiled, weight, padding=1)
    found = tiled_conv3x3(vector, weight, height, width)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradients(found, vector, weight), gradients(plain, vector, weight))


@pytest.mark.parametrize("side", [16, 64])
def test_generator_equals_its_layers_one_after_the_other(side: int) -> None:
    torch.manual_seed(0)
    fast = Generator(**SMALL, side=side).double()
    plain = copy.deepcopy(fast)
    inputs = [torch.randn(3, size, dtype=torch.float64) for size in (12, 6, 8)]
    found, expected = fast(*inputs), plain_generator(plain, *inputs)
    assert found[0].shape == (3, 3, side, side)
    torch.testing.assert_close(list(found), list(expected))
    for outputs in (found, expected):
        torch.cat(
            [(output * torch.linspace(0, 1, output.shape[-1])).flatten() for output in outputs]
        ).sum().backward()
    for (name, one), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_condition_moves_with_its_draws() -> None:
    torch.manual_seed(0)
    network = Generator(**SMALL, side=16).eval()
    recipes, noise = torch.randn(2, 12), torch.randn(2, 6)
    still, mu, log_variance = network(recipes, noise, torch.zeros(2, 8))
    moved, *_ = network(recipes, noise, torch.ones(2, 8))
    again, *_ = network(recipes, noise, torch.zeros(2, 8))
    assert torch.equal(still, again)
    assert not torch.allclose(still, moved)
    assert still.abs().max() <= 1
    assert mu.shape == log_variance.shape == (2, 8)


@pytest.mark.parametrize("side", [64, 128])
def test_sizes_are_read_off_the_weights(side: int) -> None:
    made = Generator(**SMALL, residual_blocks=3, side=side)
    expected = {**SMALL, "residual_blocks": 3, "side": side}
    assert generator.settings_of(made.state_dict()) == expected
    judge = Discriminator(condition_dim=8, width=3, num_classes=7, side=side)
    assert discriminator.settings_of(judge.state_dict()) == {
        "condition_dim": 8, "width": 3, "num_classes": 7, "side": side,
    }  # fmt: skip


@pytest.mark.parametrize("side", [64, 128])
def test_discriminator_with_and_without_condition(side: int) -> None:
    torch.manual_seed(0)
    judge = Discriminator(condition_dim=8, width=2, num_classes=7, side=side)
    images = torch.randn(3, 3, side, side)
    probability, scores = judge(images, torch.randn(3, 8))
    assert probability.shape == (3,)
    assert scores.shape == (3, 7)
    assert ((probability > 0) & (probability < 1)).all()
    alone, same_scores = judge.eval()(images)
    other, _ = judge(images, torch.randn(3, 8))
    assert not torch.allclose(alone, other)
    torch.testing.assert_close(judge(images, torch.randn(3, 8))[1], same_scores)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Generator(side=96), "side: expected a power of two"),
        (lambda: Generator(side=8), "side: expected a power of two"),
        (lambda: Generator(width=3), "generator.width: expected an even number"),
        (lambda: Discriminator(side=32), "side: expected one of"),
        (lambda: Discriminator(width=0), "discriminator.width"),
    ],
)
def test_impossible_sizes_are_refused(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_frozen_encoder_equals_the_encoder_in_evaluation_mode(backbone: str) -> None:
    torch.manual_seed(0)
    encoder = FoodSpaceImageEncoder(embed_dim=8, head_dim=8, backbone=backbone, width=4)
    for _ in range(3):  # running statistics other than 0 and 1
        encoder(torch.randn(4, 3, 64, 64) * 2 + 1)
    encoder = encoder.double().eval()
    frozen = FrozenEncoder(encoder, 224)
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    found, expected = frozen(images), plain_features(encoder, images)
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        gradients(found, images)[0], gradients(expected.to(found.dtype), images)[0], atol=1e-5, rtol=1e-4
    )
    assert encoder.visionMLP.visionMLP[1].__class__.__name__ == "BatchNorm2d", "the original was changed"
