"""The released vocab.pkl, ingr_vocab.pkl and vocab_ingr.pkl: nothing here reads them, other code may."""

import pickle
from pathlib import Path
from typing import Any

from projects.xmrs.pretrained_text import load_embeddings
from projects.xmrs.recipe1m import PROTOCOL
from projects.xmrs.text_encoder import AverageText
from projects.xmrs.tokens import Tokenizer
from shared.files import atomic_write

MBERT_WIDTH = 768


def write(output: Path, tokenizer: Tokenizer, word_vectors: Path | None = None) -> None:
    """Write token -> id and id -> token; with the weights of multilingual BERT also token -> float32 [768].

    InputError: no such weights, or of another vocabulary.
    """
    _dump(output / "ingr_vocab.pkl", {piece: index for index, piece in enumerate(tokenizer.pieces)})
    _dump(output / "vocab_ingr.pkl", dict(enumerate(tokenizer.pieces)))
    if word_vectors is not None:
        words = AverageText(vocab_size=tokenizer.vocab_size, hidden=MBERT_WIDTH)
        load_embeddings(words, word_vectors)
        vectors = words.word_embeddings.weight.detach().numpy()
        _dump(
            output / "vocab.pkl",
            {piece: vectors[index].copy() for index, piece in enumerate(tokenizer.pieces)},
        )


def _dump(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        pickle.dump(value, file, PROTOCOL)
