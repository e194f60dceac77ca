"""The image encoder as synthesis uses it: frozen, in evaluation mode, its convolutions and norms made one."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from projects.xmrs.gan_losses import enlarge
from projects.xmrs.image_encoder import FoodSpaceImageEncoder


class FrozenEncoder(nn.Module):
    """E of the paper: images of any side -> unit vectors [B, D]; gradients reach the images only.

    Args:
        encoder: the retrieval model's image branch; it is copied.
        side: of the images it was trained on (224): images are enlarged to it, corners on corners.
    """

    def __init__(self, encoder: FoodSpaceImageEncoder, side: int) -> None:
        super().__init__()
        self.side = side
        self.encoder = fold_norms(copy.deepcopy(encoder).eval()).requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> [B, D], unit rows."""
        found: Tensor = self.encoder(enlarge(images, self.side))
        return found


def fold_norms(module: nn.Module) -> nn.Module:
    """Multiply each batch norm's running statistics into the layer before it, in place (evaluation only).

    Equal but for rounding: what follows a frozen norm need not wait for a pass over its own map.
    """
    before = ""
    for name, child in list(module.named_children()):
        previous = module.get_submodule(before) if before else None
        if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            setattr(module, before, fuse_conv_bn_eval(previous, child))
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.BatchNorm1d) and isinstance(previous, nn.Linear):
            setattr(module, before, fuse_linear_bn_eval(previous, child))
            setattr(module, name, nn.Identity())
        else:
            fold_norms(child)
        before = name
    return module


def features(encoder: FrozenEncoder, images: Tensor) -> Tensor:
    """`encoder(images)` without gradients, as float32."""
    with torch.inference_mode():
        return encoder(images).float()
