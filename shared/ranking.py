"""Retrieval ranks without sorting and without the similarity matrix.

The rank of a query is the number of items that come before its best target. Items are compared tile by tile
in float32, in both directions from one product; what float32 cannot decide (scores within its rounding error
of the target's) is computed again in float64: the ranks are those of float64 similarities. Extra memory: a
few tiles.

Ties: an item comes before the target when its score is larger, or equal with a later index, as in an
ascending sort that is read backwards. Equal is: within the rounding error of float64 products, or exactly for
given similarities. Other targets of the same query never count.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.similarities import Embeddings, Given, Products, ScoreBlock, Scores

Targets = Sequence[np.ndarray] | Sequence[Sequence[int]] | np.ndarray | tuple[np.ndarray, np.ndarray]
"""Targets per query: lists of items, an int array [Q] (one each), or CSR (offsets [Q + 1], items)."""

_TILE_CPU, _TILE_CUDA = 2048, 8192  # sides: 16 MB, which the last cache holds; larger ones for a GPU
_DENSE = 1 / 64  # of a tile: so many undecided scores are cheaper computed all at once


@dataclass(frozen=True)
class Ranks:
    """0-based `ranks` [Q] int64; `ties`: pairs of a query and an item, no target, equal to the best target."""

    ranks: np.ndarray
    ties: int


@dataclass(frozen=True)
class PairedRanks:
    """0-based ranks of `queries` [Q] among the items and of `items` [N] among the queries; ties of both."""

    queries: np.ndarray
    items: np.ndarray
    ties: int


def paired_ranks(
    queries: Embeddings, items: Embeddings, *, per_query: int, dtype: torch.dtype = torch.float32
) -> PairedRanks:
    """Both directions of retrieval between `queries` [Q, D] and `items` [per_query * Q, D] by dot product.

    Items per_query * i ... per_query * (i + 1) - 1 belong to query i. dtype: of the product; float64 computes
    nothing twice and gives the same ranks. InputError when an embedding is not finite.
    """
    return _paired(Products(queries, items, dtype), per_query)


def paired_ranks_of_scores(
    scores: Embeddings | ScoreBlock, num_queries: int, *, per_query: int, rounding: float = 0.0
) -> PairedRanks:
    """`paired_ranks` of similarities: a matrix [Q, per_query * Q], or `scores(rows, columns)` -> that part.

    Compared as they are (float64 stays float64); a memory-mapped matrix is read once, its targets twice.
    rounding: by how much two answers of a function for the same pair may differ; scores within it are equal.
    """
    return _paired(Given(scores, (num_queries, per_query * num_queries), rounding), per_query)


def ranks_of_targets(
    queries: Embeddings,
    items: Embeddings,
    targets: Targets,
    *,
    self_items: np.ndarray | None = None,
    self_score: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Ranks:
    """Rank of the best target of each query [Q, D] among `items` [N, D]; N for a query without targets.

    self_items: the item [Q] that is the query itself; it stays in the list, with the score `self_score`.
    """
    scores = Products(queries, items, dtype)
    if self_items is not None:
        scores.set_self(torch.as_tensor(self_items), self_score)
    rows = _direction(scores, targets)
    _sweep(scores, rows, None)
    return rows.result()


def ranks_among_themselves(
    items: Embeddings, targets: Targets, *, self_score: float = 0.0, dtype: torch.dtype = torch.float32
) -> Ranks:
    """`ranks_of_targets` of all items [N, D] among themselves, for half the products: they are symmetric."""
    scores = Products(items, items, dtype)
    scores.set_self(torch.arange(len(items)), self_score)
    side = _direction(scores, targets)
    _sweep(scores, side, side)
    return side.result()


class _Direction:
    """The queries of one direction ("lines": rows, or columns): their best targets, and the counts so far."""

    def __init__(
        self, scores: Scores, lines: Tensor, others: Tensor, pairs: Tensor, transposed: bool
    ) -> None:
        """lines, others: the target pairs, ascending by line; pairs: their scores."""
        count, device = scores.shape[transposed], scores.device
        self.lines, self.others = lines, others
        order = _lexsort(lines, pairs, others)
        is_best = torch.ones(len(order), dtype=torch.bool, device=device)  # the last of its line
        is_best[:-1] = lines[order[1:]] != lines[order[:-1]]
        best = order[is_best]
        self.best = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.best_at = torch.full((count,), -1, dtype=torch.int64, device=device)
        self.best[lines[best]], self.best_at[lines[best]] = pairs[best], others[best]
        self.tolerance = torch.as_tensor(scores.slack(transposed, True), device=device).expand(count)
        slack = torch.as_tensor(scores.slack(transposed, scores.exact), device=device)
        self.above, self.below = self.best + slack, self.best - slack
        self.before = torch.zeros(count, dtype=torch.int64, device=device)
        self.before[self.best_at < 0] = scores.shape[not transposed]
        self.ties = 0
        self.buffer = torch.empty(0, device=device)

    def result(self) -> Ranks:
        return Ranks(self.before.cpu().numpy(), self.ties)

    def count(self, scores: Scores, tile: Tensor, lines: slice, others: slice, transposed: bool) -> None:
        """Add what a tile says about these lines; transposed: they are the columns of the tile."""
        above, below, best_at = self.above[lines], self.below[lines], self.best_at[lines]
        truth = self._buffer_like(tile)
        reached = _count_true(torch.ge, tile, below, transposed, truth)
        some = torch.nonzero(reached)[:, 0]  # lines where an item may come before the target: often few
        if len(some) < len(reached) // 4:
            part = tile.index_select(1 if transposed else 0, some)
            before = torch.zeros_like(reached)
            before[some] = _count_true(torch.gt, part, above[some], transposed, torch.empty_like(part))
        else:
            before = _count_true(torch.gt, tile, above, transposed, truth)
        near = reached - before
        near -= ((best_at >= others.start) & (best_at < others.stop)).long()  # the best target itself
        undecided = torch.nonzero(near)[:, 0]
        if len(undecided):
            if not scores.exact and int(near.sum()) > tile.numel() * _DENSE:
                tile = scores.tile(others, lines, True) if transposed else scores.tile(lines, others, True)
            part = tile[:, undecided].T if transposed else tile[undecided]
            at = undecided + lines.start
            if scores.exact or part.dtype == torch.float64:
                before[undecided] = self._decide(part, at, others)
            else:
                before[undecided] += self._look_again(scores, part, at, others, transposed)
        self.before[lines] += before

    def _buffer_like(self, tile: Tensor) -> Tensor:
        if self.buffer.numel() < tile.numel() or self.buffer.dtype != tile.dtype:
            self.buffer = tile.new_empty(tile.numel())
        return self.buffer[: tile.numel()].view(tile.shape)

    def _decide(self, part: Tensor, lines: Tensor, others: slice) -> Tensor:
        """How many of `part` [lines, others], in final precision, come before their line's best target."""
        difference = part.double() - self.best[lines, None]
        equal = difference.abs() <= self.tolerance[lines, None]
        larger = difference > self.tolerance[lines, None]
        targets = self._targets_in(lines, others)
        equal[targets] = larger[targets] = False
        self.ties += int(equal.sum())
        later = torch.arange(others.start, others.stop, device=part.device) > self.best_at[lines, None]
        return (larger | (equal & later)).sum(1)

    def _look_again(
        self, scores: Scores, part: Tensor, lines: Tensor, others: slice, transposed: bool
    ) -> Tensor:
        """How many of the undecided scores of `part` come before the best target, by their float64 scores."""
        above, below = self.above[lines, None].to(part.dtype), self.below[lines, None].to(part.dtype)
        near = torch.ge(part, below, out=torch.empty_like(part))  # see _count_true
        near -= torch.gt(part, above, out=torch.empty_like(part))
        near[self._targets_in(lines, others)] = 0
        at, other = (
            torch.nonzero(near.T, as_tuple=True)[::-1] if transposed else torch.nonzero(near, as_tuple=True)
        )
        line, other = lines[at], other + others.start
        exact = scores.pairs(other, line) if transposed else scores.pairs(line, other)
        difference = exact - self.best[line]
        equal = difference.abs() <= self.tolerance[line]
        self.ties += int(equal.sum())
        before = (difference > self.tolerance[line]) | (equal & (other > self.best_at[line]))
        return torch.bincount(at[before], minlength=len(lines))

    def _targets_in(self, lines: Tensor, others: slice) -> tuple[Tensor, Tensor]:
        """Where the targets of the lines (ascending) are in a part [lines, others]."""
        first, last = torch.searchsorted(self.lines, lines), torch.searchsorted(self.lines, lines, right=True)
        counts = last - first
        at = torch.repeat_interleave(torch.arange(len(lines), device=lines.device), counts)
        shift = torch.repeat_interleave(first - (counts.cumsum(0) - counts), counts)
        target = self.others[torch.arange(len(at), device=lines.device) + shift]
        inside = (target >= others.start) & (target < others.stop)
        return at[inside], target[inside] - others.start


