"""Parameter groups, learning-rate schedule, stages of freezing and loss modes (spec section 7, quirks 4-6).

All of it is a function of the epoch, so a resumed run continues where it would have been (spec quirk 12).
`epoch` is an index from 0 and may be fractional (steps done / steps per epoch) for schedules in parts of
epochs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from projects.vseinfty.image_encoders import GridEncoder
from projects.vseinfty.model import VSEModel
from projects.vseinfty.text_encoders import BertEncoder
from shared.errors import InputError

BERT_LR_FACTOR = 0.1
LR_DECAY = 0.1
WEIGHT_DECAY = 1e-4
WEIGHT_DECAY_REGIONS_BIGRU = 0.01  # torch's default, which the released BiGRU branch never overrode (quirk 6)
STAGES_BY_PHASE = (
    (),
    ("layer4",),
    ("layer4", "layer3"),
    ("layer4", "layer3", "layer2"),
    ("layer4", "layer3", "layer2", "layer1", "stem"),
)


@dataclass(frozen=True)
class _Group:
    name: str
    parameters: list[nn.Parameter]
    lr_factor: float
    weight_decay: float


def build_optimizer(
    model: VSEModel,
    *,
    name: str = "adam",
    learning_rate: float,
    weight_decay: float | None = None,
    backbone_lr_factor: float = 0.01,
    gpo_lr_factor: float = 1.0,
    fused: bool = True,
) -> torch.optim.Optimizer:
    """AdamW ("adam") or SGD ("sgd") over the released parameter groups; each group has a "name".

    Args:
        model: its parameters, frozen ones too (they have no gradient until `freeze_stages` lets them train).
        name: adam or sgd (momentum 0.9; Nesterov with a CNN).
        learning_rate: base rate; BERT gets 0.1 of it, the CNN `backbone_lr_factor`.
        weight_decay: of every group; None for the released values (1e-4; regions + BiGRU 0.01; SGD: the
            CNN's).
        backbone_lr_factor: see learning_rate.
        gpo_lr_factor: not in the release: rate of the two pooling operators, in groups of their own unless 1.
        fused: one kernel for all parameters.

    Raises:
        InputError: an unknown name.
    """
    if name not in ("adam", "sgd"):
        raise InputError(f"optim.name: expected adam or sgd, found {name!r}")
    groups = (
        _adam_groups(model, backbone_lr_factor) if name == "adam" else _sgd_groups(model, backbone_lr_factor)
    )
    if gpo_lr_factor != 1.0:
        groups = _split_pooling(model, groups, gpo_lr_factor)
    settings = [
        {
            "params": group.parameters,
            "name": group.name,
            "lr": learning_rate * group.lr_factor,
            "initial_lr": learning_rate * group.lr_factor,
            "weight_decay": group.weight_decay if weight_decay is None else weight_decay,
        }
        for group in groups
    ]
    if name == "adam":
        return torch.optim.AdamW(settings, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=fused)
    nesterov = isinstance(model.img_enc, GridEncoder)
    return torch.optim.SGD(settings, lr=learning_rate, momentum=0.9, nesterov=nesterov, fused=fused)


def _adam_groups(model: VSEModel, backbone_lr_factor: float) -> list[_Group]:
    images, captions = model.img_enc, model.txt_enc
    has_bert, has_cnn = isinstance(captions, BertEncoder), isinstance(images, GridEncoder)
    if not has_bert and not has_cnn:
        return [
            _Group("all", [*captions.parameters(), *images.parameters()], 1.0, WEIGHT_DECAY_REGIONS_BIGRU)
        ]
    groups = []
    if isinstance(captions, BertEncoder):
        bert = list(captions.bert.parameters())
        groups.append(_Group("text", _without(captions.parameters(), bert), 1.0, WEIGHT_DECAY))
        groups.append(_Group("bert", bert, BERT_LR_FACTOR, WEIGHT_DECAY))
    else:
        groups.append(_Group("text", list(captions.parameters()), 1.0, WEIGHT_DECAY))
    if isinstance(images, GridEncoder):
        cnn = images.backbone
        groups.append(_Group("cnn_top", list(cnn.top.parameters()), backbone_lr_factor, WEIGHT_DECAY))
        groups.append(_Group("cnn_base", list(cnn.base.parameters()), backbone_lr_factor, WEIGHT_DECAY))
        groups.append(_Group("image", list(images.image_encoder.parameters()), 1.0, WEIGHT_DECAY))
    else:
        groups.append(_Group("image", list(images.parameters()), 1.0, WEIGHT_DECAY))
    return groups


def _sgd_groups(model: VSEModel, backbone_lr_factor: float) -> list[_Group]:
    images, captions = model.img_enc, model.txt_enc
    if not isinstance(images, GridEncoder):
        return [_Group("all", [*captions.parameters(), *images.parameters()], 1.0, 0.0)]
    return [
        _Group("text", list(captions.parameters()), 1.0, 0.0),
        _Group("cnn", list(images.backbone.parameters()), backbone_lr_factor, WEIGHT_DECAY),
        _Group("image", list(images.image_encoder.parameters()), 1.0, 0.0),
    ]


def _split_pooling(model: VSEModel, groups: list[_Group], factor: float) -> list[_Group]:
    """Move the pooling operators' parameters into groups of their own, placed at the end."""
    pooling = [p for name, p in model.named_parameters() if ".gpool." in name]
    rest = [_Group(g.name, _without(g.parameters, pooling), g.lr_factor, g.weight_decay) for g in groups]
    moved = [
        _Group(f"{g.name}_pooling", own, g.lr_factor * factor, g.weight_decay)
        for g in groups
        if (own := _without(g.parameters, _without(g.parameters, pooling)))
    ]
    return [g for g in rest if g.parameters] + moved


def _without(parameters: Iterable[nn.Parameter], left_out: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    ids = {id(p) for p in left_out}
    return [p for p in parameters if id(p) not in ids]


def learning_rates(epoch: float, initial: Sequence[float], lr_update: float) -> list[float]:
    """Rate of each group: its initial one, times 0.1 from epoch `lr_update` on."""
    return [rate * (LR_DECAY if epoch >= lr_update else 1.0) for rate in initial]


def set_learning_rates(optimizer: torch.optim.Optimizer, epoch: float, lr_update: float) -> None:
    """Give each group the rate that `learning_rates` says."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group, rate in zip(
        groups, learning_rates(epoch, [g["initial_lr"] for g in groups], lr_update), strict=True
    ):
        group["lr"] = rate


def trainable_stages(
    epoch: float, embedding_warmup_epochs: int, backbone_warmup_epochs: int
) -> tuple[str, ...]:
    """CNN stages that train: none while the embedding warms up, then from layer4 down, one after another."""
    if epoch < embedding_warmup_epochs:
        return STAGES_BY_PHASE[0]
    for phase in (1, 2, 3):
        if epoch < embedding_warmup_epochs + phase * backbone_warmup_epochs:
            return STAGES_BY_PHASE[phase]
    return STAGES_BY_PHASE[4]


def freeze_stages(
    model: VSEModel, epoch: float, embedding_warmup_epochs: int, backbone_warmup_epochs: int
) -> None:
    """Set which CNN stages train in this epoch; nothing to do for region models."""
    if isinstance(model.img_enc, GridEncoder):
        stages = trainable_stages(epoch, embedding_warmup_epochs, backbone_warmup_epochs)
        model.img_enc.backbone.set_trainable(stages)


def uses_hardest(epoch: float, max_violation: bool, vse_mean_warmup_epochs: float) -> bool:
    """Whether the loss takes hardest negatives: always with `max_violation`, else after the warm-up."""
    return max_violation or epoch >= vse_mean_warmup_epochs


def loss_scale(
    model: VSEModel,
    epoch: int,
    step_in_epoch: int,
    *,
    num_items: int,
    batch_size: int,
    embedding_warmup_epochs: int,
) -> float:
    """Factor of the loss: i / (num_items // batch_size + 1) in the CNN's first epoch, else 1 (quirk 4)."""
    if not isinstance(model.img_enc, GridEncoder) or epoch != embedding_warmup_epochs:
        return 1.0
    return step_in_epoch / (num_items // batch_size + 1)
