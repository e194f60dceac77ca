"""CNN backbones of the grid models (spec section 5): [B, 3, H, W] -> grid features [B, G, 2048].

Keys as released: base.{0,1,4,5,6} = stem convolution, its norm, layer1-3; top.0 = layer4; resnet.fc (unused).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import InputError

DIM = 2048
CAFFE_BLOCKS = {
    "detector": (3, 4, 23, 3),
    "imagenet": (3, 4, 23, 3),
    "imagenet_res50": (3, 4, 6, 3),
    "imagenet_res152": (3, 8, 36, 3),
}
RESNEXT_BLOCKS = (3, 4, 23, 3)
SOURCES = (*CAFFE_BLOCKS, "imagenet_resnext", "wsl*")
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


def is_caffe_style(source: str) -> bool:
    """Whether the source's graph strides on the first 1x1 convolution and pools without padding.

    Raises:
        InputError: an unknown source.
    """
    if source in CAFFE_BLOCKS:
        return True
    if source == "imagenet_resnext" or source.startswith("wsl"):
        return False
    raise InputError(f"model.backbone: expected one of {', '.join(SOURCES)}, found {source!r}")


def grid_shape(source: str, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the grid for an image of this size, e.g. (16, 16) for 512 x 512."""
    caffe = is_caffe_style(source)

    def steps(side: int) -> int:
        side = (side - 1) // 2 + 1  # 7x7 / 2, padding 3
        side = -(-(side - 3) // 2) + 1 if caffe else (side - 1) // 2 + 1  # 3x3 / 2 pool, ceil or padded
        for _ in range(3):
            side = (side - 1) // 2 + 1
        return side

    return steps(height), steps(width)


def num_grids(source: str, side: int) -> int:
    """Number of grids of a square image: 64 for 256 px, 256 for 512 px."""
    rows, columns = grid_shape(source, side, side)
    return rows * columns


class Backbone(nn.Module):
    """ResNet without its classifier. Batch norm uses its running statistics; its gains and biases train.

    Stages without a trainable parameter, counted from the stem, run without a graph.
    """

    def __init__(self, source: str, *, blocks: tuple[int, int, int, int] | None = None) -> None:
        super().__init__()
        self.source = source
        network = _resnet(source, blocks)
        self.base = nn.Sequential(
            network.conv1,
            network.bn1,
            network.relu,
            network.maxpool,
            network.layer1,
            network.layer2,
            network.layer3,
        )
        self.top = nn.Sequential(network.layer4)
        self.resnet = nn.ModuleDict({"fc": network.fc})

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, G, 2048], grids in row-major order."""
        x = pixels
        if x.device.type == "cuda":
            x = x.contiguous(memory_format=torch.channels_last)
        for x in self.maps(x):  # noqa: B007, B020 - the last map is what counts
            pass
        return x.flatten(2).transpose(1, 2)

    def maps(self, pixels: Tensor) -> Iterator[Tensor]:
        """The maps after the stem and each of the four stages."""
        x = pixels
        needs_graph = torch.is_grad_enabled() and pixels.requires_grad
        for stage in self.stages().values():
            needs_graph = needs_graph or any(p.requires_grad for p in stage.parameters())
            with torch.set_grad_enabled(torch.is_grad_enabled() and needs_graph):
                x = stage(x)
            yield x

    def stages(self) -> dict[str, nn.Module]:
        """The five stages by name (STAGES), from the stem on."""
        return dict(
            zip(STAGES, [self.base[:4], self.base[4], self.base[5], self.base[6], self.top], strict=True)
        )

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: the norms' statistics are frozen, and nothing else depends on the mode."""
        super().train(False)
        return self

    def set_trainable(self, stages: tuple[str, ...]) -> None:
        """Let exactly these stages train; the unused classifier counts as part of layer4, as released."""
        for name, stage in self.stages().items():
            stage.requires_grad_(name in stages)
        self.resnet.requires_grad_("layer4" in stages)


def _resnet(source: str, blocks: tuple[int, int, int, int] | None) -> Any:
    from torchvision.models.resnet import Bottleneck, ResNet

    if not is_caffe_style(source):
        return ResNet(Bottleneck, list(blocks or RESNEXT_BLOCKS), groups=32, width_per_group=8)
    network = ResNet(Bottleneck, list(blocks or CAFFE_BLOCKS[source]))
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    network.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
    return network


def load_weights(backbone: Backbone, path: Path | str) -> None:
    """Load initial weights: a file of bottom-up attention ({'base', 'top'}), of torchvision or of WSL.

    Raises:
        InputError: no such file, or one that does not fit, naming the keys.
    """
    from shared.checkpoint import load_strictly
    from shared.untrusted import load_checkpoint

    path = Path(path)
    if not path.is_file():
        raise InputError(f"model.backbone_weights: no such file {path}")
    content = load_checkpoint(path)
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise InputError(
            f"{path}: expected a state dict, or a dict of two named base and top; found a {found}"
        )
    if set(content) == {"base", "top"}:
        state = {f"{part}.{key}": value for part in ("base", "top") for key, value in content[part].items()}
    else:
        state = torchvision_to_canonical(content)
    missing = tuple(name for name in backbone.state_dict() if name.endswith("num_batches_tracked"))
    load_strictly(
        backbone, state, source=str(path), allow_missing=(*missing, "resnet.fc.weight", "resnet.fc.bias")
    )


TORCHVISION_NAMES = {
    "conv1": "base.0",
    "bn1": "base.1",
    "layer1": "base.4",
    "layer2": "base.5",
    "layer3": "base.6",
    "layer4": "top.0",
    "fc": "resnet.fc",
}


def torchvision_to_canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's ResNet keys to ours; unknown keys stay (and are reported by the strict load)."""
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.removeprefix("module.").partition(".")
        renamed[f"{TORCHVISION_NAMES[first]}.{rest}" if first in TORCHVISION_NAMES else key] = value
    return renamed
