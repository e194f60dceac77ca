"""Backbones: strides, channels, frozen layers, initial weights."""

import pytest
import torch

from projects.babel.backbones import build_backbone
from projects.babel.model import build_model
from projects.babel.outputs import Segmenter
from shared.errors import InputError
from tests.babel.slim import images, slim_net


@pytest.mark.parametrize(
    ("name", "settings", "shallow", "deep", "stride"),
    [
        ("resnet50", {}, 256, 2048, 16),
        ("resnet50", {"output_stride": 8}, 256, 2048, 8),
        ("resnet18", {"width": 16, "output_stride": 32}, 16, 128, 32),
        ("resnet38", {}, 256, 4096, 8),
        ("vgg16", {}, 256, 1024, 8),
    ],
)
def test_channels_and_strides(name: str, settings: dict, shallow: int, deep: int, stride: int) -> None:
    with torch.device("meta"):  # shapes without numbers
        net = build_model(kind="bsl", backbone=name, **settings)
        assert isinstance(net, Segmenter)
        maps = net.eval().encode(torch.empty(1, 3, 64, 96))
    assert maps.shallow.shape == (1, shallow, 16, 24)
    assert maps.deep.shape == (1, deep, 64 // stride, 96 // stride)
    found = build_backbone(name, **settings) if name == "resnet18" else None
    assert found is None or (found.shallow, found.deep) == (shallow, deep)


@pytest.mark.parametrize(
    ("name", "frozen", "rate"),
    [
        ("resnet50", (), 1),
        ("resnet101", ("conv1", "bn1"), 1),
        ("vgg16", ("conv1_1", "conv1_2"), 2),
        ("resnet38", ("conv1a", "b2", "b2_1", "b2_2"), 2),
    ],
)
def test_frozen_layers(name: str, frozen: tuple[str, ...], rate: int) -> None:
    with torch.device("meta"):
        net = build_model(backbone=name)
    assert (net.frozen_layers, net.bias_rate) == (frozen, rate)
    still = {key.split(".")[0] for key, p in net.named_parameters() if not p.requires_grad}
    assert still == set(frozen)
    net.train()
    for layer, module in net.named_children():
        assert all(part.training == (layer not in frozen) for part in module.modules()), layer


def test_initial_weights_are_he_s() -> None:
    backbone = build_backbone("resnet18", width=32)
    weight = backbone.layers["layer4"][1].conv2.weight  # type: ignore[index, union-attr]
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)


def test_new_layers_are_those_of_the_head() -> None:
    net = slim_net()
    new = [name for name, _ in net.named_children() if name not in net.pretrained_layers]
    expected = ["aspp", "_aff", "shallow_mask", "fc8_skip", "fc8_x", "gate", "decoder", "last_conv"]
    assert new == expected
    assert net(images(height=64, width=64), layers=["conv3"]).features["conv3"].shape == (2, 4, 16, 16)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"backbone": "resnet7"}, "model.backbone: expected one of resnet18"),
        ({"backbone": "resnet18", "output_stride": 4}, "output_stride: expected 8, 16 or 32, found 4"),
        ({"backbone": "resnet50", "width": 32}, "only resnet18 has other widths"),
        ({"backbone": "vgg16", "output_stride": 16}, "vgg16: expected output_stride 8"),
        ({"backbone": "resnet18", "width": 0}, "model.width: expected a positive"),
        ({"kind": "unet"}, "model.kind: expected one of ae, bsl, cls, found 'unet'"),
        ({"kind": "cls", "backbone": "vgg16"}, "for kind cls, found 'vgg16'"),
        ({"backbone": "resnet18", "concepts": 0}, "expected at least one concept"),
    ],
)
def test_settings_that_do_not_exist(settings: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build_model(**settings)
