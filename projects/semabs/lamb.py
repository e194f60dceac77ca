"""LAMB, the optimizer of the released recipe: Adam without bias correction, scaled for each tensor by a trust ratio."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

LARGEST_NORM = 10.0


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; u = m / (sqrt(v) + eps) + weight_decay p;
    p -= lr * clamp(|p|, 0, 10) / |u| * u for each tensor p, the ratio being 1 where either norm is 0.

    Args:
        params: parameters or groups of them.
        lr: base rate.
        betas: b1, b2.
        eps: beside the root of v.
        weight_decay: of all parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with the gradients that are there; parameters without one stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step(params, group)
        return loss

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        grads = [p.grad for p in params if p.grad is not None]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - second)
        updates = torch._foreach_sqrt(squares)
        torch._foreach_add_(updates, group["eps"])
        updates = torch._foreach_div(means, updates)
        if group["weight_decay"]:
            torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        ratios = trust_ratios(params, updates) * group["lr"]
        torch._foreach_mul_(updates, list(ratios.unbind()))
        torch._foreach_sub_(params, updates)


def trust_ratios(params: Sequence[Tensor], updates: Sequence[Tensor]) -> Tensor:
    """clamp(|p|, 0, 10) / |u| of each pair; 1 where either norm is 0."""
    norms = torch.stack(torch._foreach_norm(list(params))).clamp(max=LARGEST_NORM)
    lengths = torch.stack(torch._foreach_norm(list(updates)))
    return torch.where((norms > 0) & (lengths > 0), norms / lengths, 1.0)
