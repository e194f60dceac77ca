"""Retrieval ranks without sorting and without the similarity matrix.

The rank of a query is the number of items that score higher than its best target. Items are compared tile by
tile in float32, in both directions from one product; what float32 cannot decide (scores within its rounding
error of the target's) is computed again in float64, so the ranks are those of float64 similarities. Extra
memory: a few tiles.

Ties: a rank counts the items with a strictly larger score, and those with an equal score at a later index, as
a descending stable sort of the reversed list would place them (equal: within the rounding error of float64
products, or exactly for given similarities). Other targets of the query never count.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError

Embeddings = np.ndarray | Tensor
Targets = Sequence[np.ndarray] | Sequence[Sequence[int]] | np.ndarray | tuple[np.ndarray, np.ndarray]
"""Per query its target items: lists of indices; an int array [Q] (one each); or CSR (offsets [Q + 1],
indices)."""
ScoreBlock = Callable[[slice, slice], np.ndarray | Tensor]

_TILE_CPU, _TILE_CUDA = 1024, 8160  # a tile of 4 MB stays in the cache; its width / 8 fits a byte on the CPU
_PAIRS_NUMBERS = 1 << 16  # numbers of pairs at a time: 512 KB of float64
_LANES = 255  # summands of a byte-wise sum


@dataclass(frozen=True)
class Ranks:
    """0-based `ranks` [Q] int64, and the number of (query, item that is no target) pairs that tie with a
    target."""

    ranks: np.ndarray
    ties: int


@dataclass(frozen=True)
class PairedRanks:
    """0-based ranks of both directions: of `queries` [Q] among the items, of `items` [N] among the queries;
    ties."""

    queries: np.ndarray
    items: np.ndarray
    ties: int


def paired_ranks(
    queries: Embeddings, items: Embeddings, *, per_query: int, dtype: torch.dtype = torch.float32
) -> PairedRanks:
    """Both directions of image-text retrieval from one product of `queries` [Q, D] and `items` [per_query *
    Q, D].

    Items per_query * i ... per_query * (i + 1) - 1 belong to query i. Score = dot product. dtype: of the
    product; with float64 nothing is computed twice, the ranks are the same.
    """
    x, y = _tensors(queries, items)
    return _paired(_Products(x, y, dtype), per_query)


def paired_ranks_of_scores(
    scores: Embeddings | ScoreBlock, num_queries: int, *, per_query: int, rounding: float = 0.0
) -> PairedRanks:
    """`paired_ranks` of given similarities: a matrix [Q, per_query * Q], or `scores(rows, columns)` -> that
    part of it.

    Compared as they are (float64 stays float64). A memory-mapped matrix is read twice at its targets, else
    once. rounding: by how much two answers of a function for the same pair may differ; equal within it is a
    tie.
    """
    return _paired(_Given(scores, num_queries, per_query * num_queries, rounding), per_query)


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

    self_items: for each query the item [Q] that is the query itself; it stays in the list with score
    `self_score`.
    """
    x, y = _tensors(queries, items)
    scores = _Products(x, y, dtype)
    if self_items is not None:
        scores.own(torch.as_tensor(self_items, device=x.device), self_score)
    rows = _side_of(scores, targets)
    _sweep(scores, rows, None)
    return rows.result()


def ranks_among_themselves(
    items: Embeddings, targets: Targets, *, self_score: float = 0.0, dtype: torch.dtype = torch.float32
) -> Ranks:
    """`ranks_of_targets` with the items [N, D] as queries: half the product, as the similarities are
    symmetric."""
    x, y = _tensors(items, items)
    scores = _Products(x, y, dtype)
    scores.own(torch.arange(len(x), device=x.device), self_score)
    side = _side_of(scores, targets)
    _sweep(scores, side, side)
    return side.result()


class _Scores(Protocol):
    """Similarities [rows, columns] that can be computed in tiles."""

    shape: tuple[int, int]
    device: torch.device
    exact: bool  # tiles need no second look

    def tile(self, rows: slice, columns: slice, exact: bool) -> Tensor: ...

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor: ...

    def slack(self, transposed: bool, exact: bool) -> Tensor | float: ...


