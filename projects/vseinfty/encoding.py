"""Embeddings of a whole split, each image and each caption encoded once, on one or several processes.

n: items of the split   E: joint space
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.vseinfty.data import CaptionBatch, ImageBatch, Split
from projects.vseinfty.model import VSEModel
from shared import data
from shared.progress import Progress
from shared.runtime import Runtime, all_gather_rows


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

    return _encode(model, encode, split.fetch_images, plans, split.num_images, runtime, workers, label)


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

    return _encode(model, encode, split.fetch_captions, plans, split.num_captions, runtime, workers, label)


def length_buckets(
    lengths: np.ndarray, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> list[data.BatchPlan]:
    """Batches of items sorted by length, dealt to the ranks in turn; each item is in exactly one batch."""
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [
        data.BatchPlan(epoch=0, step=step, indices=group)
        for step, group in enumerate(groups[rank::world_size])
    ]


def _encode(
    model: VSEModel,
    encode: Callable[[Any], Tensor],
    fetch: Callable[[data.BatchPlan], Any],
    plans: list[data.BatchPlan],
    num_items: int,
    runtime: Runtime,
    workers: int | None,
    label: str | None,
) -> np.ndarray:
    """Encode this rank's plans in eval mode and gather: row i of the result [num_items, E] is item i."""
    loaded = data.load(fetch, plans, workers=workers, pin_memory=runtime.device.type == "cuda")
    embeddings = np.empty((num_items, model.embed_size), np.float32)
    per_batch = sum(len(plan.indices) for plan in plans) / max(1, len(plans))
    bar = Progress(
        len(plans),
        unit="step",
        items_per_step=per_batch,
        label=label or "",
        device=runtime.device,
        silent=label is None or not runtime.is_main,
    )
    was_training = model.training
    model.eval()
    try:
        with bar, torch.inference_mode(), runtime.autocast():
            for plan, batch in zip(plans, loaded, strict=True):
                rows = encode(data.to_device(batch, runtime.device))
                embeddings[plan.indices] = rows.float().cpu().numpy()
                bar.update()
    finally:
        model.train(was_training)
    if runtime.world_size == 1:
        return embeddings
    own = np.concatenate([np.zeros(0, np.int64), *(plan.indices for plan in plans)])
    positions = all_gather_rows(torch.from_numpy(own).to(runtime.device))
    rows = all_gather_rows(torch.from_numpy(embeddings[own]).to(runtime.device))
    embeddings[positions.cpu().numpy()] = rows.cpu().numpy()
    return embeddings
