"""Size augmentation (paper section 3.3): random removal of set elements, as pure functions of explicit draws.

The wrappers that take the draws from an item's own generator are in `data.py`; here nothing is random.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DROP_RATE = 0.20  # regions and words; grids lose half of that on average (spec quirk 8)
MASKED_SHARE = 0.5  # of the chosen words: replaced by the mask token
REPLACED_SHARE = 0.6  # cumulative: the next tenth is replaced by random vocabulary entries, the rest deleted

KEEP, MASK, REPLACE, DELETE = 0, 1, 2, 3


def kept_regions(uniforms: np.ndarray) -> np.ndarray:
    """Which of the N regions stay: row j iff u_j > 0.2, and never none (spec quirk 17).

    Args:
        uniforms: [N] or [B, N] draws in [0, 1).

    Returns:
        Boolean array of the same shape, at least one True in every row.
    """
    kept = uniforms > DROP_RATE
    return _never_empty(kept, uniforms)


def drop_grids(features: Tensor, row_draws: Tensor, sample_draws: Tensor) -> tuple[Tensor, Tensor]:
    """Grid dropping on the CNN's output: kept rows first, the batch cut to its longest set.

    A sample with r2 > 0.2 keeps grid g iff r1_g > 0.2 * r2 (its drop rate is between 4 and 20 %); the others
    keep all.

    Args:
        features: [B, G, D].
        row_draws: r1, [B, G] uniforms.
        sample_draws: r2, [B] uniforms.

    Returns:
        Features [B, L, D] with L <= G, zero rows after a sample's own length, and the lengths [B] int64.
    """
    row_draws, sample_draws = row_draws.to(features.device), sample_draws.to(features.device)
    kept = (row_draws > DROP_RATE * sample_draws[:, None]) | (sample_draws <= DROP_RATE)[:, None]
    empty = ~kept.any(dim=1)
    kept[empty, row_draws[empty].argmax(dim=1)] = True
    lengths = kept.sum(dim=1)
    longest = int(lengths.max())
    order = torch.argsort(kept.to(torch.int8), dim=1, descending=True, stable=True)[:, :longest]
    moved = features.gather(1, order[:, :, None].expand(-1, -1, features.shape[2]))
    inside = torch.arange(longest, device=features.device) < lengths[:, None]
    return moved * inside[:, :, None].to(moved.dtype), lengths


def word_actions(uniforms: np.ndarray) -> np.ndarray:
    """What happens to each word: KEEP, or with probability 0.2 MASK (1/2), REPLACE (1/10) or DELETE (2/5).

    Args:
        uniforms: one draw per word, any shape.

    Returns:
        int8 array of the same shape.
    """
    share = uniforms / DROP_RATE  # the released rule divides; comparing u with 0.1 differs in the last bit
    chosen = uniforms < DROP_RATE
    actions = np.full(uniforms.shape, DELETE, dtype=np.int8)
    actions[share < REPLACED_SHARE] = REPLACE
    actions[share < MASKED_SHARE] = MASK
    actions[~chosen] = KEEP
    return actions


def apply_actions(
    ids: np.ndarray, actions: np.ndarray, *, mask_id: int, replacements: np.ndarray | Sequence[int]
) -> np.ndarray:
    """Carry out the actions on sub-tokens; deleted ones are left as they are (see the actions).

    Args:
        ids: [T] token ids.
        actions: [T] action of the word that each sub-token belongs to.
        mask_id: id written on MASK.
        replacements: ids written on REPLACE, in order; one per replaced sub-token.
    """
    changed = ids.copy()
    changed[actions == MASK] = mask_id
    changed[actions == REPLACE] = replacements
    return changed


def kept_tokens(
    actions: np.ndarray, owners: np.ndarray, num_captions: int, uniforms: np.ndarray
) -> np.ndarray:
    """Which sub-tokens of a batch of captions are not deleted; no caption loses all.

    Args:
        actions: [T] action of each sub-token.
        owners: [T] caption of each sub-token, in [0, num_captions).
        num_captions: number of captions in the batch.
        uniforms: [T] draw of each sub-token's word (the largest survives where all would go).
    """
    kept = actions != DELETE
    for caption in np.flatnonzero(np.bincount(owners[kept], minlength=num_captions) == 0):
        own = np.flatnonzero(owners == caption)
        if len(own):
            kept[own[uniforms[own].argmax()]] = True
    return kept


def _never_empty(kept: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    if kept.shape[-1] and not kept.any(axis=-1).all():
        best = uniforms.argmax(axis=-1)
        np.put_along_axis(
            kept, np.expand_dims(best, -1), True, axis=-1
        )  # where some are kept, it is one of them
    return kept
