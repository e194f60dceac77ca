"""Machine translators behind one interface: FSMT, Marian, and a word table for the embedded data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from projects.xmrs.dictionary_translator import FILE as DICTIONARY
from projects.xmrs.dictionary_translator import DictionaryTranslator
from shared.errors import InputError

DIRECTIONS = {  # to: from, the language whose layer is read
    "ru": "en",
    "de": "en",
    "fr": "en",
    "ru-en": "ru",
    "de-en": "de",
}
MODELS = {
    "ru": "facebook/wmt19-en-ru",
    "de": "facebook/wmt19-en-de",
    "fr": "Helsinki-NLP/opus-mt-en-fr",
    "ru-en": "facebook/wmt19-ru-en",
    "de-en": "facebook/wmt19-de-en",
}


class Translator(Protocol):
    """What translates: a text for each text, in order. `identity`: what its results depend on, in a line."""

    identity: str

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The translation of each line."""
        ...


def build_translator(
    source: str | Path | None,
    direction: str,
    *,
    device: torch.device | None = None,
    precision: str = "fp32",
    beam: int = 5,
    batch_tokens: int = 4096,
    max_tokens: int = 512,
) -> Translator:
    """The translator of a direction (`ru`, `de`, `fr`, `ru-en`, `de-en`).

    Args:
        source: a folder with dictionary.json, a local folder of an FSMT or Marian model, or a name of the hub;
            None takes the model of the direction in MODELS.
        direction: what is translated to; DIRECTIONS says from what.
        device, precision: where and how the network runs ("fp32", "bf16", "fp16").
        beam: hypotheses kept by the search; the paper's translations were made with 5.
        batch_tokens: tokens of one batch, padding included (times `beam` in the decoder).
        max_tokens: longer lines are cut, and counted.

    Raises:
        InputError: no such direction, folder or model.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction: expected {' | '.join(DIRECTIONS)}, found {direction!r}")
    if source is not None and (Path(source).expanduser() / DICTIONARY).is_file():
        return DictionaryTranslator(Path(source).expanduser(), direction)
    from projects.xmrs.neural_translator import NeuralTranslator

    return NeuralTranslator(
        str(source or MODELS[direction]),
        device=device or torch.device("cpu"),
        precision=precision,
        beam=beam,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
    )