def _direction(scores: Scores, targets: Targets) -> _Direction:
    lines, others = (
        torch.from_numpy(part).to(scores.device) for part in _target_pairs(targets, scores.shape)
    )
    return _Direction(scores, lines, others, scores.pairs(lines, others), transposed=False)


def _paired(scores: Scores, per_query: int) -> PairedRanks:
    num_queries, num_items = scores.shape
    if num_queries < 1 or num_items != per_query * num_queries:
        raise ValueError(f"{num_queries} queries need {per_query * num_queries} items, found {num_items}")
    items = torch.arange(num_items, device=scores.device)
    queries = items // per_query
    pairs = scores.pairs(queries, items)
    rows = _Direction(scores, queries, items, pairs, transposed=False)
    columns = _Direction(scores, items, queries, pairs, transposed=True)
    _sweep(scores, rows, columns)
    return PairedRanks(rows.result().ranks, columns.result().ranks, rows.ties + columns.ties)


def _sweep(scores: Scores, rows: _Direction, columns: _Direction | None) -> None:
    """Count over all tiles; `columns is rows`: scores are symmetric, one triangle of tiles tells all."""
    symmetric = columns is rows
    with _full_precision(scores.device):
        for down, across in _tiles(scores.shape, scores.device, symmetric):
            tile = scores.tile(down, across, False)
            rows.count(scores, tile, down, across, transposed=False)
            if columns is not None and not (symmetric and across == down):
                columns.count(scores, tile, across, down, transposed=True)


