"""Batches of texts without their padding, and attention in them.

T: real tokens of a batch   B: texts   L: longest text   H: width   d: H / heads
In full self-attention a CPU takes texts one by one, so that padding costs nothing; a GPU, where many small
calls cost more than padding, takes the padded batch in one call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Packing:
    """Where the T real tokens of a batch [B, L] are.

    Attributes:
        mask: [B, L], true for real tokens.
        index: [T] places of the real tokens in the flattened batch.
        starts: [B] rows of the first tokens.
        lengths: real tokens of each text.
    """

    mask: Tensor
    index: Tensor
    starts: Tensor
    lengths: list[int]

    def pack(self, x: Tensor) -> Tensor:
        """[B, L, ...] -> [T, ...]."""
        return x.flatten(0, 1).index_select(0, self.index)

    def pad(self, rows: Tensor) -> Tensor:
        """[T, H] -> [B, L, H], zeros elsewhere."""
        flat = rows.new_zeros(self.mask.numel(), rows.shape[-1]).index_copy(0, self.index, rows)
        return flat.unflatten(0, self.mask.shape)


def pack(tokens: Tensor, lengths: Tensor | None = None) -> Packing:
    """The real tokens of [B, L]: ids above 0, or the first `lengths` [B] of each row.

    Raises:
        ValueError: a text without tokens.
    """
    if lengths is None:
        mask = tokens > 0
    else:
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        mask = columns < lengths.to(tokens.device)[:, None]
    counts = mask.sum(dim=1)
    found = counts.tolist()
    if not all(found):
        raise ValueError(f"text {found.index(0)} of the batch has no tokens")
    longest = tokens.shape[1] if lengths is None else max(found)
    mask = mask[:, :longest]
    index = mask.flatten().nonzero().squeeze(1)
    return Packing(mask, index, counts.cumsum(0) - counts, found)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, packing: Packing, dropout: float) -> Tensor:
    """Self-attention of rows [T, H] within their texts -> [T, H]; `dropout` of the attention weights."""
    way = attend_padded if query.is_cuda else attend_each
    return way(query, key, value, heads, packing, dropout)


def attend_each(
    query: Tensor, key: Tensor, value: Tensor, heads: int, packing: Packing, dropout: float
) -> Tensor:
    """`attend`, text by text, for a CPU."""
    sizes = packing.lengths
    texts = zip(*(to_heads(x, heads).split(sizes, dim=1) for x in (query, key, value)), strict=True)
    mixed = [
        F.scaled_dot_product_attention(q[None], k[None], v[None], dropout_p=dropout)[0] for q, k, v in texts
    ]
    return torch.cat(mixed, dim=1).transpose(0, 1).flatten(1)


def attend_padded(
    query: Tensor, key: Tensor, value: Tensor, heads: int, packing: Packing, dropout: float
) -> Tensor:
    """`attend` in one call on the padded batch, for a GPU."""
    q, k, v = (to_heads(packing.pad(x), heads) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=packing.mask[:, None, None], dropout_p=dropout)
    return packing.pack(mixed.transpose(1, 2).flatten(2))


def summarise(
    rows: Tensor, directions: Tensor, shift: Tensor, packing: Packing, dropout: float
) -> tuple[Tensor, Tensor]:
    """Attention of one query per text and head over the text's own rows.

    Args:
        rows: [T, H].
        directions: [B, heads, H]; the score of a row x is x . direction + shift.
        shift: [B, heads].
        packing: where the texts are.
        dropout: of the attention weights.

    Returns:
        The weighted means of the rows [B, heads, H], and the weights' sums [B, heads] (1 without dropout).
    """
    x = packing.pad(rows)  # what is done per row is so little that padding does not matter
    scores = (directions @ x.transpose(1, 2) + shift[..., None]).float()
    weights = F.dropout(scores.masked_fill(~packing.mask[:, None], -torch.inf).softmax(dim=-1), dropout)
    return weights.to(x.dtype) @ x, weights.sum(dim=-1)


def to_heads(x: Tensor, heads: int) -> Tensor:
    """[..., L, H] -> [..., heads, L, H / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)
