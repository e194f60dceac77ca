"""Text branch: multilingual BERT's embeddings and a small transformer, or the average of word embeddings.

Keys and values are those of Hugging Face's BertModel. What it would compute for nothing is left out: padding
(the batch's real tokens lie in rows [T, H] without gaps) and, in the last layer, everything but the first
token's output, which is all that the pooler reads.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.xmrs.packed_attention import Packing, attend, pack, summarise, to_heads
from projects.xmrs.word_table import rows_and_weight
from shared.errors import InputError
from shared.packed_linear import affine

LAYER_NORM_EPS = 1e-12
INIT_STD = 0.02


class Embeddings(nn.Module):
    """Word + position + type (always 0) -> LayerNorm -> dropout."""

    def __init__(self, *, vocab_size: int, hidden: int, max_tokens: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden, padding_idx=0)
        self.position_embeddings = nn.Embedding(max_tokens, hidden)
        self.token_type_embeddings = nn.Embedding(2, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Token ids and positions of one shape [...] -> [..., H]."""
        words = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))
        return embedded


class Projections(nn.Module):
    """Queries, keys and values of self-attention."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)


class ResidualOutput(nn.Module):
    """Linear -> dropout -> add the input -> LayerNorm."""

    def __init__(self, inner: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x [..., I], residual [..., H] -> [..., H]."""
        normed: Tensor = self.LayerNorm(self.dropout(_linear(self.dense, x)) + residual)
        return normed


