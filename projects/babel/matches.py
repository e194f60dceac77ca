"""Matched points of image pairs, and the random draws that the 3D losses need."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InputError

KINDS = ("contrastive_easy", "contrastive", "triplet", "mse")


@dataclass(frozen=True)
class Matches:
    """Points seen in both images of a pair, of P pairs, flat.

    Attributes:
        pair: int64 [T], ascending: the pair of each point.
        rowcol: float32 [T, 4]: row and column in the first image, then in the second, fractions in [0, 1].
        counts: int64 [P]: points of each pair.
    """

    pair: Tensor
    rowcol: Tensor
    counts: Tensor

    @classmethod
    def of(cls, points: Sequence[Tensor]) -> "Matches":
        """From the points [K, 4] of each pair."""
        counts = torch.tensor([len(part) for part in points], dtype=torch.int64)
        pair = torch.arange(len(points)).repeat_interleave(counts)
        rowcol = torch.cat([*points, torch.empty(0, 4)]).float()
        return cls(pair, rowcol, counts)

    def __len__(self) -> int:
        return len(self.pair)


@dataclass(frozen=True)
class Draws:
    """Random numbers of a step.

    Attributes:
        images: int64 [P, N]: contrastive_easy: the second image that each negative of a pair comes from.
        uniform: float32 in [0, 1): contrastive_easy [T, N, 2]: row and column of each negative.
            contrastive [T, 2, N // 2, 3]: sign and size of the shift of one coordinate, and the other
            coordinate; first the negatives whose row is shifted, then those whose column is.
            triplet [T, 1, 2]: shift of the negative. mse: [T, 0, 2].
    """

    images: Tensor
    uniform: Tensor

    @classmethod
    def draw(
        cls,
        kind: str,
        generator: torch.Generator,
        counts: Tensor,
        negatives: int,
        pairs_in_batch: int | None = None,
    ) -> "Draws":
        """Draws for all pairs of the global batch, whatever the number of processes.

        Args:
            kind: of the loss.
            generator: a CPU generator, seeded by the step.
            counts: int64 [P] of the global batch.
            negatives: N, more than one.
            pairs_in_batch: second images to choose from; P by default.
        """
        check_kind(kind)
        if kind.startswith("contrastive") and negatives < 2:
            raise InputError(f"loss.correspondence.negatives: expected more than 1, found {negatives}")
        shape = {
            "contrastive_easy": (negatives, 2),
            "contrastive": (2, negatives // 2, 3),
            "triplet": (1, 2),
            "mse": (0, 2),
        }[kind]
        pairs = len(counts)
        rows = negatives if kind == "contrastive_easy" else 0
        choices = pairs if pairs_in_batch is None else pairs_in_batch
        images = torch.randint(max(1, choices), (pairs, rows), generator=generator)
        return cls(images, torch.rand((int(counts.sum()), *shape), generator=generator))

    def part(self, pairs: slice, points: slice) -> "Draws":
        """The draws of some pairs and of their points."""
        return Draws(self.images[pairs], self.uniform[points])


def check_kind(kind: str) -> None:
    """Raises InputError: no such 3D loss."""
    if kind not in KINDS:
        raise InputError(f"loss.correspondence.kind: expected one of {', '.join(KINDS)}, found {kind!r}")
