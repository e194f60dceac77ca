"""The stochastic gate between deep and shallow features."""

import torch
from torch import Tensor, nn

from projects.babel.draws import draw_kept


class StochasticGate(nn.Module):
    """Mixes deep features x1 with shallow-refined ones x2 (both [B, D, h, w]).

    Evaluation: (1 - α) x1 + α x2. Training: element by element, with probability 1 - α the value
    (x1 - α x2) / (1 - α), else x2, whose expectation is x1. The two formulas differ as released.
    """

    def __init__(self, alpha: float = 0.3) -> None:
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"gate_alpha: expected 0 <= alpha < 1, found {alpha}")
        self.alpha = alpha

    def forward(self, deep: Tensor, refined: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep: booleans of the deep maps' shape, True where the first value is taken; None: drawn."""
        if not self.training:
            return torch.lerp(deep, refined, self.alpha)
        if keep is None:
            keep = draw_kept(deep, 1 - self.alpha)
        # x2 + (x1 - x2) / (1 - α) where kept, x2 elsewhere
        return torch.lerp(refined, deep, keep.to(deep.dtype).div_(1 - self.alpha))
