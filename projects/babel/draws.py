"""Random draws of elements that are kept, at a fraction of the time of torch's `bernoulli_` on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # a probability is rounded to 1 / LEVELS
_WORDS = 4  # 16-bit numbers in a random int64


def draw_kept(like: Tensor, probability: float) -> Tensor:
    """Booleans of the shape of `like`, each True with this probability (to 1 / 65536), from torch's generator.

    On a CPU each random 64-bit number serves four elements.
    """
    if like.device.type != "cpu":
        return torch.empty_like(like, dtype=torch.bool).bernoulli_(probability)
    threshold = round(probability * LEVELS)
    if threshold >= LEVELS:
        return torch.ones_like(like, dtype=torch.bool)
    count = like.numel()
    words = torch.empty(-(-count // _WORDS), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[:count] < threshold - LEVELS // 2
    if _is_channels_last(like):  # drawn in the order of the memory
        batch, channels, height, width = like.shape
        return kept.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return kept.view(like.shape)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class Dropout(nn.Dropout):
    """Dropout whose draw is fast on a CPU; elsewhere torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """In training, elements are kept with probability 1 - p and divided by it."""
        if not self.training or self.p in (0.0, 1.0) or input.device.type != "cpu":
            return F.dropout(input, self.p, self.training)
        scale = draw_kept(input, 1 - self.p).to(input.dtype).mul_(1 / (1 - self.p))
        return input * scale
