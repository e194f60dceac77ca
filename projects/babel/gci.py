"""Global cue injection: the image's deep cues scale and shift the shallow features."""

import torch.nn.functional as F
from torch import Tensor, nn


class GlobalCueInjection(nn.Module):
    """γ, β = max over pixels of relu(bn(conv(deep))); result relu(bn(conv(relu(shallow' (γ + 1) + β)))).

    Args:
        shallow: channels of the shallow map.
        width: channels of the deep map and of the result.
    """

    def __init__(self, shallow: int = 256, width: int = 256) -> None:
        super().__init__()
        self.fc_deep = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.fc_skip = nn.Sequential(
            nn.Conv2d(shallow, width, 1, bias=False), nn.BatchNorm2d(width, affine=False)
        )
        self.fc_cls = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        """shallow [B, S, h, w], deep [B, D, h, w] -> [B, D, h, w]."""
        cues = F.adaptive_max_pool2d(self.fc_deep[:2](deep), 1)
        scale, shift = self.fc_deep[2](cues).chunk(2, dim=1)  # ReLU after the maximum: the same, on one pixel
        injected = F.relu(self.fc_skip(shallow) * (scale + 1) + shift)
        refined: Tensor = self.fc_cls(injected)
        return refined