class Attention(nn.Module):
    """Multi-head self-attention with its residual output; key names as in BertModel."""

    def __init__(self, *, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.add_module("self", Projections(hidden))
        self.output = ResidualOutput(hidden, hidden, dropout)

    @property
    def projections(self) -> Projections:
        """Queries, keys, values (`attention.self` in the key names)."""
        found: Projections = self.self  # type: ignore[assignment]
        return found

    @property
    def dropped(self) -> float:
        """Dropout of the attention weights, 0 outside training."""
        return self.dropout if self.training else 0.0

    def forward(self, rows: Tensor, packing: Packing) -> Tensor:
        """[T, H] -> [T, H]; every token attends to its own text."""
        p = self.projections
        query, key, value = (_linear(layer, rows) for layer in (p.query, p.key, p.value))
        mixed = attend(query, key, value, self.heads, packing, self.dropped)
        residual: Tensor = self.output(mixed, rows)
        return residual

    def first(self, rows: Tensor, packing: Packing) -> Tensor:
        """[T, H] -> [B, H]: the outputs of the first tokens only.

        A single query needs neither keys nor values of the other tokens: q (W x + b) = (q W) x + q b, and
        sum_j a_j (W x_j + b) = W (sum_j a_j x_j) + b sum_j a_j.
        """
        p, heads = self.projections, self.heads
        first = rows.index_select(0, packing.starts)
        query = p.query(first).unflatten(-1, (heads, -1)) / math.sqrt(rows.shape[-1] // heads)
        key_weight, key_bias = p.key.weight.unflatten(0, (heads, -1)), p.key.bias.unflatten(0, (heads, -1))
        directions = torch.einsum("bhd,hdk->bhk", query, key_weight)
        shift = (query * key_bias).sum(-1)
        means, totals = summarise(rows, directions, shift, packing, self.dropped)
        value_weight = p.value.weight.unflatten(0, (heads, -1))
        values = torch.einsum("bhk,hdk->bhd", means, value_weight)
        values = values + p.value.bias.unflatten(0, (heads, -1)) * totals[..., None]
        residual: Tensor = self.output(values.flatten(1), first)
        return residual

    def plain(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, H] and mask [B, L] -> [B, L, H] and the weights [B, heads, L, L], padding's rows included."""
        p = self.projections
        query, key, value = (to_heads(linear(x), self.heads) for linear in (p.query, p.key, p.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)
        weights = F.dropout(weights, self.dropped)
        residual: Tensor = self.output((weights @ value).transpose(1, 2).flatten(2), x)
        return residual, weights


class Layer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, *, hidden: int, heads: int, intermediate: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(hidden=hidden, heads=heads, dropout=dropout)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, intermediate)})
        self.output = ResidualOutput(intermediate, hidden, dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        fed: Tensor = self.output(F.gelu(_linear(self.intermediate["dense"], x)), x)
        return fed

    def forward(self, rows: Tensor, packing: Packing) -> Tensor:
        """[T, H] -> [T, H]."""
        return self.feed_forward(self.attention(rows, packing))

    def first(self, rows: Tensor, packing: Packing) -> Tensor:
        """[T, H] -> [B, H]: the first tokens only."""
        return self.feed_forward(self.attention.first(rows, packing))

    def plain(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, H] -> [B, L, H] and attention [B, heads, L, L]."""
        attended, weights = self.attention.plain(x, mask)
        return self.feed_forward(attended), weights


@dataclass(frozen=True)
class States:
    """What the transformer computes for every position: embeddings [B, L, H], hidden states after each layer,
    attention of each layer [B, heads, L, L].
    """

    embeddings: Tensor
    hidden: list[Tensor]
    attention: list[Tensor]


class Transformer(nn.Module):
    """BertModel: embeddings, encoder, pooler. Random N(0, 0.02), as Hugging Face starts it."""

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int,
        max_tokens: int,
        dropout: float,
        init_std: float = INIT_STD,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise InputError(f"model.text.heads: expected a divisor of hidden = {hidden}, found {heads}")
        if layers < 1:
            raise InputError(f"model.text.layers: expected at least 1, found {layers}")
        self.embeddings = Embeddings(
            vocab_size=vocab_size, hidden=hidden, max_tokens=max_tokens, dropout=dropout
        )
        sizes: dict[str, Any] = {"hidden": hidden, "heads": heads, "intermediate": intermediate}
        stack = nn.ModuleList(Layer(**sizes, dropout=dropout) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layer": stack})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(hidden, hidden)})
        self.max_tokens = max_tokens
        self.apply(partial(_init_like_bert, std=init_std))

    def layers(self) -> list[Layer]:
        """The layers, first to last."""
        return list(self.encoder["layer"])  # type: ignore[call-overload]

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids [B, L] padded with 0, lengths [B] (None: ids above 0) -> pooled first tokens [B, H].

        Raises:
            InputError: a text longer than there are positions.
        """
        packing = pack(tokens, lengths)
        if max(packing.lengths) > self.max_tokens:
            raise InputError(
                f"a text of {max(packing.lengths)} tokens, but the model takes at most {self.max_tokens} "
                "(model.text.max_tokens, data.max_tokens)"
            )
        positions = torch.arange(packing.mask.shape[1], device=tokens.device)
        rows = self.embeddings(
            packing.pack(tokens[:, : packing.mask.shape[1]]),
            packing.pack(positions.expand(packing.mask.shape)),
        )
        *lower, last = self.layers()
        for layer in lower:
            rows = layer(rows, packing)
        return self.pool(last.first(rows, packing))

    def pool(self, first: Tensor) -> Tensor:
        """Hidden states of the first tokens [B, H] -> [B, H]."""
        return torch.tanh(self.pooler["dense"](first))

    def states(self, tokens: Tensor) -> States:
        """Everything at every position, padding included, the plain way; for looking at, not for speed."""
        mask = tokens > 0
        x = embeddings = self.embeddings(tokens, torch.arange(tokens.shape[1], device=tokens.device))
        hidden, attention = [], []
        for layer in self.layers():
            x, weights = layer.plain(x, mask)
            hidden.append(x)
            attention.append(weights)
        return States(embeddings, hidden, attention)


class TransformerText(nn.Module):
    """`textMLP` of the released `mBERT_fulltxt`: token ids [B, L] -> [B, hidden]."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.mBERT = Transformer(**sizes)
        self.dim: int = sizes["hidden"]

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids [B, L], lengths [B] -> [B, hidden]."""
        pooled: Tensor = self.mBERT(tokens, lengths)
        return pooled

    def attention(self, tokens: Tensor) -> list[Tensor]:
        """Attention weights of each layer [B, heads, L, L]."""
        return self.mBERT.states(tokens).attention


class AverageText(nn.Module):
    """`textMLP` of the released `mBERT_fulltxtAWE`: the mean word embedding of a text.

    `atten_layer` lies in the released weights and is never used.
    """

    def __init__(self, *, vocab_size: int, hidden: int, init_std: float = INIT_STD) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden)
        self.atten_layer = nn.Module()
        self.atten_layer.u = nn.Parameter(torch.zeros(hidden))
        self.atten_layer.fc = nn.Linear(hidden, hidden)
        self.dim = hidden
        nn.init.normal_(self.word_embeddings.weight, std=init_std)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids [B, L] padded with 0, lengths [B] -> [B, hidden]."""
        packing = pack(tokens, lengths)
        packed = packing.pack(tokens[:, : packing.mask.shape[1]])
        rows, weight = rows_and_weight(self.word_embeddings, packed)
        return F.embedding_bag(rows, weight, packing.starts, mode="mean")


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, of rows [R, I] faster on a CPU."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return affine(x, weight, bias) if x.ndim == 2 else F.linear(x, weight, bias)


def _init_like_bert(module: nn.Module, *, std: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=std)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
