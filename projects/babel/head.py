"""The released single-stage net ("ae"): class scores and masks from one forward pass."""

from collections.abc import Collection, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from projects.babel.aspp import ASPP
from projects.babel.backbone import Backbone
from projects.babel.draws import Dropout
from projects.babel.gate import StochasticGate
from projects.babel.gci import GlobalCueInjection
from projects.babel.outputs import Output, Segmenter
from projects.babel.pamr import PAMR, resized
from projects.babel.pooling import pooled_scores
from projects.babel.precision import at_least_float32
from projects.babel.upsampling import convolve_upsampled

LAYERS = ("conv3", "backbone", "fc8", "sg", "decoder", "score")


class SingleStageNet(Segmenter):
    """Backbone, ASPP, GCI, stochastic gate, decoder; masks = softmax of the concepts' scores and a constant 1.

    Args:
        backbone: its layers become this net's, flat, as in the released checkpoints.
        concepts: number C of concepts, background not counted.
        width: channels of the head (released 256).
        skip_width: channels of the shallow map beside the deep one (released 48).
        dilations: of the ASPP; the released (1, 12, 24, 36) were made for stride 8 and are used at 16.
        dropout: in the ASPP and between the decoder's convolutions.
        last_dropout: before the last convolution.
        gate_alpha: α of the stochastic gate.
        focal_p, focal_lambda: power and floor of the focal penalty.
        pamr: keyword arguments of PAMR.
    """

    feature_names = LAYERS

    def __init__(
        self,
        backbone: Backbone,
        *,
        concepts: int = 10,
        width: int = 256,
        skip_width: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        dropout: float = 0.5,
        last_dropout: float = 0.1,
        gate_alpha: float = 0.3,
        focal_p: float = 3.0,
        focal_lambda: float = 0.01,
        pamr: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, concepts)
        self.focal_p, self.focal_lambda = focal_p, focal_lambda
        self.aspp = ASPP(backbone.deep, width, dilations=dilations, dropout=dropout)
        self._aff = PAMR(**(pamr or {}))
        self.shallow_mask = GlobalCueInjection(backbone.shallow, width)
        self.fc8_skip = _conv_norm_relu(backbone.shallow, skip_width, 1)
        self.fc8_x = _conv_norm_relu(width + skip_width, width, 3)
        self.gate = StochasticGate(gate_alpha)
        self.decoder = nn.Sequential(
            *_conv_norm_relu(width, width, 3),
            Dropout(dropout),
            *_conv_norm_relu(width, width, 3),
            Dropout(last_dropout),
        )
        self.last_conv = nn.Sequential(nn.Conv2d(width, concepts, 1))
        self.draw_head()

    def forward(self, images: Tensor, *, layers: Collection[str] = (), keep: Tensor | None = None) -> Output:
        """Scores, logits and masks of normalised images [B, 3, H, W]; masks at a quarter of their size.

        layers: those of LAYERS whose maps are kept in the output's features. keep: the gate's draw.
        """
        maps = self.encode(images)
        weight = self.fc8_x.get_parameter("0.weight")
        joined = convolve_upsampled(self.aspp(maps.deep), self.fc8_skip(maps.shallow), weight)
        deep = self.fc8_x[1:](joined)
        gated = self.gate(deep, self.shallow_mask(maps.shallow, deep), keep)
        decoded = self.decoder(gated)
        score = self.last_conv(decoded)
        logits = F.pad(at_least_float32(score), (0, 0, 0, 0, 1, 0), value=1.0)
        masks = logits.softmax(1)
        scores = pooled_scores(logits, masks, power=self.focal_p, floor=self.focal_lambda)
        found = dict(zip(LAYERS, (*maps, deep, gated, decoded, score), strict=True))
        return Output(scores, logits, masks, self.chosen(found, layers))

    def refine(self, images_raw: Tensor, masks: Tensor) -> Tensor:
        """PAMR at the masks' size [B, K, h, w], by the images [B, 3, H, W] in [0, 1]; no gradient."""
        refined: Tensor = self._aff(resized(images_raw, masks.shape[-2:]), masks.detach())
        return refined

    def upsampled_masks(self, output: Output, size: Sequence[int]) -> Tensor:
        """Masks at the images' size."""
        assert output.masks is not None
        return F.interpolate(output.masks, tuple(size), mode="bilinear", align_corners=True)


def _conv_norm_relu(inputs: int, outputs: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
