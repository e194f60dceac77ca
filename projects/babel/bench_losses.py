"""Bench cases of the losses: 3D contrastive loss and mask loss, each with its backward."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel import bench_released as released
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.mask_loss import mask_loss
from projects.babel.matches import Draws, Matches
from projects.babel.pseudo_labels import label_classes, pseudo_ground_truth, take_classes
from shared.bench import Case, Sides, Target

PAIRS, POINTS, NEGATIVES = 18, 50, 16
CHANNELS, SIDE, IMAGE = 256, 56, 224
CONCEPTS = 10


def matches_and_draws(pairs: int, points: int, negatives: int) -> tuple[Matches, Draws]:
    """Random points, the same number in each pair, and random negatives."""
    generator = torch.Generator().manual_seed(0)
    matches = Matches.of([torch.rand(points, 4, generator=generator) for _ in range(pairs)])
    return matches, Draws.draw("contrastive_easy", generator, matches.counts, negatives)


def contrastive(quick: bool) -> Sides:
    """Loss and gradient with respect to all features of a batch.

    The features have the layout that the net gives them: channels_last in ours (`ours planar`: were they not).
    """
    pairs, points, channels, side = (3, 6, 8, 9) if quick else (PAIRS, POINTS, CHANNELS, SIDE)
    matches, draws = matches_and_draws(pairs, points, NEGATIVES)
    torch.manual_seed(0)
    planar = torch.randn(2 * pairs, channels, side, side)
    packed = planar.contiguous(memory_format=torch.channels_last)

    def ours(features: Tensor) -> Tensor:
        return correspondence_loss(features, matches, draws, batch_size=1)[0]

    return {
        "released": released.plain_pages()(
            with_gradient(planar, lambda features: released.correspondence(features, matches, draws))
        ),
        "ours": with_gradient(packed, ours),
        "ours planar": with_gradient(planar, ours),
    }


def masks(quick: bool) -> Sides:
    """From the refined masks: upsampled, cleaned, thresholded; loss of each image; gradient of the logits.

    One label per image, as in training with first labels; every image counts.
    """
    images, side, size = (4, 8, 16) if quick else (2 * PAIRS, SIDE, IMAGE)
    torch.manual_seed(0)
    labels = F.one_hot(torch.arange(images) % CONCEPTS, CONCEPTS).float()
    blobs = F.interpolate(torch.randn(images, 1 + CONCEPTS, 4, 4), side, mode="bilinear", align_corners=True)
    refined = (3 * blobs + 2 * F.pad(labels, (1, 0), value=1.0)[:, :, None, None]).softmax(1)
    logits = torch.randn(images, 1 + CONCEPTS, side, side)

    def plain(logits: Tensor) -> Tensor:
        pseudo = released.pseudo_ground_truth(released.cleaned(refined, labels, (size, size)))
        return released.mask_loss(logits, pseudo, labels).sum()

    def ours(logits: Tensor) -> Tensor:
        classes = label_classes(labels)
        target = pseudo_ground_truth(take_classes(refined, classes), classes, (size, size))
        return mask_loss(logits, target, labels).sum()

    return {
        "released": released.plain_pages()(with_gradient(logits, plain)),
        "ours": with_gradient(logits, ours),
    }


def with_gradient(inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
    """A side that returns a loss and its gradient."""

    def side() -> tuple[Tensor, Tensor]:
        leaf = inputs.detach().requires_grad_()
        value = loss(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.detach(), gradient

    return side


def check_gradients(outputs: Mapping[str, Any]) -> str:
    """Losses and gradients of all sides."""
    loss, gradient = outputs["released"]
    assert float(loss) != 0, "the loss is zero"
    worst = 0.0
    for side, (value, found) in outputs.items():
        off = float((found - gradient).abs().max() / gradient.abs().max())
        assert abs(float(value / loss) - 1) < 1e-5, f"{side}: loss {value:.6f} is not {loss:.6f}"
        assert off < 1e-4, f"{side}: gradient off by {off:.1e} of its maximum"
        worst = max(worst, off)
    return f"loss {loss:.5f}, gradients within {worst:.0e} of their maximum"


CASES = [
    Case(
        "contrastive_loss",
        f"3D loss with its backward: {PAIRS} pairs x {POINTS} points, {NEGATIVES} negatives, "
        f"features {CHANNELS} x {SIDE} x {SIDE} (huge pages for ours alone)",
        contrastive,
        check_gradients,
        (Target("ours", "released", 15.0), Target("ours planar", "released")),
        memory=True,
    ),
    Case(
        "mask_loss",
        f"pseudo ground truth and mask loss with its backward: {2 * PAIRS} images of {IMAGE} x {IMAGE} "
        "(huge pages for ours alone)",
        masks,
        check_gradients,
        (Target("ours", "released", 3.0),),
        memory=True,
    ),
]
