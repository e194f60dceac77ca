"""A word table that trains only the rows whose tokens occur in the corpus; equal to training all rows.

Adam never moves a row whose gradient has always been zero (without weight decay): its moments are zero. So
the rows of tokens that never occur need no gradient, no moments and no step. Outside, in state dicts, the
table is as large as ever.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import InputError

SPECIAL_TOKENS = (0, 100, 101, 102, 103)  # [PAD] [UNK] [CLS] [SEP] [MASK] of every mBERT-like vocabulary


class WordTable(nn.Module):
    """Rows [R, H] for some of the tokens of a table [V, H]; looked up by token id.

    `state_dict` and `load_state_dict` speak of the whole table [V, H]. A token without a row is an error.

    Attributes:
        weight: the rows that train [R, H], in the order of their token ids.
        tokens: their token ids [R].
    """

    def __init__(self, table: nn.Embedding, tokens: np.ndarray | Tensor) -> None:
        super().__init__()
        wanted = torch.as_tensor(np.asarray(tokens), dtype=torch.int64)
        special = torch.tensor([token for token in SPECIAL_TOKENS if token < table.num_embeddings])
        kept = torch.unique(torch.cat([wanted, special]))
        if len(kept) and (kept[0] < 0 or kept[-1] >= table.num_embeddings):
            raise ValueError(
                f"tokens between {kept[0]} and {kept[-1]} for a table of {table.num_embeddings} rows"
            )
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        # No buffer: it does not train, so it stays in the computer's memory wherever the model goes.
        self._table = table.weight.detach().cpu()
        row_of = torch.full((table.num_embeddings,), -1, dtype=torch.int64)
        row_of[kept] = torch.arange(len(kept))
        device = table.weight.device
        self.register_buffer("tokens", kept.to(device), persistent=False)
        self.register_buffer("row_of", row_of.to(device), persistent=False)
        self.weight = nn.Parameter(table.weight.detach()[kept.to(device)], table.weight.requires_grad)

    def rows(self, tokens: Tensor) -> Tensor:
        """Row numbers of token ids; InputError for a token without a row."""
        found = self.get_buffer("row_of")[tokens]
        if (found < 0).any():
            raise InputError(
                f"token id {int(tokens[found < 0][0])} occurs in a text, but is not in the list of tokens that "
                "occur (corpus_tokens.npy): it was made of other texts; make it anew (create_lmdb.py) or set "
                "compact_word_table=false"
            )
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [...] -> rows [..., H]; InputError for a token without a row."""
        padding = None if self.padding_idx is None else 0  # token 0 has the first row
        return nn.functional.embedding(self.rows(tokens), self.weight, padding)

    def whole_table(self) -> Tensor:
        """The table [V, H] as it stands, on the CPU."""
        table = self._table.clone()
        table[self.get_buffer("tokens").cpu()] = self.weight.detach().cpu().to(table.dtype)
        return table

    def checksum(self) -> int:
        """Of the tokens that have a row: two tables with the same one have the same rows."""
        return zlib.crc32(self.get_buffer("tokens").cpu().numpy().tobytes())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.whole_table()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        own = dict(state_dict)
        table = own.get(prefix + "weight")
        if isinstance(table, Tensor) and table.shape == self._table.shape:
            self._table = table.detach().cpu().to(self._table.dtype).clone()
            own[prefix + "weight"] = self._table[self.get_buffer("tokens").cpu()]
        super()._load_from_state_dict(own, prefix, *arguments, **options)


def rows_and_weight(table: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers of token ids, and the weight that they index; for either kind of table."""
    weight = table.get_parameter("weight")
    return (table.rows(tokens) if isinstance(table, WordTable) else tokens), weight


def compact(model: nn.Module, tokens: np.ndarray | Tensor) -> WordTable:
    """Put a WordTable of these tokens (and the special ones) in the place of the model's word embeddings.

    Before the optimiser is built, and only without weight decay. `model.textMLP` is changed in place.
    """
    holder = _holder(model)
    table = holder.get_submodule("word_embeddings")
    if not isinstance(table, nn.Embedding):
        raise ValueError("the word table is compact already")
    compacted = WordTable(table, tokens)
    holder.add_module("word_embeddings", compacted)
    return compacted


def word_table_of(model: nn.Module) -> WordTable | None:
    """The model's compact word table, None when it has the whole one."""
    table = _holder(model).get_submodule("word_embeddings")
    return table if isinstance(table, WordTable) else None


def _holder(model: nn.Module) -> nn.Module:
    """The module that holds the word embeddings, in either text encoder."""
    return next(module for module in model.modules() if "word_embeddings" in module._modules)
