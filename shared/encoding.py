"""Embeddings of a whole collection, each item encoded once, on one or several processes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared import data
from shared.progress import Progress
from shared.runtime import Runtime, all_gather_rows


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


def encode_all(
    model: nn.Module,
    encode: Callable[[Any], Tensor],
    fetch: Callable[[data.BatchPlan], Any],
    plans: Sequence[data.BatchPlan],
    shape: tuple[int, int],
    runtime: Runtime,
    *,
    workers: int | None = None,
    label: str | None = None,
) -> np.ndarray:
    """Row i of the result is item i: float32 [N, D] on every rank, encoded in eval mode.

    Args:
        model: put into eval mode meanwhile.
        encode: a batch on the device -> [rows of the batch, D].
        fetch: a plan -> its batch.
        plans: this rank's; those of all ranks together hold each item once.
        shape: (N, D): items in all, size of an embedding.
        runtime, workers: where, and how batches are loaded (see `data.load`).
        label: shows progress.
    """
    loaded = data.load(fetch, plans, workers=workers, pin_memory=runtime.device.type == "cuda")
    embeddings = np.empty(shape, np.float32)
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
    return _gathered(embeddings, plans, runtime)


def _gathered(embeddings: np.ndarray, plans: Sequence[data.BatchPlan], runtime: Runtime) -> np.ndarray:
    """Fill in the rows that the other ranks have encoded."""
    if runtime.world_size == 1:
        return embeddings
    own = np.concatenate([np.zeros(0, np.int64), *(plan.indices for plan in plans)])
    positions = all_gather_rows(torch.from_numpy(own).to(runtime.device))
    rows = all_gather_rows(torch.from_numpy(embeddings[own]).to(runtime.device))
    embeddings[positions.cpu().numpy()] = rows.cpu().numpy()
    return embeddings
