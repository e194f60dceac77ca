"""Embeddings of a whole split, each image and each recipe encoded once, on one or several processes.

N: items of the split   D: the joint space
"""

import numpy as np
from torch import Tensor

from projects.xmrs.data import ImageBatch, RecipeBatch, Split
from projects.xmrs.model import FoodSpaceNet
from shared import data
from shared.encoding import encode_all, length_buckets
from shared.runtime import Runtime

__all__ = ["encode_images", "encode_recipes", "length_buckets"]


def encode_images(
    model: FoodSpaceNet,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    label: str | None = None,
) -> np.ndarray:
    """Embeddings of the first image of every pair: float32 [N, D] on every rank. label: shows progress."""
    plans = data.eval_plans(len(split), batch_size, rank=runtime.rank, world_size=runtime.world_size)

    def encode(batch: ImageBatch) -> Tensor:
        return model.encode_images(batch.images)

    shape = (len(split), model.embed_dim)
    return encode_all(model, encode, split.fetch_images, plans, shape, runtime, workers=workers, label=label)


def encode_recipes(
    model: FoodSpaceNet,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    label: str | None = None,
) -> np.ndarray:
    """Embeddings of the recipes in the split's language and order: float32 [N, D] on every rank.

    Recipes of similar length share a batch, so that little of it is padding. label: shows progress.
    """
    plans = length_buckets(
        split.recipe_lengths(), batch_size, rank=runtime.rank, world_size=runtime.world_size
    )

    def encode(batch: RecipeBatch) -> Tensor:
        return model.encode_recipes(batch.tokens, batch.lengths)

    shape = (len(split), model.embed_dim)
    return encode_all(model, encode, split.fetch_recipes, plans, shape, runtime, workers=workers, label=label)
