"""Pooling of a set of local features into one vector: GPO (paper section 3), fixed and learned baselines.

Shapes: features [B, N, D], lengths [B] int64 in 1..N; rows from a sample's length on are padding and ignored.
Every pooling returns (pooled [B, D], weights). Weights [B, N] are the coefficients over the ranks k = 1..N of
the values sorted in descending order (paper eq. 1-3), zero beyond the length; None where there are none.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from projects.vseinfty.coefficients import coefficients, positional_encoding
from projects.vseinfty.compiling import not_compiled
from projects.vseinfty.sorting import sort_descending, sorted_weighted_sum
from shared.errors import InputError


def build_pooling(
    name: str, *, dim: int, gpo: dict[str, Any] | None = None, k: int | None = None, pieces: int = 20
) -> nn.Module:
    """The pooling called `name`, one of POOLINGS.

    Args:
        name: gpo, avg, max, kmax (mean of the k largest), cls (first token), last (final states of a
            recurrent encoder), gem (generalised mean), fspool (featurewise sort pooling).
        dim: D; only fspool has weights per dimension.
        gpo: settings of GPO (positional_dim, hidden_dim, temperature).
        k: number of values that kmax averages.
        pieces: pieces of fspool's weight function.

    Raises:
        InputError: an unknown name, or kmax without a positive k.
    """
    if name == "kmax":
        if k is None or k < 1:
            raise InputError(f"model.kmax: pooling 'kmax' needs a positive number, found {k}")
        return KMaxPooling(k)
    if name == "gpo":
        return GPO(**(gpo or {}))
    if name == "gpo_transformer":
        return TransformerGPO(**(gpo or {}))
    if name == "fspool":
        return FSPool(dim, pieces)
    if name not in POOLINGS:
        found = f"expected one of {', '.join(POOLINGS)}, found {name!r}"
        raise InputError(f"model.image_pooling, model.text_pooling: {found}")
    return POOLINGS[name]()


def inside(lengths: Tensor, size: int) -> Tensor:
    """[B, size] bool: True where the position is below the sample's length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class GPO(nn.Module):
    """Generalised pooling operator (paper eq. 4-6): v_d = sum_k theta_k * (k-th largest of dimension d).

    theta(k, L) comes from the positions alone: sinusoidal encoding -> bidirectional GRU over the L positions
    (mean of the two directions) -> linear -> softmax(. / temperature). So it is computed once per distinct
    length, and kept from batch to batch in evaluation.

    `padding_value` stands for the rows beyond the length while sorting, and like in the release it is
    -10000: a feature below it changes places with the padding (spec quirk 1; CNN features of unusual scale
    do get there). With -inf that cannot happen.
    """

    def __init__(
        self,
        positional_dim: int = 32,
        hidden_dim: int = 32,
        temperature: float = 0.1,
        padding_value: float = -10000.0,
    ) -> None:
        super().__init__()
        if positional_dim % 2:
            raise InputError(f"model.gpo.positional_dim: expected an even number, found {positional_dim}")
        self.positional_dim = positional_dim
        self.temperature = temperature
        self.padding_value = padding_value
        self._build_encoder(hidden_dim)
        self._rows: dict[int, Tensor] = {}  # evaluation: theta of each length met so far
        self._rows_of: Tensor | None = None  # the parameters that _rows belong to

    def _build_encoder(self, hidden_dim: int) -> None:
        self.gru = nn.GRU(self.positional_dim, hidden_dim, num_layers=1, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(hidden_dim, 1, bias=False)

    def _encode(self, sizes: list[int]) -> Tensor:
        """theta of ascending set sizes [U] -> [U, the largest], zero beyond each size."""
        return coefficients(self.gru, self.linear, sizes, self.temperature)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D], [B] -> pooled [B, D] and theta [B, N]."""
        weights = self.coefficients(lengths, features.shape[1])
        return sorted_weighted_sum(features, weights, lengths, self.padding_value), weights

    @not_compiled
    def coefficients(self, lengths: Tensor, size: int | None = None) -> Tensor:
        """theta of each of the lengths [B] -> [B, size] (default: the longest), zero beyond the length."""
        distinct, which = torch.unique(lengths, return_inverse=True)
        known = [int(length) for length in distinct.tolist()]
        if known[0] < 1:
            raise ValueError(f"pooling an empty set: lengths {lengths.tolist()}")
        size = known[-1] if size is None else size
        device = self.linear.weight.device
        with torch.autocast(device.type, enabled=False):
            if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
                rows = self._encode(known)
                rows = nn.functional.pad(rows, (0, size - known[-1]))
            else:
                rows = self._kept(known, size)
        return rows[which.to(device)]

    def _kept(self, lengths: list[int], size: int) -> Tensor:
        """The same, from the rows kept since the parameters last changed."""
        # By value: 50 kB, and a fused optimizer changes parameters without counting up their version.
        state = torch.cat([p.detach().flatten() for p in self.parameters()])
        if self._rows_of is None or not torch.equal(state, self._rows_of):
            self._rows, self._rows_of = {}, state
        missing = [length for length in lengths if length not in self._rows]
        if missing:
            with torch.inference_mode(False), torch.no_grad():  # rows for any later use
                rows = self._encode(missing)
            self._rows.update({length: row[:length] for length, row in zip(missing, rows, strict=True)})
        return torch.stack([nn.functional.pad(self._rows[n], (0, size - n)) for n in lengths])


class TransformerGPO(GPO):
    """GPO whose positions go through a transformer layer instead of the GRU: the paper's rival sequence model.

    The layer's shape (pre-norm, 4 heads, no dropout) is our choice; the paper does not state its own.
    """

    HEADS = 4

    def _build_encoder(self, hidden_dim: int) -> None:
        self.layer = nn.TransformerEncoderLayer(
            self.positional_dim, self.HEADS, 2 * hidden_dim, dropout=0.0, batch_first=True, norm_first=True
        )
        self.linear = nn.Linear(self.positional_dim, 1, bias=False)

    def _encode(self, sizes: list[int]) -> Tensor:
        """theta of ascending set sizes [U] -> [U, the largest]; a set attends to its own positions only."""
        weight = self.linear.weight
        positions = positional_encoding(sizes[-1], self.positional_dim, weight.dtype, weight.device)
        outside = ~inside(torch.tensor(sizes, device=weight.device), sizes[-1])
        states = self.layer(positions.repeat(len(sizes), 1, 1), src_key_padding_mask=outside)
        scores = self.linear(states).squeeze(-1).masked_fill(outside, -math.inf)
        return torch.softmax(scores / self.temperature, dim=1)


def _weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """sum_n weights[b, n] features[b, n, :], at least float32; zero weights switch padding off."""
    precision = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        return torch.bmm(weights[:, None, :].to(precision), features.to(precision)).squeeze(1)


class AveragePooling(nn.Module):
    """theta_k = 1/L."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D], [B] -> pooled [B, D], theta [B, N]."""
        weights = inside(lengths, features.shape[1]).to(torch.float32) / lengths[:, None]
        return _weighted_mean(features, weights), weights


