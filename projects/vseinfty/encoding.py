"""Embeddings of a whole split, each image and each caption encoded once, on one or several processes.

n: items of the split   E: joint space
"""

import numpy as np
from torch import Tensor

from projects.vseinfty.data import CaptionBatch, ImageBatch, Split
from projects.vseinfty.model import VSEModel
from shared import data
from shared.encoding import encode_all, length_buckets
from shared.runtime import Runtime

__all__ = ["encode_captions", "encode_images", "length_buckets"]


def encode_images(
    model: VSEModel,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = 128,
    workers: int | None = None,
    label: str | None = None,
) -> np.ndarray:
    """Embeddings of the split's unique images: float32 [n, E] on every rank. label: shows progress."""
    plans = data.eval_plans(split.num_images, batch_size, rank=runtime.rank, world_size=runtime.world_size)

    def encode(batch: ImageBatch) -> Tensor:
        return model.encode_images(batch.images, batch.image_lengths)

    shape = (split.num_images, model.embed_size)
    return encode_all(model, encode, split.fetch_images, plans, shape, runtime, workers=workers, label=label)


def encode_captions(
    model: VSEModel,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = 128,
    workers: int | None = None,
    label: str | None = None,
) -> np.ndarray:
    """Embeddings of the split's captions, in the split's order: float32 [n, E] on every rank.

    Captions of similar length share a batch, so little of it is padding. label: shows progress.
    """
    lengths = split.caption_lengths()
    plans = length_buckets(lengths, batch_size, rank=runtime.rank, world_size=runtime.world_size)

    def encode(batch: CaptionBatch) -> Tensor:
        return model.encode_captions(batch.captions, batch.caption_lengths)

    shape = (split.num_captions, model.embed_size)
    return encode_all(
        model, encode, split.fetch_captions, plans, shape, runtime, workers=workers, label=label
    )
