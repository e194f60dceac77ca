"""Loss of the predicted masks against their own refined, sure pixels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from projects.babel.pseudo_labels import IGNORED

_CHUNK_BYTES = {
    "cpu": 4 << 20,
    "cuda": 1 << 30,
}  # of upsampled logits at a time: a CPU keeps them in its cache


def mask_loss(logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Class-balanced cross entropy of each image, [B]; its gradient flows through the logits only.

    A pixel of class c weighs w_c = (N - n_c) / (1 + N), n_c = pixels of class c in the image's target and
    N = sum n_c; ignored pixels have loss 0 but stay in the denominator. An image counts only if its target has
    as many classes as the image has labels, and background: otherwise its loss is 0.

    Args:
        logits: [B, 1 + C, h, w], background first; upsampled to the target (bilinear, corners aligned).
        target: int64 [B, H, W], from `pseudo_ground_truth`; 255 = ignored.
        labels: [B, C] of 0 and 1, those that the target was made with.
    """
    counts = class_pixels(target, logits.shape[1])
    open_gate = (counts > 0).sum(dim=1) == (labels > 0).sum(dim=1) + 1
    dtype = torch.promote_types(logits.dtype, torch.float32)
    counts = counts.to(dtype)
    total = counts.sum(dim=1, keepdim=True)
    weights = (total - counts) / (1 + total)
    with torch.autocast(logits.device.type, enabled=False):
        losses: Tensor = _BalancedCrossEntropy.apply(logits.to(dtype), target, weights, open_gate)
    return losses


def plain_mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that are not ignored; arguments as in `mask_loss` (not used in training)."""
    size = (target.shape[1], target.shape[2])
    logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
    return F.cross_entropy(logits, target, ignore_index=IGNORED)


def class_pixels(target: Tensor, channels: int) -> Tensor:
    """Pixels of each class: int64 [B, H, W] -> [B, channels]."""
    rows = torch.arange(len(target), device=target.device)[:, None] * (channels + 1)
    places = target.flatten(1).clamp(max=channels) + rows
    counts = torch.bincount(places.flatten(), minlength=len(target) * (channels + 1))
    return counts.view(len(target), channels + 1)[:, :channels]


class _BalancedCrossEntropy(torch.autograd.Function):
    """Some images at a time, upsampled logits and gradient at once, so that little is alive.

    The gradient with respect to the upsampled logits is w (softmax - one-hot) / pixels; it is brought down to
    [h, w] right away and only waits for the factor that each image's loss gets.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weights: Tensor, open_gate: Tensor) -> Tensor:
        losses = logits.new_zeros(len(logits))
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format) if needs_gradient else None
        counted = open_gate.nonzero().flatten()
        limit = _CHUNK_BYTES.get(logits.device.type, _CHUNK_BYTES["cpu"])
        size = logits.shape[1] * target[0].numel() * logits.element_size() if len(target) else 1
        for rows in counted.split(max(1, limit // size)):
            losses[rows], part = _losses_and_gradient(
                logits[rows].contiguous(), target[rows], weights[rows], needs_gradient
            )
            if gradient is not None and part is not None:
                gradient[rows] = part
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0][:, None, None, None], None, None, None


def _losses_and_gradient(
    logits: Tensor, target: Tensor, weights: Tensor, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    size = [target.shape[1], target.shape[2]]
    pixels = size[0] * size[1]
    upsampled = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
    known = (target != IGNORED)[:, None]
    place = target.where(known[:, 0], 0)[:, None]
    pixel_weights = weights.gather(1, place.flatten(1)).view_as(place) * known / pixels
    log_probabilities = torch.log_softmax(upsampled, dim=1)
    losses = -(log_probabilities.gather(1, place) * pixel_weights).sum(dim=(1, 2, 3))
    if not needs_gradient:
        return losses, None
    slope = log_probabilities.exp_().mul_(pixel_weights).scatter_add_(1, place, -pixel_weights)
    down = torch.ops.aten.upsample_bilinear2d_backward(slope, size, list(logits.shape), True)
    return losses, down
