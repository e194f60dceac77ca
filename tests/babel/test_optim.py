"""Parameter groups, learning rates, optimisers."""

import copy
from typing import Any

import pytest
import torch

from projects.babel import optim
from projects.babel.model import Net, build_model
from projects.babel.schedule import learning_rate
from shared.errors import InputError

SLIM: dict[str, Any] = {"backbone": "resnet18", "width": 8, "head_width": 8, "skip_width": 4, "concepts": 3}


def slim(kind: str = "ae") -> Net:
    return build_model(kind=kind, **SLIM)


@pytest.mark.parametrize("kind", ["ae", "bsl"])
def test_each_trained_parameter_is_in_one_group(kind: str) -> None:
    model = slim(kind)
    model.get_submodule("conv1").requires_grad_(False)
    groups = optim.parameter_groups(model, lr=1e-3, weight_decay=0.1)
    grouped = [name for group in groups for name in group["names"]]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trained
    assert "conv1.weight" not in grouped
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-3, 1e-2, 1e-2])
    assert [group["weight_decay"] for group in groups] == [0.1, 0, 0.1, 0]
    parameters = dict(model.named_parameters())
    for position, group in enumerate(groups):
        assert all(p is parameters[name] for name, p in zip(group["names"], group["params"], strict=True))
        assert all(name.endswith(".bias") == (position % 2 == 1) for name in group["names"])
        is_backbone = [
            name.split(".")[0] in ("bn1", "layer1", "layer2", "layer3", "layer4") for name in group["names"]
        ]
        assert all(inside == (position < 2) for inside in is_backbone)


def test_biases_of_nets_without_batch_norm_in_torchvisions_way_learn_twice_as_fast() -> None:
    with torch.device("meta"):
        model = build_model(backbone="vgg16")
    rates = [group["lr"] for group in optim.parameter_groups(model, lr=1e-3, weight_decay=0)]
    assert rates == pytest.approx([1e-3, 2e-3, 1e-2, 2e-2])


def test_a_classifier_has_one_group() -> None:
    with torch.device("meta"):
        model = build_model(kind="cls", backbone="resnet18", concepts=4)
    groups = optim.parameter_groups(model, lr=1e-3, weight_decay=0.1)
    assert len(groups) == 1
    assert groups[0]["names"] == [name for name, _ in model.named_parameters()]
    assert (groups[0]["lr"], groups[0]["weight_decay"]) == (1e-3, 0.1)


def test_rates_fall_at_the_milestones() -> None:
    rates = [learning_rate(0.5, (3, 5), epoch) for epoch in range(7)]
    assert rates == pytest.approx([0.5, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    optimizer = optim.build_optimizer(slim(), lr=0.5)
    assert optim.set_learning_rates(optimizer, (3, 5), 4) == pytest.approx([0.05, 0.05, 0.5, 0.5])
    assert optim.set_learning_rates(optimizer, (3, 5), 0) == pytest.approx([0.5, 0.5, 5, 5])  # not cumulative


def test_adam_and_sgd_move_weights_by_rate_and_decay() -> None:
    """One step of each from a gradient of zero for weights: only the decay moves them."""
    for kind in optim.KINDS:
        model = slim()
        before = copy.deepcopy(model)
        optimizer = optim.build_optimizer(model, kind=kind, lr=0.01, weight_decay=0.5)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        old, new = before.get_parameter("layer1.0.conv1.weight"), model.get_parameter("layer1.0.conv1.weight")
        if kind == "SGD":
            torch.testing.assert_close(new, old * (1 - 0.01 * 0.5))
        else:  # Adam's first step is the rate, against the sign of the gradient
            torch.testing.assert_close(new, old - 0.01 * old.sign(), atol=1e-5, rtol=1e-4)
        assert torch.equal(model.get_parameter("bn1.bias"), before.get_parameter("bn1.bias"))


def test_the_fused_step_is_the_plain_one_and_its_state_can_be_loaded() -> None:
    models = [slim()]
    models.append(copy.deepcopy(models[0]))
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(p.shape, generator=generator) for p in models[0].parameters()]
    optimizers = [
        optim.build_optimizer(model, betas=(0.5, 0.9), fused=fused)
        for model, fused in zip(models, (None, False), strict=True)
    ]
    for _ in range(2):
        for model, optimizer in zip(models, optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        optimizers[1].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    assert optimizers[1].param_groups[0]["names"][0] == "conv1.weight"


def test_an_unknown_optimiser_is_said() -> None:
    with pytest.raises(InputError, match=r"optim\.kind: expected one of SGD, Adam, found 'AdamW'"):
        optim.build_optimizer(slim(), kind="AdamW")
