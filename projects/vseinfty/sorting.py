"""Descending sort of each feature dimension over a set, and the weighted sum of the sorted values (paper eq. 3).

On a CPU the sort is nine tenths of GPO, so it has a path of its own (`_PackedSort`):

- NumPy sorts short contiguous rows of 64-bit keys with vector instructions, an order of magnitude faster than
  torch's sort with indices. A float32 value as a float64 has 29 spare low bits, which hold its position in the set:
  one sort of the keys sorts the values exactly and carries the permutation along; equal values keep their order.
- The weighted sum is taken over the keys themselves (the position changes a value by less than 1e-12 of it).
- The gradient must go back through the permutation. Instead of a scatter, (position, weight) pairs are sorted as
  integers by position, which puts each weight where its value came from.
- One sample at a time, so all of it happens in the core's own cache, and only its own length is sorted.

Elsewhere (GPU, float64, tracing) the same operator is torch's sort with a hand-written backward.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

CHUNK_ELEMENTS = (
    40_000  # keys per piece of work: 320 kB, so that a piece stays in a core's second-level cache
)
MAX_THREADS = 8
LARGEST_SET = 65_536  # positions are stored in 16 bits
LOW_HALF = 0 if np.little_endian else 1  # of a 64-bit number seen as two of 32
Result = TypeVar("Result")
BELOW_ALL = -(2.0**900)  # below every float32, and a power of two: its low bits are zero


def sort_descending(features: Tensor, lengths: Tensor) -> Tensor:
    """Each dimension's values in descending order: [B, N, D], [B] -> [B, N, D], zero beyond the length."""
    outside = _outside(lengths, features)
    values = features.masked_fill(outside, -torch.inf).sort(dim=1, descending=True, stable=True).values
    return values.masked_fill(outside, 0.0)


def sorted_weighted_sum(
    features: Tensor, weights: Tensor, lengths: Tensor, padding_value: float = -torch.inf
) -> Tensor:
    """sum_k weights[b, k] * (k-th largest of features[b, :L_b, d]) -> [B, D], at least float32.

    Args:
        features: [B, N, D].
        weights: [B, N], zero beyond the length.
        lengths: [B] in 1..N.
        padding_value: what stands for the rows beyond the length. Anything below every feature gives the same
            result; a feature below it would be taken for padding, and the padding value for a feature.
    """
    with torch.autocast(features.device.type, enabled=False):
        if features.device.type == "cpu" and features.dtype != torch.float64:
            pooled = _on_cpu(features.float(), weights.float(), lengths, padding_value)
            if pooled is not None:
                return pooled
        precision = torch.promote_types(features.dtype, torch.float32)
        result: Tensor = _TorchSort.apply(features, weights.to(precision), lengths, padding_value)
        return result


@torch.compiler.disable
def _on_cpu(features: Tensor, weights: Tensor, lengths: Tensor, padding_value: float) -> Tensor | None:
    """The packed sort; None where a feature lies below the padding value or a set is too large."""
    if features.shape[1] > LARGEST_SET or features.numel() == 0:
        return None
    keep = torch.is_grad_enabled() and (features.requires_grad or weights.requires_grad)
    packed = _PackedSort(features.detach().contiguous(), weights.detach(), lengths, keep=keep)
    if packed.smallest < padding_value:
        return None
    pooled: Tensor = _PackedFunction.apply(features, weights, packed)
    return pooled


def _outside(lengths: Tensor, features: Tensor) -> Tensor:
    positions = torch.arange(features.shape[1], device=features.device)
    return (positions >= lengths.to(features.device)[:, None])[:, :, None]


