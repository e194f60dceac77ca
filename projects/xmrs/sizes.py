"""What FoodSpaceNet needs to be built, read off the tensors of a checkpoint (names without `module.`)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from projects.xmrs.image_encoder import BACKBONES
from shared.errors import InputError

State = Mapping[str, Tensor]
BERT = "textMLP.mBERT."


def model_settings(state: State, *, heads: int, dropout: float, source: str) -> dict[str, Any]:
    """Keyword arguments of FoodSpaceNet; `heads` and `dropout` leave no trace in the tensors.

    Raises:
        InputError: a tensor that tells a size is not there; `source` names the file.
    """
    image = image_encoder_settings(state, source=source)
    return {
        "embed_dim": image.pop("embed_dim"),
        "head_dim": image.pop("head_dim"),
        "image": image,
        "text": _text_settings(state, heads=heads, dropout=dropout, source=source),
    }


def image_encoder_settings(state: State, *, source: str) -> dict[str, Any]:
    """Keyword arguments of FoodSpaceImageEncoder; errors as above."""
    embed_dim, head_dim = _shape(state, "align.0.weight", source)
    width = _shape(state, "visionMLP.visionMLP.0.weight", source)[0]
    return {
        "embed_dim": embed_dim,
        "head_dim": head_dim,
        "backbone": _backbone(state, source),
        "width": width,
    }


def _text_settings(state: State, *, heads: int, dropout: float, source: str) -> dict[str, Any]:
    if "textMLP.word_embeddings.weight" in state:
        vocab_size, hidden = _shape(state, "textMLP.word_embeddings.weight", source)
        return {"kind": "average", "vocab_size": vocab_size, "hidden": hidden}
    vocab_size, hidden = _shape(state, f"{BERT}embeddings.word_embeddings.weight", source)
    layers = {key.split(".")[4] for key in state if key.startswith(f"{BERT}encoder.layer.")}
    intermediate = _shape(state, f"{BERT}encoder.layer.0.intermediate.dense.weight", source)[0]
    return {
        "kind": "transformer",
        "vocab_size": vocab_size,
        "hidden": hidden,
        "layers": len(layers),
        "heads": heads,
        "intermediate": intermediate,
        "max_tokens": _shape(state, f"{BERT}embeddings.position_embeddings.weight", source)[0],
        "dropout": dropout,
    }


def _backbone(state: State, source: str) -> str:
    counts = []
    for stage in range(4, 8):
        start = f"visionMLP.visionMLP.{stage}."
        counts.append(len({key.removeprefix(start).split(".")[0] for key in state if key.startswith(start)}))
    is_bottleneck = "visionMLP.visionMLP.4.0.conv3.weight" in state
    for name, known in BACKBONES.items():
        if known == (tuple(counts), is_bottleneck):
            return name
    raise InputError(
        f"{source}: visionMLP: stages of {counts} residual blocks are of none of {', '.join(BACKBONES)}"
    )


def _shape(state: State, key: str, source: str) -> tuple[int, ...]:
    if key not in state:
        raise InputError(f"{source}: not a checkpoint of this model: it has no tensor {key!r}")
    if state[key].ndim < 2:
        raise InputError(f"{source}: {key}: expected a matrix, found the shape {list(state[key].shape)}")
    return tuple(state[key].shape)
