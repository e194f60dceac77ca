"""Nets small enough for tests: the released structure and names at a fraction of the width."""

from typing import Any

import torch
from torch import Tensor

from projects.babel.head import SingleStageNet
from projects.babel.model import build_model

SETTINGS: dict[str, Any] = {
    "backbone": "resnet18",
    "concepts": 6,
    "width": 4,
    "output_stride": 8,
    "head_width": 8,
    "skip_width": 4,
    "pamr": {"dilations": [1, 2], "iterations": 2},
}


def slim_net(**changes: Any) -> SingleStageNet:
    torch.manual_seed(0)
    net = build_model(**{**SETTINGS, **changes})
    assert isinstance(net, SingleStageNet)
    return net


def images(count: int = 2, height: int = 32, width: int = 40) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))
