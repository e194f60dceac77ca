"""Image branch: a ResNet without its classifier and the head that leads to the shared alignment layer.

Keys as released: `visionMLP.visionMLP.{0,1,4,5,6,7}` = stem convolution, its norm, layer1-4 of torchvision's
ResNet.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import InputError

# residual blocks in each of the four stages, and whether they are bottlenecks
BACKBONES = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
TORCHVISION_NAMES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


class ImageBackbone(nn.Module):
    """ResNet up to its average pooling: [B, 3, S, S] -> [B, dim]; `width` channels after the stem (64 = ResNet).

    Attributes:
        dim: numbers per image: 8 * width, four times that with bottlenecks (2048 for ResNet-50).
    """

    def __init__(self, *, backbone: str = "resnet50", width: int = 64) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise InputError(
                f"model.image.backbone: expected one of {', '.join(BACKBONES)}, found {backbone!r}"
            )
        blocks, is_bottleneck = BACKBONES[backbone]
        self.backbone, self.width = backbone, width
        self.visionMLP = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = width
        for stage, count in enumerate(blocks):
            layer, channels = _stage(channels, width << stage, count, 1 if stage == 0 else 2, is_bottleneck)
            self.visionMLP.append(layer)
        self.visionMLP.append(nn.AdaptiveAvgPool2d(1))
        self.dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> [B, dim]."""
        pooled: Tensor = self.visionMLP(images.contiguous(memory_format=self._memory_format(images)))
        return pooled.flatten(1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps [B, C, H, W] after each of the four stages."""
        x, found = images.contiguous(memory_format=self._memory_format(images)), []
        for position, layer in enumerate(self.visionMLP[:8]):
            x = layer(x)
            if position >= 4:
                found.append(x)
        return found

    def _memory_format(self, images: Tensor) -> torch.memory_format:
        """Channels last, except for float32 training on a CPU: its batch norm there loses two digits."""
        is_reduced = torch.is_autocast_enabled(images.device.type)
        if self.training and not is_reduced and not images.is_cuda:
            return torch.contiguous_format
        return torch.channels_last


def _stage(
    channels: int, planes: int, count: int, stride: int, is_bottleneck: bool
) -> tuple[nn.Sequential, int]:
    """torchvision's stage of residual blocks and its number of output channels."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    block = Bottleneck if is_bottleneck else BasicBlock
    out = planes * block.expansion
    shortcut: nn.Module | None = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
    blocks = [block(channels, planes, stride, shortcut), *(block(out, planes) for _ in range(count - 1))]
    return nn.Sequential(*blocks), out


def embedding_head(dim: int, head_dim: int) -> nn.Sequential:
    """Batch norm -> linear -> tanh, [B, dim] -> [B, head_dim] (`visual_embedding`, `recipe_embedding`)."""
    return nn.Sequential(nn.BatchNorm1d(dim), nn.Linear(dim, head_dim), nn.Tanh())


def alignment_head(embed_dim: int) -> nn.Sequential:
    """Batch norm -> tanh after the shared layer, [B, D] -> [B, D] (`align_img`, `align_rec`)."""
    return nn.Sequential(nn.BatchNorm1d(embed_dim), nn.Tanh())


def to_sphere(x: Tensor) -> Tensor:
    """x / max(||x||, 1e-12) over the last axis, in float32 also under autocast."""
    return nn.functional.normalize(x.float(), dim=-1, eps=1e-12)


class FoodSpaceImageEncoder(nn.Module):
    """The image branch alone, under the names it has in FoodSpaceNet; this is what the synthesis stage uses."""

    def __init__(
        self, *, embed_dim: int = 1024, head_dim: int = 1024, backbone: str = "resnet50", width: int = 64
    ) -> None:
        super().__init__()
        self.visionMLP = ImageBackbone(backbone=backbone, width=width)
        self.visual_embedding = embedding_head(self.visionMLP.dim, head_dim)
        self.align_img = alignment_head(embed_dim)
        self.align = nn.Sequential(nn.Linear(head_dim, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> unit vectors [B, D]."""
        return to_sphere(self.align_img(self.align(self.visual_embedding(self.visionMLP(images)))))


def load_pretrained(backbone: ImageBackbone, weights: str | Path | None = None) -> None:
    """Load ImageNet weights into the backbone.

    Args:
        backbone: of torchvision's width, 64.
        weights: a state dict of torchvision's ResNet or one with our names; None: torchvision's IMAGENET1K_V1
            from torch's hub cache. Nothing is downloaded.

    Raises:
        InputError: no such file, or one that does not fit.
    """
    from shared.checkpoint import load_strictly
    from shared.untrusted import load_checkpoint

    path = _cached_weights(backbone) if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"model.image.weights: no such file {path}")
    content: Any = load_checkpoint(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a state dict of a ResNet, found a {type(content).__name__}")
    state = from_torchvision(content)
    counters = tuple(key for key in backbone.state_dict() if key.endswith("num_batches_tracked"))
    load_strictly(backbone, state, source=str(path), allow_missing=counters)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of torchvision's ResNet -> ours (`visionMLP.0.weight` ...); its classifier is left out."""
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.removeprefix("module.").partition(".")
        if first in TORCHVISION_NAMES:
            renamed[f"visionMLP.{TORCHVISION_NAMES[first]}.{rest}"] = value
        elif first != "fc":
            renamed[key] = value
    return renamed


def _cached_weights(backbone: ImageBackbone) -> Path:
    from torchvision.models import get_model_weights

    if backbone.width != 64:
        raise InputError(
            f"model.image.pretrained: ImageNet weights are for width 64, found width {backbone.width}"
        )
    url: str = get_model_weights(backbone.backbone)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        raise InputError(
            f"model.image.pretrained: no ImageNet weights at {path}; put {url} there, "
            "or name a file (model.image.weights=...)"
        )
    return path
