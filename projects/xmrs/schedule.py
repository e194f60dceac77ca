"""Learning rates of a whole run and its optimizer, from the `optim` section of its settings."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from projects.xmrs import optim
from shared.errors import InputError

RATES = (
    "learning_rate",
    "warmup",
    "decay_lr",
    "free_vision",
    "free_heads",
    "free_word_embeddings",
    "free_text",
    "train_word_embeddings",
)


def planned_rates(settings: Mapping[str, Any]) -> list[list[float]]:
    """The rates of heads, vision, word embeddings and text in each epoch, from the `optim` section.

    A function of the epoch alone: a resumed run is where it would have been.
    """
    chosen = {name: settings[name] for name in RATES}
    return [optim.learning_rates(epoch, **chosen) for epoch in range(settings["epochs"])]


def build_optimizer(
    model: nn.Module, settings: Mapping[str, Any], rates: Sequence[Sequence[float]]
) -> torch.optim.Optimizer:
    """Adam over the four groups. A group whose rate is 0 in all epochs takes no gradients: equal, and less work.

    Args:
        model: its word table compact or not.
        settings: the `optim` section.
        rates: of every epoch.

    Raises:
        InputError: nothing would train; weight decay with a compact word table.
    """
    chosen = {name: settings[name] for name in ("learning_rate", "weight_decay")}
    optimizer = optim.build_optimizer(model, **chosen)
    optim.stop_useless_gradients(optimizer, rates)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("optim: every learning rate is 0 in every epoch: nothing would train")
    return optimizer