def _tiles(shape: tuple[int, int], device: torch.device, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of all tiles, or of those of the upper triangle; those of the same columns in a row."""
    for across in _blocks(shape[1], device):
        for down in _blocks(shape[0], device):
            if (
                symmetric and down.start == across.start
            ):  # three quarters of a tile on the diagonal are enough
                middle = (across.start + across.stop) // 2
                first, second = slice(across.start, middle), slice(middle, across.stop)
                yield from ((first, first), (first, second), (second, second))
            elif not symmetric or down.start < across.start:
                yield down, across


def _target_pairs(targets: Targets, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(line, target) of every pair, ascending by line."""
    if isinstance(targets, tuple):
        offsets, flat = (np.asarray(part, np.int64) for part in targets)
    elif isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype != object:
        offsets, flat = np.arange(len(targets) + 1), targets.astype(np.int64)
    else:
        lists = [np.asarray(items, np.int64) for items in targets]
        offsets = np.cumsum([0, *map(len, lists)])
        flat = np.concatenate([*lists, np.empty(0, np.int64)])
    if len(offsets) != shape[0] + 1 or offsets[-1] != len(flat):
        raise ValueError(f"targets for {shape[0]} queries expected, found {len(offsets) - 1}")
    if len(flat) and (flat.min() < 0 or flat.max() >= shape[1]):
        raise ValueError(f"a target outside the {shape[1]} items")
    return np.repeat(np.arange(shape[0]), np.diff(offsets)), flat


def _count_true(
    compare: Callable[..., Tensor], tile: Tensor, limits: Tensor, transposed: bool, truth: Tensor
) -> Tensor:
    """How often `compare(tile, limit)` holds in each row (transposed: in each column), int64.

    `truth`, a buffer of the tile's type: written as zeros and ones of this type a comparison is ten times as
    fast as with bool (torch 2.14, CPU), and such numbers are added exactly.
    """
    limits = limits.to(tile.dtype).view((1, -1) if transposed else (-1, 1))
    return compare(tile, limits, out=truth).sum(0 if transposed else 1).long()


def _blocks(count: int, device: torch.device) -> Iterator[slice]:
    """Slices of nearly equal length, a multiple of 8, no longer than a tile."""
    parts = max(1, -(-count // (_TILE_CPU if device.type == "cpu" else _TILE_CUDA)))
    length = max(1, -(-count // (8 * parts))) * 8
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def _lexsort(*keys: Tensor) -> Tensor:
    """The order by the first key, within it by the second, and so on."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    return order


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """No TF32 or bf16 in float32 products, no autocast: the bound of the rounding error relies on it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
