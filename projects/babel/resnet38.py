"""Wide ResNet38 with pre-activations: shallow = b3_2 (stride 4), deep = relu(bn7) (4096 channels, stride 8)."""

import torch.nn.functional as F
from torch import Tensor, nn

from projects.babel.backbone import Backbone, Layers, Maps

LAST_SHALLOW = "b3_2"
FROZEN = ("conv1a", "b2", "b2_1", "b2_2")


def _norm_relu(norm: nn.Module, x: Tensor) -> Tensor:
    return F.relu(norm(x), inplace=True)


class WideBlock(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))); a 1x1 convolution of relu(bn(x)) is the shortcut where sizes change."""

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        *,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(
            inputs, middle, 3, stride=stride, padding=first_dilation, dilation=first_dilation, bias=False
        )
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv_branch1: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h/stride, w/stride]."""
        active = _norm_relu(self.bn_branch2a, x)
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(active)
        inner = _norm_relu(self.bn_branch2b1, self.conv_branch2a(active))
        return shortcut + self.conv_branch2b1(inner)


class WideBottleneck(nn.Module):
    """The 1x1, 3x3, 1x1 blocks b6 and b7: quarter and half of the outputs inside, dropout before the last two."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, outputs // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(
            outputs // 4, outputs // 2, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h, w]."""
        active = _norm_relu(self.bn_branch2a, x)
        shortcut: Tensor = self.conv_branch1(active)
        inner = self.dropout_2b1(_norm_relu(self.bn_branch2b1, self.conv_branch2a(active)))
        inner = self.dropout_2b2(_norm_relu(self.bn_branch2b2, self.conv_branch2b1(inner)))
        return shortcut + self.conv_branch2b2(inner)


def build_resnet38() -> Backbone:
    """The released wide ResNet38: [B, 3, H, W] -> [B, 256, H/4, W/4], [B, 4096, H/8, W/8]; FROZEN layers."""
    layers: Layers = {"conv1a": nn.Conv2d(3, 64, 3, padding=1, bias=False)}
    for name, inputs, outputs, count in (("b2", 64, 128, 3), ("b3", 128, 256, 3), ("b4", 256, 512, 6)):
        layers[name] = WideBlock(inputs, outputs, outputs, stride=2)
        for index in range(1, count):
            layers[f"{name}_{index}"] = WideBlock(outputs, outputs, outputs)
    layers["b5"] = WideBlock(512, 512, 1024, dilation=2)
    for index in (1, 2):
        layers[f"b5_{index}"] = WideBlock(1024, 512, 1024, first_dilation=2, dilation=2)
    layers["b6"] = WideBottleneck(1024, 2048, dilation=4, dropout=0.3)
    layers["b7"] = WideBottleneck(2048, 4096, dilation=4, dropout=0.5)
    layers["bn7"] = nn.BatchNorm2d(4096)
    names = [name for name in layers if name.startswith("b") and name != "bn7"]

    def encode(net: nn.Module, images: Tensor) -> Maps:
        x = net.get_submodule("conv1a")(images)
        shallow = x
        for name in names:
            x = net.get_submodule(name)(x)
            if name == LAST_SHALLOW:
                shallow = x
        return Maps(shallow, _norm_relu(net.get_submodule("bn7"), x))

    return Backbone(layers, encode, 256, 4096, FROZEN, bias_rate=2)