class _Products:
    """Dot products of `x` [Q, D] and `y` [N, D]."""

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
        self.x, self.y, self.exact = x, y, dtype == torch.float64
        self.shape, self.device = (len(x), len(y)), x.device
        self.fast = (x.to(dtype), y.to(dtype))
        self.norms = tuple(torch.linalg.vector_norm(side, dim=1).double() for side in (x, y))
        self.buffer = torch.empty(0, dtype=dtype, device=x.device)
        self.self_items: Tensor | None = None
        self.self_score = 0.0

    def own(self, items: Tensor, score: float) -> None:
        """Give the pairs (row, items[row]) the constant `score`."""
        self.self_items, self.self_score = items, score

    def tile(self, rows: slice, columns: slice, exact: bool) -> Tensor:
        """Scores [rows, columns]; valid until the next call."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if exact and not self.exact:
            tile = self.x[rows].double() @ self.y[columns].double().T
        else:
            if self.buffer.numel() < height * width:
                self.buffer = self.buffer.new_empty(height * width)
            tile = self.buffer[: height * width].view(height, width)
            torch.mm(self.fast[0][rows], self.fast[1][columns].T, out=tile)
        if self.self_items is not None:
            own = self.self_items[rows]
            inside = torch.nonzero((own >= columns.start) & (own < columns.stop))[:, 0]
            tile[inside, own[inside] - columns.start] = self.self_score
        return tile

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """float64 scores of single pairs."""
        step = max(1, _PAIRS_NUMBERS // max(1, self.x.shape[1]))
        scores = torch.empty(len(rows), dtype=torch.float64, device=self.device)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            products = self.x[rows[part]].double().mul_(self.y[columns[part]])
            torch.sum(products, 1, out=scores[part])
        if self.self_items is not None:
            scores = torch.where(self.self_items[rows] == columns, self.self_score, scores)
        return scores

    def slack(self, transposed: bool, exact: bool) -> Tensor:
        """Bound of the rounding error of a row's (transposed: a column's) scores.

        sqrt(D) * unit is the growth of random errors, which we double; D * unit the one that is sure, for
        small D.
        """
        lines, others = self.norms[::-1] if transposed else self.norms
        size = self.x.shape[1]
        unit = torch.finfo(torch.float64 if exact else self.fast[0].dtype).eps / 2
        return (max(min(size, 64), 2 * size**0.5) + 2) * unit * lines * others.max()


class _Given:
    """Similarities that exist already."""

    exact = True

    def __init__(
        self, scores: Embeddings | ScoreBlock, num_rows: int, num_columns: int, rounding: float
    ) -> None:
        if not callable(scores) and tuple(scores.shape) != (num_rows, num_columns):
            raise ValueError(f"similarities [{num_rows}, {num_columns}] expected, found {list(scores.shape)}")
        self.scores, self.shape, self.rounding = scores, (num_rows, num_columns), rounding
        self.device = scores.device if isinstance(scores, Tensor) else torch.device("cpu")

    def tile(self, rows: slice, columns: slice, exact: bool) -> Tensor:
        """Scores [rows, columns]."""
        part = self.scores(rows, columns) if callable(self.scores) else self.scores[rows, columns]
        tile = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
        if not bool(torch.isfinite(tile.sum())):
            raise InputError(f"the similarities of rows {rows.start} to {rows.stop - 1} hold NaN or infinity")
        return tile

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores of single pairs, as float64; `rows` ascending."""
        lines, counts = torch.unique_consecutive(rows, return_counts=True)
        found = []
        for line, at in zip(lines.tolist(), columns.split(counts.tolist()), strict=True):
            first, last = int(at.min()), int(at.max())
            part = self.tile(slice(line, line + 1), slice(first, last + 1), True)
            found.append(part[0, at - first].double())
        return torch.cat(found)

    def slack(self, transposed: bool, exact: bool) -> float:
        """By how much a score may differ from the same one asked for again."""
        return self.rounding


