"""What a backbone is: layers by their released names, and how images run through them.

A backbone is no module: its layers lie flat in the net beside those of the head, as in the released checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

Layers = dict[str, nn.Module]


class Maps(NamedTuple):
    """shallow [B, S, H/4, W/4] ("conv3"), deep [B, D, H/s, W/s] ("backbone")."""

    shallow: Tensor
    deep: Tensor


@dataclass(frozen=True)
class Backbone:
    """A backbone's layers and graph.

    Attributes:
        layers: its modules by released name, in the released order.
        encode: (net, images [B, 3, H, W]) -> Maps, through the layers of that name in `net`.
        shallow, deep: channels of the two maps.
        frozen: layers whose parameters and statistics stay as they were loaded.
        bias_rate: learning rate of its biases, and of the head's, in units of the weights' (released: 2 for
            VGG16 and ResNet38).
    """

    layers: Layers
    encode: Callable[[nn.Module, Tensor], Maps]
    shallow: int
    deep: int
    frozen: tuple[str, ...] = ()
    bias_rate: int = 1
