"""The nets by name, and prediction."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from projects.babel.backbones import build_backbone
from projects.babel.baseline import CamNet
from projects.babel.classifiers import Classifier
from projects.babel.head import SingleStageNet
from projects.babel.outputs import Net, Output, Segmenter
from projects.babel.released import load_backbone
from shared.errors import InputError

__all__ = ["KINDS", "Net", "Output", "Segmenter", "build_model", "predict"]

KINDS = ("ae", "bsl", "cls")


def build_model(
    *,
    kind: str = "ae",
    backbone: str = "resnet50",
    concepts: int = 10,
    weights: str | None = None,
    width: int = 64,
    output_stride: int | None = None,
    head_width: int = 256,
    skip_width: int = 48,
    dilations: Sequence[int] = (1, 12, 24, 36),
    dropout: float = 0.5,
    last_dropout: float = 0.1,
    gate_alpha: float = 0.3,
    focal_p: float = 3.0,
    focal_lambda: float = 0.01,
    pamr: dict[str, Any] | None = None,
    bg_score: float = 0.1,
) -> Net:
    """A net in training mode.

    Args:
        kind: ae (the released single-stage net), bsl (CAM) or cls (classifier).
        backbone: resnet18, resnet50, resnet101, resnet38, vgg16; for cls resnet18, resnet50, squeezenet,
            mobilenet_v2.
        concepts: their number C.
        weights: file of the backbone's initial weights (torchvision's resnet50-19c8e357.pth, ...); None: drawn.
        width, output_stride: see `build_backbone`; the slim nets of the embedded data have width 16 to 32.
        head_width, skip_width, dilations, dropout, last_dropout, gate_alpha, focal_p, focal_lambda, pamr: see
            `SingleStageNet`; only for ae.
        bg_score: constant activation of the background, only for bsl.

    Raises:
        InputError: an unknown kind or backbone, or a file of weights that is missing or does not fit.
    """
    settings = {key: value for key, value in locals().items() if key != "weights"}
    net: Net
    if kind == "ae":
        net = SingleStageNet(
            build_backbone(backbone, width=width, output_stride=output_stride),
            concepts=concepts,
            width=head_width,
            skip_width=skip_width,
            dilations=dilations,
            dropout=dropout,
            last_dropout=last_dropout,
            gate_alpha=gate_alpha,
            focal_p=focal_p,
            focal_lambda=focal_lambda,
            pamr=dict(pamr or {}),
        )
    elif kind == "bsl":
        bare = build_backbone(backbone, width=width, output_stride=output_stride)
        net = CamNet(bare, concepts=concepts, bg_score=bg_score)
    elif kind == "cls":
        net = Classifier(backbone, concepts=concepts)
    else:
        raise InputError(f"model.kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    net.settings = settings
    if weights is not None:
        load_backbone(net, weights)
    return net


@torch.no_grad()
def predict(net: Net, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Class scores [B, C] and masks [B, 1 + C, H, W] at the size of the images; None for classifiers.

    Normalised images [B, 3, H, W]; a net in training mode is run in evaluation mode and put back.
    """
    was_training = net.training
    net.eval()
    try:
        output: Output = net(images)
        masks = net.upsampled_masks(output, images.shape[-2:]) if isinstance(net, Segmenter) else None
    finally:
        net.train(was_training)
    return output.scores, masks