class _Side:
    """One direction: the best target of each line (a row, or transposed a column) and what has been counted
    so far."""

    def __init__(
        self, scores: _Scores, lines: Tensor, others: Tensor, pairs: Tensor, *, transposed: bool
    ) -> None:
        """lines, others: the target pairs, ascending by line; pairs: their scores."""
        self.transposed = transposed
        count, device = scores.shape[transposed], scores.device
        self.lines, self.others = lines, others
        self.best = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.best_at = torch.zeros(count, dtype=torch.int64, device=device)
        order = _lexsort(lines, pairs, others)
        last = torch.ones(
            len(order), dtype=torch.bool, device=device
        )  # of its line: the best, of equal ones the latest
        last[:-1] = lines[order[1:]] != lines[order[:-1]]
        best = order[last]
        self.best[lines[best]] = pairs[best]
        self.best_at[lines[best]] = others[best]
        self.asked = torch.isfinite(self.best)
        self.tolerance = torch.as_tensor(scores.slack(transposed, True), device=device).expand(count)
        slack = torch.as_tensor(scores.slack(transposed, scores.exact), device=device)
        self.above, self.below = self.best + slack, self.best - slack
        self.larger = torch.zeros(count, dtype=torch.int64, device=device)
        self.larger[~self.asked] = scores.shape[not transposed]
        self.ties = 0

    def result(self) -> Ranks:
        return Ranks(self.larger.cpu().numpy(), self.ties)

    def count(self, scores: _Scores, tile: Tensor, lines: slice, others: slice, transposed: bool) -> None:
        """Add what `tile` says about these lines; transposed: the tile's columns are the lines."""
        shape = (1, -1) if transposed else (-1, 1)
        larger = _count_true(tile, torch.gt, self.above[lines].to(tile.dtype).view(shape), transposed)
        near = _count_true(tile, torch.ge, self.below[lines].to(tile.dtype).view(shape), transposed) - larger
        best_at = self.best_at[lines]
        has_target = (best_at >= others.start) & (best_at < others.stop) & self.asked[lines]
        near -= has_target.long()  # the target is near itself
        undecided = torch.nonzero(near)[:, 0]
        if len(undecided):
            part = tile[:, undecided].T if transposed else tile[undecided]
            if scores.exact or int(near.sum()) > tile.numel() // 256:
                if not scores.exact:
                    whole = (
                        scores.tile(others, lines, True) if transposed else scores.tile(lines, others, True)
                    )
                    part = whole[:, undecided].T if transposed else whole[undecided]
                larger[undecided] = self._decide(part, undecided + lines.start, others)
            else:
                larger[undecided] += self._look_again(
                    scores, part, undecided + lines.start, others, transposed
                )
        self.larger[lines] += larger

    def _decide(self, part: Tensor, lines: Tensor, others: slice) -> Tensor:
        """How many of `part` [lines, others], in final precision, come before the best target of their
        line."""
        part = part.double()
        difference = part - self.best[lines, None]
        equal = difference.abs() <= self.tolerance[lines, None]
        before = difference > self.tolerance[lines, None]
        target = self._targets_in(lines, others)
        equal[target] = before[target] = False
        self.ties += int(equal.sum())
        later = torch.arange(others.start, others.stop, device=part.device) > self.best_at[lines, None]
        return (before | (equal & later)).sum(1)

    def _look_again(
        self, scores: _Scores, part: Tensor, lines: Tensor, others: slice, transposed: bool
    ) -> Tensor:
        """How many of the undecided scores in `part` come before the best target, by their float64 scores."""
        limits = (self.below[lines, None].to(part.dtype), self.above[lines, None].to(part.dtype))
        near = (part >= limits[0]) & ~(part > limits[1])
        near[self._targets_in(lines, others)] = False
        at, other = torch.nonzero(near, as_tuple=True)
        if not len(at):
            return torch.zeros(len(lines), dtype=torch.int64, device=part.device)
        line, other = lines[at], other + others.start
        difference = (scores.pairs(other, line) if transposed else scores.pairs(line, other)) - self.best[
            line
        ]
        equal = difference.abs() <= self.tolerance[line]
        self.ties += int(equal.sum())
        before = (difference > self.tolerance[line]) | (equal & (other > self.best_at[line]))
        return torch.bincount(at, weights=before, minlength=len(lines)).long()

    def _targets_in(self, lines: Tensor, others: slice) -> tuple[Tensor, Tensor]:
        """Where in a part [lines (ascending), others] the targets of the lines are."""
        first, last = torch.searchsorted(self.lines, lines), torch.searchsorted(self.lines, lines, right=True)
        counts = last - first
        at = torch.repeat_interleave(torch.arange(len(lines), device=lines.device), counts)
        starts = torch.repeat_interleave(first - (counts.cumsum(0) - counts), counts)
        target = self.others[starts + torch.arange(len(at), device=lines.device)]
        inside = (target >= others.start) & (target < others.stop)
        return at[inside], target[inside] - others.start


def _side_of(scores: _Scores, targets: Targets) -> _Side:
    lines, others = (
        torch.as_tensor(part, device=scores.device) for part in _target_pairs(targets, *scores.shape)
    )
    return _Side(scores, lines, others, scores.pairs(lines, others), transposed=False)


