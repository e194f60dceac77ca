"""The losses of synthesis (paper section 3.3, eqs. of the generator's and the discriminator's loss).

B: this rank's rows   C: condition   K: classes   D: joint space

Each term is a mean over the global batch, which several ranks share: a rank's value is the sum over its own
rows by the number of all rows, so that values and gradients of the ranks are added up.
"""

import torch
from torch import Tensor
from torch.nn import functional

Count = int | Tensor
BACKGROUND = 0  # the class of recipes without a label, which the classification leaves out


def real_or_fake(probabilities: Tensor, is_real: bool, *, rows: Count) -> Tensor:
    """Binary cross-entropy of probabilities [B]; their logarithm is cut at -100, as released. NaN gives NaN."""
    target = torch.full_like(probabilities, float(is_real))
    # torch ends the process (on a GPU for good) where a probability is NaN
    clean = probabilities.nan_to_num(0.5)
    loss = functional.binary_cross_entropy(clean, target, reduction="sum")
    return (loss + (0 * probabilities).sum()) / rows


def semantic(scores: Tensor, classes: Tensor, *, labelled: Count) -> Tensor:
    """Cross-entropy of class scores [B, K] over the rows that have a label; 0 where none has one.

    labelled: how many rows of the global batch have a label.
    """
    losses = functional.cross_entropy(scores.float(), classes, ignore_index=BACKGROUND, reduction="sum")
    return losses / torch.as_tensor(labelled).clamp(min=1)


def divergence(mu: Tensor, log_variance: Tensor, *, rows: Count) -> Tensor:
    """Kullback-Leibler divergence of the conditions from N(0, 1), a mean over batch and dimensions [B, C]."""
    terms = 1 + log_variance - mu.square() - log_variance.exp()
    return -0.5 * terms.sum() / (rows * mu.shape[1])


def cosine_distance(found: Tensor, wanted: Tensor, *, rows: Count) -> Tensor:
    """1 - cos of the rows of [B, D] and [B, D]: the cycle terms."""
    return (1 - functional.cosine_similarity(found, wanted, dim=1)).sum() / rows


def enlarge(images: Tensor, side: int) -> Tensor:
    """Bilinear to the image encoder's side, corners on corners: [B, 3, S, S] -> [B, 3, side, side]."""
    if images.shape[-1] == side:
        return images
    return functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=True)
