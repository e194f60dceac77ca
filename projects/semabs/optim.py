"""The optimizer of a run, how many steps it takes, and its learning rate over them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from projects.semabs.lamb import Lamb
from projects.semabs.schedule import Schedule

KINDS = ("lamb", "adamw")


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        steps: of the optimizer, in all.
        epochs: in which they are; the last may be a part of one.
        schedule: steps after which the learning rate's schedule would be over.
    """

    steps: int
    epochs: int
    schedule: int


def length_of(settings: Mapping[str, Any], *, scenes: int, steps_per_epoch: int) -> Length:
    """The length of a run over so many training scenes, from the `optim` section of its settings.

    The released code does not divide its schedule by the number of processes: with `schedule_batch` = 1 scene a
    step, a run of 8 scenes a step uses the first eighth of it.
    """
    steps, epochs = settings["steps"], settings["epochs"]
    if steps is None:
        steps = epochs * steps_per_epoch
    else:
        epochs = math.ceil(steps / steps_per_epoch)
    assumed = settings["schedule_batch"]
    return Length(steps, epochs, steps if assumed is None else epochs * (scenes // assumed))


def build_optimizer(parameters: Iterable[nn.Parameter], settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """LAMB, as released, or AdamW, from the `optim` section of the settings."""
    chosen = {"lr": settings["lr"], "weight_decay": settings["weight_decay"]}
    if settings["kind"] == "lamb":
        return Lamb(parameters, **chosen)
    return torch.optim.AdamW(parameters, **chosen)


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], length: Length, *, done: int = 0
) -> Schedule:
    """The learning rate over the steps, after `done` of them."""
    schedule = Schedule(
        optimizer, kind=settings["schedule"], warmup=settings["warmup"], total=length.schedule
    )
    schedule.load_state_dict({**schedule.state_dict(), "steps": done})
    return schedule
