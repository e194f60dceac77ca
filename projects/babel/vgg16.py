"""VGG16 with fc6 and fc7 as convolutions: shallow = conv3_3 (stride 4), deep = fc7 (stride 8)."""

import torch.nn.functional as F
from torch import Tensor, nn

from projects.babel.backbone import Backbone, Layers, Maps

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
STRIDES = (2, 2, 2, 1)  # of the 3x3 pools after the first four stages
LAST_DILATION = 2  # of conv5_*, as pool4 has no stride
HIDDEN = 1024


def build_vgg16() -> Backbone:
    """The released VGG16: [B, 3, H, W] -> [B, 256, H/4, W/4], [B, 1024, H/8, W/8]; conv1_* frozen."""
    layers: Layers = {}
    channels = 3
    for stage, widths in enumerate(STAGES, 1):
        dilation = LAST_DILATION if stage == len(STAGES) else 1
        for index, width in enumerate(widths, 1):
            convolution = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
            layers[f"conv{stage}_{index}"] = convolution
            channels = width
    layers["fc6"] = nn.Conv2d(channels, HIDDEN, 3, padding=1)
    layers["drop6"] = nn.Dropout2d(0.5)
    layers["fc7"] = nn.Conv2d(HIDDEN, HIDDEN, 1)
    return Backbone(layers, _encode, STAGES[2][-1], HIDDEN, ("conv1_1", "conv1_2"), bias_rate=2)


def _encode(net: nn.Module, images: Tensor) -> Maps:
    x = shallow = images
    for stage, widths in enumerate(STAGES, 1):
        for index in range(1, len(widths) + 1):
            x = F.relu(net.get_submodule(f"conv{stage}_{index}")(x), inplace=True)
        if stage == 3:
            shallow = x
        if stage <= len(STRIDES):
            x = F.max_pool2d(x, 3, stride=STRIDES[stage - 1], padding=1)
    x = net.get_submodule("drop6")(F.relu(net.get_submodule("fc6")(x), inplace=True))
    return Maps(shallow, F.relu(net.get_submodule("fc7")(x), inplace=True))
