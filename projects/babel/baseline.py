"""The CAM baseline ("bsl"): a classifier whose activation maps are the masks."""

from collections.abc import Collection, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from projects.babel.backbone import Backbone
from projects.babel.outputs import Output, Segmenter

LAYERS = ("conv3", "backbone", "score")


class CamNet(Segmenter):
    """Dropout, average pooling and a 1x1 classifier; masks = its activations at each pixel.

    `fc8` has three names in released checkpoints, of which the last one wins when they differ.
    """

    feature_names = LAYERS

    def __init__(self, backbone: Backbone, *, concepts: int = 10, bg_score: float = 0.1) -> None:
        super().__init__(backbone, concepts)
        self.bg_score = bg_score
        self.fc8 = nn.Conv2d(backbone.deep, concepts, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        self.cls_branch = nn.Sequential(nn.Dropout2d(0.5), nn.AdaptiveAvgPool2d(1), self.fc8)
        self.mask_branch = nn.Sequential(self.fc8, nn.ReLU())

    def forward(self, images: Tensor, *, layers: Collection[str] = (), keep: Tensor | None = None) -> Output:
        """Scores of normalised images [B, 3, H, W]; masks and logits at the deep map's size."""
        maps = self.encode(images)
        scores = self.cls_branch(maps.deep).flatten(1).float()
        logits = self.fc8(maps.deep).float()
        found = {"conv3": maps.shallow, "backbone": maps.deep, "score": logits}
        return Output(scores, logits, self.activations(logits), self.chosen(found, layers))

    def activations(self, logits: Tensor) -> Tensor:
        """relu / (1e-5 + its maximum over the image), after the constant background: [B, 1 + C, h, w]."""
        active = F.relu(logits)
        active = active / (1e-5 + active.amax((2, 3), keepdim=True))
        return F.pad(active, (0, 0, 0, 0, 1, 0), value=self.bg_score)

    def upsampled_masks(self, output: Output, size: Sequence[int]) -> Tensor:
        """Activations of the upsampled scores."""
        assert output.logits is not None
        logits = F.interpolate(output.logits, tuple(size), mode="bilinear", align_corners=True)
        return self.activations(logits)
