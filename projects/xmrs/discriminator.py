"""The discriminator: is this a photo of that recipe, and of what class is the dish (paper section 3.3).

B: batch   C: condition   S: side of the image

Parameters have the released names and shapes, `logits_class` included, which nothing uses.
"""

from typing import Any

import torch
from torch import Tensor, nn

from projects.xmrs.upsampling import conv3x3
from shared.errors import InputError

SIDES = (64, 128)
LAST_SIDE = 4  # of the image's code


def halving(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 4 x 4 convolution that halves the side and has no bias."""
    return nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)


def leaky() -> nn.LeakyReLU:
    """The activation of all layers."""
    return nn.LeakyReLU(0.2, inplace=True)


class Discriminator(nn.Module):
    """Image and condition -> probability that the image is real, and class scores of the image.

    Args:
        condition_dim: EMBEDDING_DIM, C.
        width: DF_DIM, channels after the first layer.
        num_classes: with class 0, the background.
        side: S, 128 (released) or 64 (the same without `img_code_s32`, for small runs).
    """

    def __init__(
        self, *, condition_dim: int = 128, width: int = 64, num_classes: int = 1048, side: int = 128
    ) -> None:
        super().__init__()
        if side not in SIDES:
            raise InputError(f"side: expected one of {SIDES}, found {side}")
        if width < 1:
            raise InputError(f"discriminator.width: expected at least 1, found {width}")
        top = 8 * width
        code = [halving(3, width), leaky()]
        for channels in (width, 2 * width, 4 * width):
            code += [halving(channels, 2 * channels), nn.BatchNorm2d(2 * channels), leaky()]
        self.img_code_s16 = nn.Sequential(*code)
        self.img_code_s32: nn.Module = nn.Identity()
        self.img_code_s32_1: nn.Module = nn.Identity()
        if side == 128:
            self.img_code_s32 = nn.Sequential(halving(top, 2 * top), nn.BatchNorm2d(2 * top), leaky())
            self.img_code_s32_1 = nn.Sequential(conv3x3(2 * top, top), nn.BatchNorm2d(top), leaky())
        self.logits = nn.Sequential(nn.Conv2d(top, 1, LAST_SIDE, stride=LAST_SIDE), nn.Sigmoid())
        self.logits_class = nn.Sequential(nn.Conv2d(top, 1, LAST_SIDE, stride=LAST_SIDE), nn.Sigmoid())
        self.jointConv = nn.Sequential(conv3x3(top + condition_dim, top), nn.BatchNorm2d(top), leaky())
        self.uncond_branch = nn.Sequential(nn.Conv2d(top, 4 * width, LAST_SIDE, stride=LAST_SIDE), leaky())
        self.semantic_branch = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Judge images [B, 3, S, S] against conditions [B, C] (mu of the recipes), or without any.

        Returns:
            probabilities [B] of being real, class scores [B, num_classes] (before the softmax).
        """
        code = self.img_code_s32_1(self.img_code_s32(self.img_code_s16(images)))
        joined = code
        if condition is not None:
            tiled = condition[:, :, None, None].expand(-1, -1, *code.shape[2:])
            joined = self.jointConv(torch.cat([tiled.to(code.dtype), code], 1))
        classes = self.semantic_branch(self.uncond_branch(code).flatten(1))
        logit = self.logits[0](joined).flatten()
        return torch.sigmoid(logit.float()), classes


def settings_of(state: dict[str, Any]) -> dict[str, int]:
    """Keyword arguments of the `Discriminator` whose state dict this is. KeyError when it is not one."""
    width = state["img_code_s16.0.weight"].shape[0]
    return {
        "condition_dim": state["jointConv.0.weight"].shape[1] - 8 * width,
        "width": width,
        "num_classes": state["semantic_branch.weight"].shape[0],
        "side": 128 if "img_code_s32.0.weight" in state else 64,
    }
