"""How well the feature of a point answers to a key: one logit for each point."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.semabs.interpolation import at_least_float32
from shared.errors import InputError

METHODS = ("cosine_sim", "dot_product", "additive")
TEMPERATURE = 0.07
EPSILON = 1e-8


class CosinePointing(nn.Module):
    """Cosine of the angle between feature and key, divided by the temperature of 0.07."""

    def forward(self, features: Tensor, key: Tensor) -> Tensor:
        """Features [..., N, D] and keys [..., D] -> logits [..., N]."""
        return F.cosine_similarity(features, key.unsqueeze(-2), dim=-1, eps=EPSILON) / TEMPERATURE

    def of_linear(self, hidden: Tensor, weight: Tensor, bias: Tensor, key: Tensor) -> Tensor:
        """The same of features = hidden @ weight.T + bias, never formed: the product and the norm are a linear
        and a quadratic function of the H hidden numbers of a point.

        hidden [..., N, H], weight [D, H], bias [D], keys [..., D] -> logits [..., N].
        """
        hidden, weight, bias, key = (at_least_float32(x) for x in (hidden, weight, bias, key))
        dot = (hidden @ (key @ weight).unsqueeze(-1)).squeeze(-1) + (key @ bias).unsqueeze(-1)
        square = torch.linalg.vecdot(hidden @ (weight.T @ weight) + 2 * (bias @ weight), hidden) + bias @ bias
        norm = square.clamp(min=EPSILON**2).sqrt()
        return dot / norm / key.norm(dim=-1, keepdim=True).clamp(min=EPSILON) / TEMPERATURE


class DotPointing(nn.Module):
    """Feature times key, divided by the root of their dimension."""

    def forward(self, features: Tensor, key: Tensor) -> Tensor:
        """Features [..., N, D] and keys [..., D] -> logits [..., N]."""
        return (features @ key.unsqueeze(-1)).squeeze(-1) / math.sqrt(key.shape[-1])


class AdditivePointing(nn.Module):
    """A learnt direction v times tanh(feature + key)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pointer_v = nn.Linear(dim, 1, bias=False)

    def forward(self, features: Tensor, key: Tensor) -> Tensor:
        """Features [..., N, D] and keys [..., D] -> logits [..., N]."""
        found: Tensor = self.pointer_v(torch.tanh(features + key.unsqueeze(-2))).squeeze(-1)
        return found


def build_pointing(method: str, dim: int) -> nn.Module:
    """The pointing method of that name for features of `dim` numbers; InputError for an unknown one."""
    if method == "cosine_sim":
        return CosinePointing()
    if method == "dot_product":
        return DotPointing()
    if method == "additive":
        return AdditivePointing(dim)
    raise InputError(f"model.pointing_method: expected one of {', '.join(METHODS)}, found {method!r}")
