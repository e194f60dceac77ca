"""Similarities of queries and items that are never all in memory: computed, or read, tile by tile."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from shared.packed_linear import Product, product_with

Embeddings = np.ndarray | Tensor
ScoreBlock = Callable[[slice, slice], np.ndarray | Tensor]
"""`block(rows, columns)`: that part of the similarities."""

_PAIR_NUMBERS = 1 << 18  # numbers of single pairs at a time: 2 MB of float64


class Scores(Protocol):
    """Similarities [rows, columns]."""

    shape: tuple[int, int]
    device: torch.device
    exact: bool
    """Whether every tile has its final precision."""

    def tile(self, rows: slice, columns: slice, exact: bool) -> Tensor:
        """A part of the similarities; exact: in final precision."""
        ...

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """float64 scores of single pairs, in final precision; `rows` ascending."""
        ...

    def slack(self, transposed: bool, exact: bool) -> Tensor | float:
        """By how much scores of a row (transposed: of a column) may differ from the same ones of `pairs`."""
        ...


class Products:
    """Dot products of `x` [Q, D] and `y` [N, D], in tiles of `dtype`; pairs and exact tiles in float64."""

    def __init__(self, x: Embeddings, y: Embeddings, dtype: torch.dtype = torch.float32) -> None:
        self.x = _checked(x, "queries")
        self.y = self.x if y is x else _checked(y, "items")
        if self.x.dtype != self.y.dtype:
            self.x, self.y = self.x.double(), self.y.double()
        if self.x.shape[1] != self.y.shape[1]:
            raise ValueError(f"queries have {self.x.shape[1]} dimensions, items {self.y.shape[1]}")
        if not len(self.y):
            raise ValueError("no items to rank")
        self.shape, self.device = (len(self.x), len(self.y)), self.x.device
        self.exact = dtype == torch.float64
        self.fast = (self.x.to(dtype), self.y.to(dtype))
        self.norms = [torch.linalg.vector_norm(side, dim=1).double() for side in (self.x, self.y)]
        self.self_items: Tensor | None = None
        self.self_score = 0.0
        self.laid_out: tuple[slice, int, Product] | None = None  # the columns of the last tile

    def set_self(self, items: Tensor, score: float) -> None:
        """Give the pairs (row, items[row]) the constant `score`."""
        self.self_items, self.self_score = items.to(self.device), score

    def tile(self, rows: slice, columns: slice, exact: bool) -> Tensor:
        """Scores [rows, columns]."""
        if exact and not self.exact:
            tile = self.x[rows].double() @ self.y[columns].double().T
        else:
            tile = self._with_columns(columns, rows.stop - rows.start)(self.fast[0][rows])
        if self.self_items is not None:
            own = self.self_items[rows]
            inside = torch.nonzero((own >= columns.start) & (own < columns.stop))[:, 0]
            tile[inside, own[inside] - columns.start] = self.self_score
        return tile

    def _with_columns(self, columns: slice, rows: int) -> Product:
        """The product with these columns, laid out once for all tiles that follow each other in them."""
        if self.laid_out is None or self.laid_out[:2] != (columns, rows):
            self.laid_out = None  # frees the memory before more is taken
            self.laid_out = columns, rows, product_with(self.fast[1][columns], rows)
        return self.laid_out[2]

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """float64 scores of single pairs; equal vectors have equal scores."""
        if self.x is self.y:  # a pair and its mirror image have one score
            pair = torch.minimum(rows, columns) * len(self.y) + torch.maximum(rows, columns)
            pair, at = torch.unique(pair, return_inverse=True)
            scores = self._dots(pair // len(self.y), pair % len(self.y))[at]
        else:
            scores = self._dots(rows, columns)
        if self.self_items is not None:
            scores = torch.where(self.self_items[rows] == columns, self.self_score, scores)
        return scores

    def _dots(self, rows: Tensor, columns: Tensor) -> Tensor:
        scores = torch.empty(len(rows), dtype=torch.float64, device=self.device)
        step = min(max(1, _PAIR_NUMBERS // max(1, self.x.shape[1])), max(1, len(rows)))
        # in buffers: fresh memory for every part costs more than the sums
        gathered, products = self.x.new_empty(step, self.x.shape[1]), scores.new_empty(step, self.x.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, min(start + step, len(rows)))
            used = slice(part.stop - start)
            torch.index_select(self.x, 0, rows[part], out=gathered[used])
            products[used] = gathered[used]
            torch.index_select(self.y, 0, columns[part], out=gathered[used])
            torch.sum(products[used].mul_(gathered[used]), 1, out=scores[part])
        return scores

    def slack(self, transposed: bool, exact: bool) -> Tensor:
        """Bound of the rounding error: twice the sqrt(D) units to which random errors grow, for small D all D.

        Four units more are for the roundings of the inputs, the product and the limit that is compared with.
        """
        lines, others = self.norms[::-1] if transposed else self.norms
        size = self.x.shape[1]
        unit = torch.finfo(torch.float64 if exact else self.fast[0].dtype).eps / 2
        return (max(min(size, 64), 2 * size**0.5) + 4) * unit * lines * others.max()


class Given:
    """Similarities that exist already: a matrix [rows, columns], or a function that yields parts of it."""

    exact = True

    def __init__(
        self, scores: Embeddings | ScoreBlock, shape: tuple[int, int], rounding: float = 0.0
    ) -> None:
        if not callable(scores) and tuple(scores.shape) != shape:
            raise ValueError(f"similarities {list(shape)} expected, found {list(scores.shape)}")
        self.scores, self.shape, self.rounding = scores, shape, rounding
        self.device = scores.device if isinstance(scores, Tensor) else torch.device("cpu")

    def tile(self, rows: slice, columns: slice, exact: bool) -> Tensor:
        """Scores [rows, columns]; InputError when one is not finite."""
        part = self.scores(rows, columns) if callable(self.scores) else self.scores[rows, columns]
        tile = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))
        if not bool(torch.isfinite(tile.sum())):
            raise InputError(f"the similarities of rows {rows.start} to {rows.stop - 1} hold NaN or infinity")
        return tile

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores of single pairs, as float64; one read per row."""
        lines, counts = torch.unique_consecutive(rows, return_counts=True)
        found = [torch.empty(0, dtype=torch.float64, device=self.device)]
        for line, at in zip(lines.tolist(), columns.split(counts.tolist()), strict=True):
            first, last = int(at.min()), int(at.max())
            part = self.tile(slice(line, line + 1), slice(first, last + 1), True)
            found.append(part[0, at - first].double())
        return torch.cat(found)

    def slack(self, transposed: bool, exact: bool) -> float:
        """What the caller says."""
        return self.rounding


def _checked(embeddings: Embeddings, name: str) -> Tensor:
    tensor = embeddings if isinstance(embeddings, Tensor) else torch.from_numpy(_contiguous(embeddings))
    if tensor.ndim != 2:
        raise ValueError(f"{name}: expected [rows, dimensions], found shape {list(tensor.shape)}")
    tensor = tensor.detach() if tensor.dtype in (torch.float32, torch.float64) else tensor.detach().float()
    broken = int((~torch.isfinite(tensor.sum(1))).sum())
    if broken:
        raise InputError(f"the embeddings of {broken} of {len(tensor)} {name} hold NaN or infinity")
    return tensor


def _contiguous(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()  # torch warns of read-only memory