class MaxPooling(nn.Module):
    """theta = [1, 0, ...]."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D], [B] -> pooled [B, D], theta [B, N]."""
        size = features.shape[1]
        masked = features.masked_fill(~inside(lengths, size)[:, :, None], -math.inf)
        weights = torch.zeros(len(features), size, device=features.device)
        weights[:, 0] = 1.0
        return masked.max(dim=1).values, weights


class KMaxPooling(nn.Module):
    """Mean of the min(k, L) largest values of each dimension, L being the sample's own (spec quirk 19)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, D], [B] -> pooled [B, D], theta [B, N]."""
        size = features.shape[1]
        masked = features.masked_fill(~inside(lengths, size)[:, :, None], -math.inf)
        counts = lengths.clamp(max=self.k)
        weights = inside(counts, size).to(torch.float32) / counts[:, None]
        k = min(self.k, size)
        largest = masked.topk(k, dim=1).values
        largest = largest.masked_fill(~inside(counts, k)[:, :, None], 0.0)
        return _weighted_mean(largest, weights[:, :k]), weights


class FirstToken(nn.Module):
    """The feature of the first token ([CLS]), as in the VSE++ baseline with BERT."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """[B, N, D] -> [B, D]."""
        return features[:, 0], None


class LastState(nn.Module):
    """The final states of a bidirectional recurrent encoder, averaged, as in the original VSE++."""

    def forward(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """[B, N, 2, D] (forward, backward direction), [B] -> [B, D]: forward at L-1 and backward at 0."""
        rows = torch.arange(len(states), device=states.device)
        return (states[rows, lengths - 1, 0] + states[:, 0, 1]) / 2, None


class GeM(nn.Module):
    """Generalised mean, (mean_n max(x_n, eps)^p)^(1/p) with a learned p (Radenovic et al. 2018)."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([float(p)]))
        self.eps = eps

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """[B, N, D], [B] -> [B, D], at least float32 (powers overflow in half precision)."""
        precision = torch.promote_types(features.dtype, torch.float32)
        powers = features.to(precision).clamp(min=self.eps).pow(self.p)
        weights = inside(lengths, features.shape[1]).to(precision) / lengths[:, None]
        return _weighted_mean(powers, weights).pow(1.0 / self.p), None


class FSPool(nn.Module):
    """Featurewise sort pooling (Zhang et al. 2020): weights per dimension, piecewise linear in the rank.

    v_d = sum_k f_d((k - 1) / (L - 1)) * (k-th largest of dimension d); f_d has `pieces` pieces.
    """

    def __init__(self, dim: int, pieces: int = 20) -> None:
        super().__init__()
        self.pieces = pieces
        self.weight = nn.Parameter(torch.randn(dim, pieces + 1))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        """[B, N, D], [B] -> [B, D]."""
        size = features.shape[1]
        ranks = torch.arange(size, device=features.device)
        relative = (ranks / (lengths[:, None] - 1).clamp(min=1)).clamp(max=1.0) * self.pieces  # [B, N]
        knots = torch.arange(self.pieces + 1, device=features.device)
        hats = (1 - (relative[:, :, None] - knots).abs()).clamp(min=0).to(self.weight.dtype)
        hats = hats * inside(lengths, size)[:, :, None]
        values = sort_descending(features, lengths)
        return torch.einsum("bnd,bnd->bd", values, (hats @ self.weight.t()).to(values.dtype)), None


POOLINGS: dict[str, type[nn.Module]] = {
    "gpo": GPO,
    "avg": AveragePooling,
    "max": MaxPooling,
    "kmax": KMaxPooling,
    "cls": FirstToken,
    "last": LastState,
    "gem": GeM,
    "fspool": FSPool,
    "gpo_transformer": TransformerGPO,
}
