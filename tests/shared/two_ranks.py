"""What test_runtime and test_checkpoint compare between two processes and one. Run under torchrun by the
fixture `two_ranks`; the functions are called by the tests in a single process as well.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared import checkpoint, collectives, encoding, runtime
from shared.batch_norm import synchronize_batch_norm
from shared.data import BatchPlan
from shared.runtime import Runtime

SHARES = ((0, 3), (3, 8))  # the rows of each rank: unequal on purpose


class Encoder(nn.Module):
    """Rows normalised by statistics of the whole batch, then a layer; `late` is used by some rows only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.late = nn.Parameter(torch.ones(5))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor, positions: range) -> Tensor:
        count = collectives.all_reduce_sum_with_grad(torch.tensor(float(len(x)), dtype=x.dtype))
        x = self.linear(x)
        x = x - collectives.all_reduce_sum_with_grad(x.sum(0)) / count
        x = torch.tanh(x)
        is_late = torch.tensor([position >= SHARES[1][0] for position in positions])
        return torch.cat([x[~is_late], x[is_late] * self.late]) if is_late.any() else x


def gradients(first: int, last: int, bucket_bytes: int) -> dict[str, Any]:
    """Loss and gradients of a hardest-negative loss over all rows, from the rows first..last of this rank."""
    generator = torch.Generator().manual_seed(0)
    model = Encoder().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x, y = torch.randn(2, SHARES[-1][1], 6, generator=generator, dtype=torch.float64)
    share = range(first, last)
    rows = collectives.all_gather_with_grad(model(x[first:last], share))
    others = collectives.all_gather_with_grad(model(y[first:last], share))
    scores = rows @ others.T
    costs = (0.2 + scores - scores.diag()[:, None]).clamp(min=0).fill_diagonal_(0)
    loss = costs.amax(1).sum() + costs.amax(0).sum()
    loss.backward()
    before, collectives.BUCKET_BYTES = collectives.BUCKET_BYTES, bucket_bytes
    collectives.all_reduce_gradients(model.parameters())
    collectives.BUCKET_BYTES = before
    return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}}


def rows_of(rank: int, dtype: torch.dtype, counts: tuple[int, ...]) -> Tensor:
    """Rows that tell where they come from."""
    values = torch.arange(counts[rank] * 6).view(counts[rank], 2, 3) + 100 * rank
    return (values % 2 == 0) if dtype == torch.bool else values.to(dtype)


GATHERED = [
    (dtype, counts)
    for dtype in (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
    for counts in ((2, 2), (1, 4), (0, 3), (3, 0), (0, 0))
]


def gathered_rows(rank: int) -> list[Tensor]:
    """What this rank gets for each of GATHERED."""
    return [runtime.all_gather_rows(rows_of(rank, dtype, counts)) for dtype, counts in GATHERED]


def draws() -> list[float]:
    """A number of each generator."""
    import random

    return [random.random(), float(np.random.standard_normal()), torch.rand(()).item()]


def resumed_draws(rt: Runtime, folder: Path) -> tuple[list[float], list[float]]:
    """Draws after a checkpoint, and again after resuming from it; the ranks' generators differ."""
    runtime.seed_everything(5 + rt.rank)
    draws()
    layer = nn.Linear(2, 2)
    checkpoint.save(folder, runtime=rt, modules={"layer": layer}, progress={"step": 1}, config={})
    expected = draws()
    runtime.seed_everything(99)
    progress = checkpoint.resume(folder, runtime=rt, modules={"layer": layer})
    assert progress == {"step": 1}
    return expected, draws()


def normalised(first: int, last: int) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of batch norm over rows [R, C] and pixels [R, C, H, W]: this rank's share."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for name, norm, shape in (("1d", nn.BatchNorm1d(3), ()), ("2d", nn.BatchNorm2d(3), (2, 4))):
        layers = nn.Sequential(norm)
        if collectives.world_size() > 1:
            synchronize_batch_norm(layers)
        inputs, factors = 3 * torch.randn(2, SHARES[-1][1], 3, *shape, generator=generator) + 1
        x = inputs[first:last].clone().requires_grad_()
        y = layers(x)
        (y * factors[first:last]).sum().backward()
        collectives.all_reduce_gradients(layers.parameters())
        assert x.grad is not None
        found |= {f"{name}.y": y.detach(), f"{name}.dx": x.grad}
        found |= {f"{name}.d{key}": p.grad for key, p in layers.named_parameters() if p.grad is not None}
        found |= {f"{name}.{key}": buffer for key, buffer in layers.named_buffers()}
    return found


def broadcast_buffers(rank: int) -> Tensor:
    """The running mean after a broadcast; before it, each rank has its number."""
    norm = nn.BatchNorm1d(2)
    assert norm.running_mean is not None
    norm.running_mean.fill_(5 + rank)
    collectives.broadcast_buffers(norm)
    return norm.running_mean


LENGTHS = np.array([5, 3, 9, 3, 1, 7, 7])


def encoded(rt: Runtime, batch_size: int = 2) -> np.ndarray:
    """Item i as (i, its length), encoded in batches of similar length."""

    def fetch(plan: BatchPlan) -> Tensor:
        return torch.from_numpy(np.stack([plan.indices, LENGTHS[plan.indices]], axis=1)).float()

    plans = encoding.length_buckets(LENGTHS, batch_size, rank=rt.rank, world_size=rt.world_size)
    shape = (len(LENGTHS), 2)
    return encoding.encode_all(nn.Identity(), lambda batch: batch, fetch, plans, shape, rt, workers=0)


def main(out: Path) -> None:
    with runtime.start(device="cpu", threads=1) as rt:
        result: dict[str, Any] = {
            "ranks": (rt.rank, rt.world_size),
            "gradients": gradients(*SHARES[rt.rank], bucket_bytes=2**20),
            "gradients in small buckets": gradients(*SHARES[rt.rank], bucket_bytes=8),
            "rows": gathered_rows(rt.rank),
            "rows with gradient": runtime.all_gather_with_grad(rows_of(rt.rank, torch.float32, (1, 4))),
            "objects": runtime.gather_objects({"rank": rt.rank}),
            "normalised": normalised(*SHARES[rt.rank]),
            "buffers": broadcast_buffers(rt.rank),
            "encoded": encoded(rt),
            "draws": resumed_draws(rt, out / "run"),
        }
        runtime.barrier()
    result["encoded"] = torch.from_numpy(result["encoded"])  # weights_only reads no arrays
    torch.save(result, out / f"rank{result['ranks'][0]}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
