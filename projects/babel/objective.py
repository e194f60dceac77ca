"""What is minimised: classification, masks against their own refinement, features that agree between views.

P: pairs of this rank's share of a batch   B: its images, 2P   C: concepts   D: channels of the features
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.babel.augmentation import denormalized
from projects.babel.classification_losses import classification_loss
from projects.babel.concepts import CONCEPTS
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.data import Batch, Split
from projects.babel.head import SingleStageNet
from projects.babel.mask_loss import mask_loss
from projects.babel.matches import Draws, Matches
from projects.babel.outputs import Net, Output
from projects.babel.pooling import foreground_share
from projects.babel.pseudo_labels import label_classes, pseudo_ground_truth, take_classes
from shared import collectives, data

_NEGATIVES = 0x4E6567  # the stream of the draws of negatives


@dataclass(frozen=True)
class Objective:
    """The loss of an epoch: which terms are on, and how (the `loss` section and `optim.pretrain`).

    L = L_cls + mask_weight * mean L_mask + weight / batch size * sum over pairs of L_NCE

    Attributes:
        classification: kind of L_cls.
        mask_weight: 0 = no mask loss (and no refinement of masks).
        balance: further keyword arguments of `classification_loss`.
        correspondence: keyword arguments of `correspondence_loss` and "layer", "negatives", "weight"; None = off.
    """

    classification: str = "CrossEntropy"
    mask_weight: float = 1.0
    correspondence: Mapping[str, Any] | None = None
    balance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_epoch(
        cls,
        epoch: int,
        *,
        pretrain: int,
        classification: str,
        mask_weight: float,
        correspondence: Mapping[str, Any],
        balance: Mapping[str, Any] | None = None,
    ) -> "Objective":
        """The mask loss starts in epoch `pretrain`; the 3D loss ends before its `until_epoch`."""
        kept = {name: value for name, value in correspondence.items() if name != "until_epoch"}
        until = correspondence["until_epoch"]
        is_on = correspondence["weight"] > 0 and (until is None or epoch < until)
        weight = mask_weight if epoch >= pretrain else 0.0
        return cls(classification, weight, kept if is_on else None, balance or {})

    def classify(self, scores: Tensor, labels: Tensor) -> Tensor:
        """L_cls, mean over the images."""
        return classification_loss(scores, labels, kind=self.classification, **self.balance)


def of_epoch(settings: Mapping[str, Any], epoch: int, train: Split) -> Objective:
    """The objective of an epoch of a run with these settings, which trains on this split."""
    of_loss = settings["loss"]
    return Objective.of_epoch(
        epoch,
        pretrain=settings["optim"]["pretrain"],
        classification=of_loss["classification"],
        mask_weight=of_loss["mask_weight"],
        correspondence=of_loss["correspondence"],
        balance=class_balance(train, settings["data"]["concepts"]),
    )


def class_balance(split: Split, concepts: Sequence[str]) -> dict[str, Any]:
    """Images per concept for the loss "Separate": those of the split; the released ones for the released concepts."""
    if tuple(concepts) == CONCEPTS:
        return {}
    return {"class_counts": split.labels.sum(0).astype(int).tolist(), "total": len(split)}


def supervised_loss(model: Net, output: Output, batch: Batch, aim: Objective) -> tuple[Tensor, list[Tensor]]:
    """L_cls + mask_weight * mean L_mask of this rank's images: its part of the mean over the global batch.

    Images whose label is withheld do not count. Returns the loss, and the parts without weights: L_cls, mean mask
    of the labelled concepts, mean L_mask, 0 for the 3D loss.
    """
    known = (batch.first >= 0).nonzero().flatten()
    share = len(known) / max(1, int(collectives.all_gather_rows(known).numel()))
    scores = output.scores  # float32 at least
    zero = scores.sum() * 0
    if not len(known):
        return zero, [zero.detach()] * 4
    whole = len(known) == len(batch.first)  # the usual case: nothing to select
    rows = slice(None) if whole else known
    labels = batch.labels[rows]
    of_class = aim.classify(scores[rows], labels) * share
    loss, foreground, masks = of_class, zero, zero
    if output.masks is not None:
        foreground = foreground_share(output.masks[rows].detach(), labels).mean() * share
    if aim.mask_weight > 0 and isinstance(model, SingleStageNet):
        assert output.masks is not None
        assert output.logits is not None
        target = pseudo_labels(model, batch.images[rows], output.masks[rows], labels)
        masks = mask_loss(output.logits[rows], target, labels).mean() * share
        loss = loss + aim.mask_weight * masks
    return loss, [of_class.detach(), foreground, masks.detach(), zero.detach()]


@torch.no_grad()
def pseudo_labels(model: SingleStageNet, images: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """int64 [B, S, S]: the class of each sure pixel of the refined masks, else 255.

    Args:
        model: refines masks by the colours of the image (PAMR).
        images: [B, 3, S, S] normalised.
        masks: [B, 1 + C, h, w] softmax, background first.
        labels: [B, C].
    """
    classes = label_classes(labels)
    refined = model.refine(denormalized(images), take_classes(masks.detach(), classes))
    return pseudo_ground_truth(refined, classes, size=(images.shape[2], images.shape[3]))


def matching_loss(
    features: Tensor,
    matches: Matches,
    settings: Mapping[str, Any],
    *,
    batch_size: int,
    draw_seed: tuple[int, int, int],
) -> Tensor:
    """The 3D loss of this rank's pairs, sum over pairs / batch size; negatives from the global batch.

    The draws are those of the global batch, so that the number of ranks changes nothing.

    Args:
        features: [2P, D, h, w], the second images of the pairs after the first.
        matches: of the P pairs.
        settings: kind, negatives, tau, normalize, margin.
        batch_size: pairs of the global batch.
        draw_seed: (seed, epoch, step).
    """
    counts = collectives.all_gather_rows(matches.counts)
    generator = torch.Generator().manual_seed(_word(*draw_seed))
    kind = settings["kind"]
    draws = Draws.draw(kind, generator, counts.cpu(), settings["negatives"], len(counts))
    everyone = None
    if collectives.world_size() > 1:
        shares = collectives.all_gather_rows(counts.new_tensor([len(matches.counts)])).tolist()
        rank = torch.distributed.get_rank()
        pairs = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        ends = [0, *counts.cumsum(0).tolist()]
        draws = draws.part(pairs, slice(ends[pairs.start], ends[pairs.stop]))
        if kind == "contrastive_easy":  # the others take their negatives from the pair itself
            everyone = gather_features(features[len(features) // 2 :], shares, rank)
    loss, _ = correspondence_loss(
        features,
        matches,
        data.to_device(draws, features.device),
        batch_size=batch_size,
        kind=kind,
        tau=settings["tau"],
        normalize=settings["normalize"],
        margin=settings["margin"],
        second_images=everyone,
    )
    return loss


def gather_features(own: Tensor, shares: list[int], rank: int) -> Tensor:
    """The rows of all ranks, [sum of shares, ...]; every rank's use of a row comes back to it as gradient."""
    start = sum(shares[:rank])
    padded = own.new_zeros(sum(shares), *own.shape[1:])
    padded = torch.cat([padded[:start], own, padded[start + len(own) :]])
    return collectives.all_reduce_sum_with_grad(padded)


def _word(*numbers: int) -> int:
    """A seed of 63 bits from the numbers of a step."""
    return int(np.random.SeedSequence([*numbers, _NEGATIVES]).generate_state(1, np.uint64)[0] >> 1)
