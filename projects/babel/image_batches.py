"""A net over whole images, batch by batch, read ahead by other processes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from projects.babel import views
from projects.babel.outputs import Net, Output
from shared.data import BatchPlan, eval_plans, load
from shared.runtime import Runtime

Reader = Callable[[int], np.ndarray]  # a row of the split -> uint8 RGB [H, W, 3]


def run(
    model: Net,
    rows: Sequence[int] | np.ndarray,
    read: Reader,
    *,
    layers: Sequence[str] = (),
    size: int | None = 224,
    batch_size: int = 16,
    workers: int | None = 0,
    runtime: Runtime,
) -> Iterator[tuple[slice, Output]]:
    """Outputs for the images of `rows`, in order, with the part of `rows` that they belong to.

    size: images are stretched to this side, as in validation; None: as they are, one by one. layers: see
    `Output.features`.
    """
    model.eval()
    plans = eval_plans(len(rows), 1 if size is None else batch_size)
    fetch = partial(_fetch, rows=np.asarray(rows, np.int64), read=read, size=size)
    for plan, pixels in zip(plans, load(fetch, plans, workers=workers), strict=True):
        with torch.inference_mode(), runtime.autocast():
            output = model(pixels.to(runtime.device), layers=tuple(layers))
        yield slice(int(plan.indices[0]), int(plan.indices[-1]) + 1), output


def _fetch(plan: BatchPlan, *, rows: np.ndarray, read: Reader, size: int | None) -> Tensor:
    found = [read(int(row)) for row in rows[plan.indices]]
    pixels = [views.normalised(one if size is None else views.resized(one, (size, size))) for one in found]
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())
