"""PAMR, pixel-adaptive mask refinement: masks are averaged over neighbours that look alike, a few times over."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEIGHBOURS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]
CHUNK_BYTES = 4 << 20  # of the affinities of the images refined together on a CPU: what its caches hold


class _Kernel(nn.Module):
    """A constant that released checkpoints hold; nothing reads it."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)


class PAMR(nn.Module):
    """Refines masks by the colours of the image, without gradient.

    For pixel p and its 8 neighbours q at each of the dilations (borders repeated): affinity
    softmax_q( mean over colours of -|I_p - I_q| / (1e-8 + 0.1 σ_p) ), σ_p the unbiased deviation of the
    9 samples per dilation, so that the centre counts once per dilation, as released. Each iteration replaces
    a mask by its affinity-weighted mean over the neighbours.

    The released way makes all neighbours of all masks (48 times the masks). Here shifted views are summed up,
    a few images at a time, in memory of about the affinities of those.
    """

    def __init__(self, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24), iterations: int = 10) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1 or iterations < 0:
            raise ValueError(
                f"pamr: expected dilations >= 1 and iterations >= 0: {list(dilations)}, {iterations}"
            )
        self.dilations, self.iterations = tuple(dilations), iterations
        selection = _one_hot_kernels()
        neighbours = selection[[index for index in range(9) if index != 4]]
        self.aff_x = _Kernel(selection[4] - neighbours)
        self.aff_m = _Kernel(neighbours)
        self.aff_std = _Kernel(selection)

    @torch.no_grad()
    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Refined masks [B, K, H, W], float32.

        images: [B, 3, H, W] in [0, 1]. masks: [B, K, h, w], resized to the images first (corners aligned).
        """
        with torch.autocast(masks.device.type, enabled=False):
            images, masks = images.float(), resized(masks.float(), images.shape[-2:])
            step = self._images_at_a_time(masks)
            parts = zip(images.split(step), masks.split(step), strict=True)
            return torch.cat([self._refine(*part) for part in parts])

    def _images_at_a_time(self, masks: Tensor) -> int:
        if masks.device.type != "cpu":
            return max(1, len(masks))
        per_image = 8 * len(self.dilations) * masks.shape[-1] * masks.shape[-2] * masks.element_size()
        return max(1, CHUNK_BYTES // per_image)

    def _refine(self, images: Tensor, masks: Tensor) -> Tensor:
        if self.iterations == 0:
            return masks.clone()
        affinities = self._affinities(images)[:, :, None].unbind(1)
        for _ in range(self.iterations):
            refined = torch.zeros_like(masks)
            for affinity, neighbour in zip(affinities, self._neighbours(masks), strict=True):
                refined.addcmul_(affinity, neighbour)
            masks = refined
        return masks

    def _affinities(self, images: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, Q, h, w], one map per neighbour q."""
        differences = torch.stack([neighbour - images for neighbour in self._neighbours(images)], dim=1)
        samples = 9 * len(self.dilations)  # the centre's own difference is 0
        total, squares = differences.sum(1), differences.square().sum(1)
        variance = (squares - total * total / samples).clamp_(min=0) / (samples - 1)
        scale = -1 / ((1e-8 + 0.1 * variance.sqrt_()) * images.shape[1])
        return differences.abs_().mul_(scale[:, None]).sum(2).softmax(1)

    def _neighbours(self, maps: Tensor) -> Iterator[Tensor]:
        """Views [B, K, h, w] of the maps moved to each neighbour, borders repeated."""
        height, width = maps.shape[-2:]
        margin = max(self.dilations)
        padded = F.pad(maps, (margin, margin, margin, margin), mode="replicate")
        for dilation in self.dilations:
            for row, column in NEIGHBOURS:
                top, left = margin + dilation * row, margin + dilation * column
                yield padded[..., top : top + height, left : left + width]


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners, [B, K, h, w] -> [B, K, *size]; the maps themselves if they fit."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def _one_hot_kernels() -> Tensor:
    """[9, 1, 3, 3]: kernel i has its 1 at place i."""
    return torch.eye(9).view(9, 1, 3, 3)
