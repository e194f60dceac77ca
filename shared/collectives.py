"""What the processes of a group exchange: rows with gradients, sums, gradients, small objects.

How ranks share a loss over the whole batch: each encodes its own rows, `all_gather_with_grad` gives every
rank the rows of all, each computes the same loss but differentiates with respect to its own rows only, and
`all_reduce_gradients` adds the gradients up. The sum is the exact gradient of that loss. Everything is a
no-op in a single process. Also reachable as `shared.runtime.<name>`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 32 * 2**20  # gradients travel in pieces of about this size


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks in rank order: [n_r, ...] -> [sum of n_r, ...]; n_r may differ. No gradient."""
    return _gather_with_offset(x.detach())[0] if world_size() > 1 else x.detach()


def all_gather_with_grad(x: Tensor) -> Tensor:
    """As `all_gather_rows`, but this rank's rows stay in the graph; the other ranks' are constants.

    Right together with `all_reduce_gradients` (SUM) when each rank computes the same loss from the result:
    every derivative is then taken once, by the rank that made the row.
    """
    if world_size() == 1:
        return x
    rows, first = _gather_with_offset(x.detach())
    return torch.cat([rows[:first], x, rows[first + len(x) :]])


def all_reduce_sum_with_grad(x: Tensor) -> Tensor:
    """The sum of x over all ranks, the same on each; gradients are summed over the ranks as well.

    For statistics that each rank uses for its own rows (batch norm): the derivative with respect to x has a
    part from the rows of every rank.
    """
    if world_size() == 1:
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total


def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up `.grad` over all ranks, in place. A gradient that only some ranks have counts as zero on the
    others; one that no rank has stays None. Every rank passes the same parameters in the same order.
    """
    if world_size() == 1:
        return
    candidates = [p for p in parameters if p.requires_grad]
    if not candidates:
        return
    present = torch.tensor([p.grad is not None for p in candidates], dtype=torch.int32)
    present = present.to(candidates[0].device)
    dist.all_reduce(present)
    gradients: list[Tensor] = []
    for parameter, ranks_with_gradient in zip(candidates, present.tolist(), strict=True):
        if ranks_with_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    _all_reduce_in_buckets(gradients)


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give every rank the buffers of rank 0 (running statistics), before validating or saving.

    With unsynchronised batch norm each rank has its own.
    """
    if world_size() == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


def gather_objects(value: Any) -> list[Any]:
    """A small Python object of every rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _all_reduce_in_buckets(gradients: list[Tensor]) -> None:
    """One collective per ~32 MB: a model has hundreds of small parameters and each collective a latency."""
    pending = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in pending:
        assert work is not None
        work.wait()
        pieces = flat.split([gradient.numel() for gradient in bucket])
        for gradient, piece in zip(bucket, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def _gather_with_offset(x: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks, and where this rank's begin. Collectives want equal shapes: shorter shards are
    padded.
    """
    counts = torch.empty(world_size(), dtype=torch.int64, device=x.device)
    dist.all_gather_into_tensor(counts, torch.tensor([len(x)], device=x.device))
    lengths: list[int] = counts.tolist()
    longest = max(lengths)
    padded = x.contiguous()
    if len(x) < longest:
        padded = torch.cat([padded, padded.new_zeros(longest - len(x), *x.shape[1:])])
    rows = x.new_empty(world_size() * longest, *x.shape[1:])
    # as bytes: not every backend knows every type (bfloat16, bool)
    dist.all_gather_into_tensor(_bytes(rows), _bytes(padded))
    if min(lengths) < longest:
        rows = torch.cat([shard[:n] for shard, n in zip(rows.split(longest), lengths, strict=True)])
    return rows, sum(lengths[: dist.get_rank()])


def _bytes(x: Tensor) -> Tensor:
    return x.view(-1).view(torch.uint8)
