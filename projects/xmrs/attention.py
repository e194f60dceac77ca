"""What the recipe encoder looks at: the attention of its first token, [CLS], over the words of a recipe.

[CLS] is what the pooler reads, so its row of the attention matrix says which words reach the embedding
(the paper's figure). A word's weight is the sum over its pieces; the weights of a recipe sum to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.words import Word, words_of
from shared.errors import InputError

_SHADES = (255, 230, 224, 217, 210, 203, 196)  # white to red of the 256 terminal colours
_PUNCTUATION = set(".,;:!?()[]{}'\"-/\\&*%")


@dataclass(frozen=True)
class Weighed:
    """A recipe's words and what each layer and head of the encoder pays to them."""

    words: tuple[Word, ...]
    weights: np.ndarray  # [layers, heads, words] float32

    def of(self, layer: int = -1, head: int | None = None) -> np.ndarray:
        """The weights [words] of one head, or the mean of a layer's heads. InputError: no such layer or head."""
        layers, heads, _ = self.weights.shape
        if not -layers <= layer < layers:
            raise InputError(f"attention.layer: expected {-layers} to {layers - 1}, found {layer}")
        if head is not None and not 0 <= head < heads:
            raise InputError(f"attention.head: expected 0 to {heads - 1} or null, found {head}")
        chosen: np.ndarray = self.weights[layer]
        return chosen.mean(0) if head is None else chosen[head]


def has_attention(model: FoodSpaceNet) -> bool:
    """Whether the text branch is a transformer; an average of word embeddings has nothing to show."""
    return model.text_settings["kind"] == "transformer"


def attention_of(
    model: FoodSpaceNet,
    ids: Sequence[np.ndarray],
    pieces: Sequence[str],
    *,
    device: torch.device | str = "cpu",
) -> list[Weighed]:
    """The attention of [CLS] over the words of each text; ids: [n] each, [CLS] first.

    InputError for a model that has no attention.
    """
    was_training = model.training
    model.eval()
    found = []
    try:
        with torch.inference_mode():
            for text in ids:  # one by one: whole matrices [heads, n, n] are formed
                tokens = torch.as_tensor(np.asarray(text, np.int64), device=device)[None]
                rows = torch.stack([layer[0, :, 0] for layer in model.text_attention(tokens)])
                found.append(_weighed(np.asarray(text), rows.float().cpu().numpy(), pieces))
    finally:
        model.train(was_training)
    return found


def strongest(weighed: Weighed, weights: np.ndarray, count: int = 10) -> list[tuple[str, float]]:
    """The words that get most, summed over where they occur; no special tokens and no punctuation."""
    total: dict[str, float] = {}
    for word, weight in zip(weighed.words, weights.tolist(), strict=True):
        if not _is_special(word.text) and not set(word.text) <= _PUNCTUATION:
            total[word.text] = total.get(word.text, 0.0) + weight
    return sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:count]


def shades(weights: np.ndarray) -> np.ndarray:
    """Weights [words] as strengths of colour in [0, 1]: shares of the largest."""
    largest = float(weights.max(initial=0.0))
    return weights / largest if largest > 0 else np.zeros_like(weights)


def as_text(weighed: Weighed, weights: np.ndarray, *, colour: bool) -> str:
    """A recipe for the terminal: the words in shades of red, or with stars where there is no colour."""
    parts = []
    for word, shade in zip(weighed.words, shades(weights).tolist(), strict=True):
        text = "".join(c if c.isprintable() else "?" for c in word.text)
        if colour:
            code = _SHADES[round(shade * (len(_SHADES) - 1))]
            parts.append(f"\x1b[38;5;16;48;5;{code}m{text}\x1b[0m" if shade > 0.2 else text)
        else:
            parts.append(text + "*" * round(3 * shade))
    return " ".join(parts)


def _weighed(ids: np.ndarray, rows: np.ndarray, pieces: Sequence[str]) -> Weighed:
    words = words_of(ids, pieces)
    weights = np.zeros((*rows.shape[:2], len(words)), np.float32)
    for column, word in enumerate(words):
        weights[:, :, column] = rows[:, :, word.first : word.last].sum(-1)
    return Weighed(tuple(words), weights)


def _is_special(text: str) -> bool:
    return text in ("[CLS]", "[SEP]", "[UNK]", "[MASK]")
