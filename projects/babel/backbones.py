"""Backbones of the segmentation nets by name: images -> a shallow map (stride 4) and a deep map."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from projects.babel.backbone import Backbone, Layers, Maps
from projects.babel.resnet38 import build_resnet38
from projects.babel.vgg16 import build_vgg16
from shared.errors import InputError

RESNETS = ("resnet18", "resnet50", "resnet101")
NAMES = (*RESNETS, "resnet38", "vgg16")


def build_backbone(name: str, *, width: int = 64, output_stride: int | None = None) -> Backbone:
    """A backbone with drawn weights.

    Args:
        name: one of NAMES.
        width: channels of a ResNet's stem; 64 everywhere but in the slim nets of the embedded data.
        output_stride: 32, 16 or 8 for ResNets (layer4, layers 3 and 4 without stride; no dilation); None: 16,
            or 8 for VGG16 and ResNet38, which know no other.

    Raises:
        InputError: an unknown name, or a stride or width that it does not have.
    """
    if name in RESNETS:
        return _resnet(name, width, 16 if output_stride is None else output_stride)
    if name not in NAMES:
        raise InputError(f"model.backbone: expected one of {', '.join(NAMES)}, found {name!r}")
    if output_stride not in (None, 8) or width != 64:
        raise InputError(f"model.backbone {name}: expected output_stride 8 or null and width 64")
    if name == "vgg16":
        return build_vgg16()
    return build_resnet38()


def _resnet(name: str, width: int, output_stride: int) -> Backbone:
    """ResNet (strides on the 3x3 convolutions), layer4 with stride 1 as released: output stride 16."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    strides = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1), 8: (1, 2, 1, 1)}
    if output_stride not in strides:
        raise InputError(f"model.output_stride: expected 8, 16 or 32, found {output_stride}")
    if width < 1:
        raise InputError(f"model.width: expected a positive number of channels, found {width}")
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock if name == "resnet18" else Bottleneck
    blocks = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}[name]
    if block is Bottleneck and width != 64:
        raise InputError(f"model.width: only resnet18 has other widths than 64, found {width} for {name}")
    layers: Layers = {
        "conv1": nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(width),
    }
    channels = width
    for index, (count, stride) in enumerate(zip(blocks, strides[output_stride], strict=True)):
        layers[f"layer{index + 1}"] = _stage(block, channels, width << index, count, stride)
        channels = (width << index) * block.expansion
    _initialize(layers)
    frozen = ("conv1", "bn1") if name == "resnet101" else ()
    return Backbone(layers, _encode_resnet, width * block.expansion, channels, frozen)


def _stage(block: Callable[..., nn.Module], inputs: int, planes: int, count: int, stride: int) -> nn.Module:
    outputs = planes * block.expansion  # type: ignore[attr-defined]
    shortcut = None
    if stride != 1 or inputs != outputs:
        convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(count - 1)))


def _encode_resnet(net: nn.Module, images: Tensor) -> Maps:
    layer = partial(nn.Module.get_submodule, net)
    stem = nn.functional.relu(layer("bn1")(layer("conv1")(images)), inplace=True)
    shallow = layer("layer1")(nn.functional.max_pool2d(stem, 3, stride=2, padding=1))
    return Maps(shallow, layer("layer4")(layer("layer3")(layer("layer2")(shallow))))


def _initialize(layers: Layers) -> None:
    """He's initialisation by the number of outputs, as torchvision's ResNets start."""
    for layer in layers.values():
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
