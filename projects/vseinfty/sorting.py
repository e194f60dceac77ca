"""Descending sort of each feature dimension over a set, and the weighted sum of what is sorted (eq. 3).

On a CPU the sort is nine tenths of GPO, so there it has a path of its own (`_PackedSort`):

- NumPy sorts short contiguous rows of 64-bit keys with vector instructions, an order of magnitude faster than
  torch sorts with indices. A float32 value seen as a float64 has 29 low bits to spare; they hold its position
  in the set. So one sort of the keys sorts the values exactly and carries the permutation along.
- The weighted sum is taken over the keys themselves: the position changes a value by less than 1e-13 of it.
- The gradient must go back through the permutation. Instead of a scatter, pairs (position, weight) are sorted
  as integers, which puts each weight where its value came from.
- It goes sample by sample, so that all of it happens in a core's own cache and only a sample's own length is
  sorted, in as many threads as torch uses (NumPy lets go of the interpreter lock).

Elsewhere (GPU, float64) the same operator is torch's sort with the backward pass written out. Where values
are equal the gradient goes to one choice of their order, on each path always the same one.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

PIECE_ELEMENTS = 40_000  # keys per piece of work: 320 kB, to stay in a core's second-level cache
MAX_THREADS = 8  # more would wait for the interpreter lock
LARGEST_SET = 65_536  # positions are kept in 16 bits
LOW_HALF = 0 if np.little_endian else 1  # of a 64-bit number seen as two of 32
BELOW_ALL = -(2.0**900)  # below every float32; a power of two, so its low bits are zero

Result = TypeVar("Result")


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
        on_cpu = features.device.type == "cpu" and features.dtype != torch.float64
        if (
            on_cpu and not torch.compiler.is_compiling()
        ):  # (the decorator that says so imports a second of torch)
            pooled = _on_cpu(features.float(), weights.float(), lengths, padding_value)
            if pooled is not None:
                return pooled
        precision = torch.promote_types(features.dtype, torch.float32)
        result: Tensor = _TorchSort.apply(features, weights.to(precision), lengths, padding_value)
        return result


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


def _on_cpu(features: Tensor, weights: Tensor, lengths: Tensor, padding_value: float) -> Tensor | None:
    """The packed sort of float32; None where a feature lies below the padding value or a set is too large."""
    if features.shape[1] > LARGEST_SET or features.numel() == 0:
        return None
    keep = torch.is_grad_enabled() and (features.requires_grad or weights.requires_grad)
    packed = _PackedSort(features.detach().contiguous(), weights.detach(), lengths, keep=keep)
    if packed.smallest < padding_value:
        return None
    pooled: Tensor = _PackedFunction.apply(features, weights, packed)
    return pooled


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
    """Forward and backward of the operator on a CPU. Ranks ascend here: the k-th largest stands at N - k.

    A piece of work is a slice of samples, of which the n positions of the longest are sorted.

    Attributes:
        pooled: [B, D] the weighted sums.
        smallest: the smallest feature of the samples that are padded.
    """

    def __init__(self, features: Tensor, weights: Tensor, lengths: Tensor, *, keep: bool) -> None:
        batch, self._size, self._dim = features.shape
        self._lengths = lengths.cpu().numpy()
        self._longest = int(self._lengths.max())
        self._weights = np.ascontiguousarray(weights.numpy()[:, ::-1])
        self._pieces = _pieces(batch, self._size * self._dim)
        self.pooled = torch.empty(batch, self._dim)
        self._values = self._order = None
        if keep:
            self._values = torch.empty(batch, self._dim, self._size)
            self._order = np.empty(self._values.shape, np.uint8 if self._size <= 256 else np.uint16)
        self.smallest = min(_in_threads(lambda pieces: self._sort(features, pieces), self._pieces))

    def _scratch(self, pieces: list[slice], dtype: type) -> tuple[Tensor, np.ndarray]:
        """Room for the largest piece: float32, and 64-bit numbers."""
        elements = max(piece.stop - piece.start for piece in pieces) * self._dim * self._size
        return torch.empty(elements), np.empty(elements, dtype)

    def _sort(self, features: Tensor, pieces: list[slice]) -> float:
        """Forward of some pieces; gives the smallest feature of their padded samples."""
        single, double = self._scratch(pieces, np.float64)
        smallest = np.inf
        for piece in pieces:
            lengths = self._lengths[piece]
            n = int(lengths.max())
            shape, first = (len(lengths), self._dim, n), self._size - n
            transposed = single[: np.prod(shape)].view(shape)
            for row, into in enumerate(transposed, piece.start):
                into.copy_(features[row, :n].t())  # torch is quick with a matrix, not with a batch of them
            keys = double[: np.prod(shape)].reshape(shape)
            np.copyto(keys, transposed.numpy())
            if lengths.min() < n:
                keys += np.where(np.arange(n) < lengths[:, None], 0.0, BELOW_ALL)[:, None, :]
            bits = keys.view(np.int64)
            bits |= np.arange(n)
            keys.sort(axis=2)
            weights = self._weights[piece, first:].astype(np.float64)
            np.einsum("bdn,bn->bd", keys, weights, out=self.pooled.numpy()[piece], casting="same_kind")
            padded = lengths < self._longest
            if padded.any():
                least = np.take_along_axis(keys, (n - lengths)[:, None, None], axis=2)
                smallest = min(smallest, float(least[padded].min()))
            if self._values is not None and self._order is not None:
                with np.errstate(over="ignore"):  # BELOW_ALL becomes -inf
                    np.copyto(self._values.numpy()[piece, :, first:], keys, casting="same_kind")
                np.copyto(self._order[piece, :, first:], bits, casting="unsafe")  # the low bits
        return smallest

    def gradient_of_weights(self, gradient: Tensor) -> Tensor:
        """[B, D] -> [B, N]."""
        assert self._values is not None
        ascending = torch.bmm(gradient[:, None, :], self._values).squeeze(1)
        inside = torch.arange(self._size) < torch.from_numpy(self._lengths)[:, None]
        return torch.where(inside, ascending.flip(1), 0.0)

    def gradient_of_features(self, gradient: Tensor) -> Tensor:
        """[B, D] -> [B, N, D]."""
        result = torch.empty(len(gradient), self._size, self._dim)
        _in_threads(lambda pieces: self._spread(gradient, result, pieces), self._pieces)
        return result

    def _spread(self, gradient: Tensor, result: Tensor, pieces: list[slice]) -> None:
        """Backward of some pieces, into `result`."""
        assert self._order is not None
        single, double = self._scratch(pieces, np.int64)
        for piece in pieces:
            n = int(self._lengths[piece].max())
            shape, first = (piece.stop - piece.start, self._dim, n), self._size - n
            pairs = double[: np.prod(shape)].reshape(shape)
            np.copyto(pairs, self._order[piece, :, first:])
            pairs <<= 32
            pairs |= self._weights[piece, None, first:].view(np.uint32)
            pairs.sort(axis=2)
            transposed = single[: np.prod(shape)].view(shape)
            weights = pairs.view(np.float32)[:, :, LOW_HALF::2]
            np.multiply(weights, gradient.numpy()[piece, :, None], out=transposed.numpy())
            for row, of_row in enumerate(transposed, piece.start):
                result[row, :n].copy_(of_row.t())
            result[piece, n:] = 0.0


def _pieces(batch: int, elements_per_sample: int) -> list[slice]:
    rows = max(1, PIECE_ELEMENTS // elements_per_sample)
    return [slice(start, min(start + rows, batch)) for start in range(0, batch, rows)]


def _in_threads(work: Callable[[list[slice]], Result], pieces: list[slice]) -> list[Result]:
    """Run `work` on shares of the pieces, one of them in the calling thread."""
    shares = min(torch.get_num_threads(), MAX_THREADS, len(pieces))
    pending = [_executor().submit(work, pieces[share::shares]) for share in range(1, shares)]
    return [work(pieces[::shares]), *(future.result() for future in pending)]


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="pooling")


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_executor.cache_clear)