class _TorchSort(torch.autograd.Function):
    """The operator in torch's own terms, in the precision of `weights`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, lengths: Tensor, padding_value: float) -> Tensor:
        outside = _outside(lengths, features)
        values, order = features.masked_fill(outside, padding_value).sort(dim=1, descending=True, stable=True)
        values = values.masked_fill(outside, 0.0)
        ctx.save_for_backward(values, order, weights, outside)
        return torch.bmm(weights[:, None, :], values.to(weights.dtype)).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, order, weights, outside = ctx.saved_tensors
        (gradient,) = gradients
        grad_features = grad_weights = None
        if ctx.needs_input_grad[0]:
            spread = (weights[:, :, None] * gradient[:, None, :]).to(values.dtype)
            grad_features = torch.empty_like(spread).scatter_(1, order, spread).masked_fill_(outside, 0.0)
        if ctx.needs_input_grad[1]:
            grad_weights = torch.bmm(values.to(weights.dtype), gradient[:, :, None]).squeeze(2)
        return grad_features, grad_weights, None, None


class _PackedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, packed: "_PackedSort") -> Tensor:
        ctx.packed = packed
        return packed.pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradient = gradients[0].contiguous()
        grad_features = ctx.packed.gradient_of_features(gradient) if ctx.needs_input_grad[0] else None
        grad_weights = ctx.packed.gradient_of_weights(gradient) if ctx.needs_input_grad[1] else None
        return grad_features, grad_weights, None


class _PackedSort:
    """Forward and backward of the operator on a CPU, float32. Ranks ascend here: the k-th largest is at N - k.

    A piece of work is a slice of samples; only its longest sample's n positions are sorted.
    """

    def __init__(self, features: Tensor, weights: Tensor, lengths: Tensor, *, keep: bool) -> None:
        batch, self.size, self.dim = features.shape
        self.features = features
        self.lengths = lengths.cpu().numpy()
        self.longest = int(self.lengths.max())
        self.weights = np.ascontiguousarray(weights.numpy()[:, ::-1])
        self.pieces = _pieces(batch, self.size * self.dim)
        self.pooled = torch.empty(batch, self.dim)
        self.smallest = np.inf  # of the features in samples that are padded
        self.values = torch.empty(batch, self.dim, self.size) if keep else None
        self.order = np.empty((batch, self.dim, self.size), np.uint8 if self.size <= 256 else np.uint16)
        smallest = _in_threads(self._sort, self.pieces)
        self.smallest = min(smallest)
        del self.features  # autograd keeps what it needs

    def _sort(self, pieces: list[slice]) -> float:
        rows = pieces[0].stop - pieces[0].start
        moved = torch.empty(rows * self.dim * self.size)
        scratch = np.empty(rows * self.dim * self.size)
        pooled = self.pooled.numpy()
        weights = self.weights.astype(np.float64)
        smallest = np.inf
        for piece in pieces:
            lengths = self.lengths[piece]
            n, rows = int(lengths.max()), len(lengths)
            transposed = moved[: rows * self.dim * n].view(rows, self.dim, n)
            for row in range(rows):  # torch transposes a whole matrix in blocks, a batch element by element
                transposed[row].copy_(self.features[piece.start + row, :n].t())
            keys = scratch[: rows * self.dim * n].reshape(rows, self.dim, n)
            np.copyto(keys, transposed.numpy())
            if lengths.min() < n:
                keys += np.where(np.arange(n) < lengths[:, None], 0.0, BELOW_ALL)[:, None, :]
            bits = keys.view(np.int64)
            bits |= np.arange(n)
            keys.sort(axis=2)
            first = self.size - n
            np.einsum("bdn,bn->bd", keys, weights[piece, first:], out=pooled[piece], casting="same_kind")
            if n < self.longest or lengths.min() < n:
                least = np.take_along_axis(keys, (n - lengths)[:, None, None], axis=2)
                smallest = min(smallest, float(least[lengths < self.longest].min()))
            if self.values is not None:
                with np.errstate(over="ignore"):  # what stands for padding becomes -inf
                    np.copyto(self.values.numpy()[piece, :, first:], keys, casting="same_kind")
                np.copyto(self.order[piece, :, first:], bits, casting="unsafe")  # the low bits
        return smallest

    def gradient_of_weights(self, gradient: Tensor) -> Tensor:
        """[B, D] -> [B, N]."""
        assert self.values is not None
        ascending = torch.bmm(gradient[:, None, :], self.values).squeeze(1)
        inside = torch.arange(self.size) < torch.from_numpy(self.lengths)[:, None]
        return torch.where(inside, ascending.flip(1), 0.0)

    def gradient_of_features(self, gradient: Tensor) -> Tensor:
        """[B, D] -> [B, N, D]."""
        result = torch.empty(len(gradient), self.size, self.dim)
        weights = self.weights.view(np.uint32).astype(np.int64)
        upstream = gradient.numpy()[:, :, None]

        def spread(pieces: list[slice]) -> None:
            rows = pieces[0].stop - pieces[0].start
            scratch = np.empty(rows * self.dim * self.size, np.int64)
            moved = torch.empty(rows * self.dim * self.size)
            for piece in pieces:
                n = int(self.lengths[piece].max())
                rows = piece.stop - piece.start
                pairs = scratch[: rows * self.dim * n].reshape(rows, self.dim, n)
                np.copyto(pairs, self.order[piece, :, self.size - n :])
                pairs <<= 32
                pairs |= weights[piece, None, self.size - n :]
                pairs.sort(axis=2)
                spread_weights = pairs.view(np.float32)[:, :, LOW_HALF::2]
                transposed = moved[: rows * self.dim * n].view(rows, self.dim, n)
                np.multiply(spread_weights, upstream[piece], out=transposed.numpy())
                for row in range(rows):
                    result[piece.start + row, :n].copy_(transposed[row].t())
                result[piece, n:] = 0.0

        _in_threads(spread, self.pieces)
        return result


def _pieces(batch: int, elements_per_sample: int) -> list[slice]:
    rows = max(1, CHUNK_ELEMENTS // elements_per_sample)
    return [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]


def _in_threads(work: Callable[[list[slice]], Result], pieces: list[slice]) -> list[Result]:
    """Run `work` on shares of the pieces in as many threads as torch uses; NumPy lets go of the interpreter lock."""
    shares = min(torch.get_num_threads(), MAX_THREADS, len(pieces))
    if shares == 1:
        return [work(pieces)]
    pending = [_executor().submit(work, pieces[share::shares]) for share in range(1, shares)]
    return [work(pieces[::shares]), *(future.result() for future in pending)]


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="pooling")
