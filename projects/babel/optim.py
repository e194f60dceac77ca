"""Parameter groups as released, and their optimisers."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from projects.babel.outputs import Net
from projects.babel.schedule import learning_rate
from shared.errors import InputError

KINDS = ("SGD", "Adam")
NEW_FACTOR = 10.0  # layers without pretrained weights learn faster


def parameter_groups(model: Net, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of the trained parameters: pretrained weights, pretrained biases, new weights, new biases.

    Rates are 1, b, 10 and 10 b times `lr`, with b = the model's `bias_rate`; biases do not decay.
    Classifiers (`cls`) have one group. Frozen parameters are left out. A bias is any parameter called "bias".

    Args:
        model: of `model.build_model`.
        lr: base rate.
        weight_decay: L2 penalty, added to the gradient.

    Returns:
        Dictionaries for an optimiser, with "names" of the parameters and "initial_lr".
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not model.pretrained_layers:
        return [_group(trained, lr, weight_decay)]
    groups = []
    for new in (False, True):
        for bias in (False, True):
            members = [
                (name, parameter)
                for name, parameter in trained
                if (name.split(".", 1)[0] not in model.pretrained_layers) == new and _is_bias(name) == bias
            ]
            factor = (NEW_FACTOR if new else 1.0) * (model.bias_rate if bias else 1.0)
            groups.append(_group(members, lr * factor, 0.0 if bias else weight_decay))
    return groups


def build_optimizer(
    model: Net,
    *,
    kind: str = "Adam",
    lr: float = 5e-4,
    weight_decay: float = 5e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """SGD or Adam (eps 1e-8) over the groups of `parameter_groups`.

    Args:
        model: of `model.build_model`.
        kind: "SGD" or "Adam".
        lr: base rate of the groups.
        weight_decay: L2 penalty of weights.
        betas: of Adam.
        momentum: of SGD.
        fused: one pass over the numbers of a parameter, the same results up to rounding; default: where the
            parameters' device has it.

    Raises:
        InputError: unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"optim.kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    groups = parameter_groups(model, lr=lr, weight_decay=weight_decay)
    if fused is None:
        fused = _can_fuse(parameter for group in groups for parameter in group["params"])
    if kind == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    return torch.optim.Adam(
        groups,
        lr=lr,
        betas=(float(betas[0]), float(betas[1])),
        eps=1e-8,
        weight_decay=weight_decay,
        fused=fused,
    )


def set_learning_rates(
    optimizer: torch.optim.Optimizer, milestones: Collection[int], epoch: int
) -> list[float]:
    """Give each group its rate of this epoch (`schedule.learning_rate` of its "initial_lr"); returns the rates."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["initial_lr"], milestones, epoch)
    return [group["lr"] for group in optimizer.param_groups]


def _group(members: list[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> dict[str, Any]:
    return {
        "params": [parameter for _, parameter in members],
        "names": [name for name, _ in members],
        "lr": lr,
        "initial_lr": lr,
        "weight_decay": weight_decay,
    }


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1] == "bias"


def _can_fuse(parameters: Iterable[torch.Tensor]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