def _sweep(scores: _Scores, rows: _Side, columns: _Side | None) -> None:
    """Count over all tiles; `columns is rows`: the scores are symmetric, and half of the tiles tell
    everything."""
    symmetric = columns is rows
    for at in _blocks(scores.shape[0], scores.device):
        for over in _blocks(scores.shape[1], scores.device):
            if symmetric and over.start < at.start:
                continue
            with _full_precision(scores.device):
                tile = scores.tile(at, over, False)
                rows.count(scores, tile, at, over, transposed=False)
                if columns is not None and not (symmetric and over.start == at.start):
                    columns.count(scores, tile, over, at, transposed=True)


def _paired(scores: _Scores, per_query: int) -> PairedRanks:
    num_queries, num_items = scores.shape
    if num_queries < 1 or num_items != per_query * num_queries:
        raise ValueError(f"{num_queries} queries need {per_query * num_queries} items, found {num_items}")
    items = torch.arange(num_items, device=scores.device)
    queries = items // per_query
    pairs = scores.pairs(queries, items)
    rows = _Side(scores, queries, items, pairs, transposed=False)
    columns = _Side(scores, items, queries, pairs, transposed=True)
    _sweep(scores, rows, columns)
    return PairedRanks(rows.result().ranks, columns.result().ranks, rows.ties + columns.ties)


def _tensors(queries: Embeddings, items: Embeddings) -> tuple[Tensor, Tensor]:
    found = []
    for name, values in (("queries", queries), ("items", items)):
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
        if tensor.ndim != 2:
            raise ValueError(f"{name}: expected [rows, dimensions], found shape {list(tensor.shape)}")
        tensor = (
            tensor.detach() if tensor.dtype in (torch.float32, torch.float64) else tensor.detach().float()
        )
        broken = int((~torch.isfinite(tensor.sum(1))).sum())
        if broken:
            raise InputError(f"the embeddings of {broken} of {len(tensor)} {name} hold NaN or infinity")
        found.append(tensor)
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(f"queries have {found[0].shape[1]} dimensions, items {found[1].shape[1]}")
    return found[0], found[1]


def _target_pairs(targets: Targets, num_lines: int, num_others: int) -> tuple[np.ndarray, np.ndarray]:
    """(line, target) of every pair, ascending by line."""
    if isinstance(targets, tuple):
        offsets, flat = (np.asarray(part, np.int64) for part in targets)
    elif isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype != object:
        offsets, flat = np.arange(len(targets) + 1), targets.astype(np.int64)
    else:
        lists = [np.asarray(rows, np.int64) for rows in targets]
        offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in lists])]).astype(np.int64)
        flat = np.concatenate([*lists, np.empty(0, np.int64)])
    if len(offsets) != num_lines + 1 or offsets[-1] != len(flat):
        raise ValueError(f"targets for {num_lines} queries expected, found {len(offsets) - 1}")
    if len(flat) and (flat.min() < 0 or flat.max() >= num_others):
        raise ValueError(f"a target outside the {num_others} items")
    return np.repeat(np.arange(num_lines), np.diff(offsets)), flat


def _count_true(tile: Tensor, compare: Callable[..., Tensor], limit: Tensor, transposed: bool) -> Tensor:
    """How often `compare(tile, limit)` holds in each row (transposed: column), int64.

    The truth bytes are added eight at a time as the bytes of 64-bit integers: no more than 255 of each.
    """
    height, width = tile.shape
    padded = -(-width // 8) * 8
    mask = torch.empty((height, padded), dtype=torch.bool, device=tile.device)
    mask[:, width:] = False
    compare(tile, limit, out=mask[:, :width])
    lanes = mask.view(torch.int64)
    dim = 0 if transposed else 1
    total = torch.zeros(
        (padded // 8, 8) if transposed else (height, 8), dtype=torch.int64, device=tile.device
    )
    for part in lanes.split(_LANES, dim):
        total += part.sum(dim).view(torch.uint8).view(-1, 8)
    return total.view(-1)[:width] if transposed else total.sum(1)


def _blocks(count: int, device: torch.device) -> Iterator[slice]:
    """Slices of nearly equal length, multiples of 8, no longer than a tile."""
    longest = _TILE_CPU if device.type == "cpu" else _TILE_CUDA
    parts = max(1, -(-count // longest))
    length = -(-count // (8 * parts)) * 8
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def _lexsort(*keys: Tensor) -> Tensor:
    """Order by the first key, then the second, ..."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    return order


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """No TF32, no bf16 products, no autocast: the error bound counts on float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
