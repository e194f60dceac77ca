"""Learning rate over the steps: the five schedules that the released code offers."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from shared.errors import InputError

KINDS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts")


def learning_rate_factor(kind: str, step: int, *, warmup: int, total: int, cycles: int = 1) -> float:
    """By what the base rate is multiplied at a step.

    Args:
        kind: one of KINDS; all but constant rise linearly from 0 over `warmup` steps. linear then falls to 0 at
            `total`; cosine falls along half a period; cosine_with_restarts along `cycles` of them, and is 0 from
            `total` on.
        step: optimizer steps taken before this one.
        warmup, total: in steps. total = 0: nothing but the warm-up.
        cycles: of cosine_with_restarts.

    Raises:
        InputError: unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"optim.schedule: expected one of {', '.join(KINDS)}, found {kind!r}")
    if kind == "constant":
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if kind == "constant_with_warmup":
        return 1.0
    rest = max(1, total - warmup)
    if kind == "linear":
        return max(0.0, (total - step) / rest)
    done = (step - warmup) / rest
    if kind == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
    return 0.0 if done >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * (cycles * done % 1))))


class Schedule:
    """Sets the rates of an optimizer's groups, and knows where it is: its state goes into checkpoints.

    The released code starts the warm-up anew when a run is resumed; with this state it goes on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, kind: str, warmup: int, total: int) -> None:
        self.optimizer, self.kind, self.warmup, self.total = optimizer, kind, warmup, total
        self.steps = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._set()

    @property
    def factor(self) -> float:
        """Of the next optimizer step."""
        return learning_rate_factor(self.kind, self.steps, warmup=self.warmup, total=self.total)

    def step(self) -> None:
        """An optimizer step has been taken."""
        self.steps += 1
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """What belongs into a checkpoint."""
        return {"kind": self.kind, "steps": self.steps, "warmup": self.warmup, "total": self.total}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a run stopped; ValueError for the state of another schedule."""
        own = self.state_dict()
        for name in ("kind", "warmup", "total"):
            if state_dict[name] != own[name]:
                raise ValueError(f"schedule.{name}: expected {own[name]}, found {state_dict[name]}")
        self.steps = int(state_dict["steps"])
        self._set()

    def _set(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor
