"""What `build_model` needs, read off the tensors of a checkpoint (canonical released key names).

`options` are the flags of the authors' train.py; they say what tensors cannot. `source` names the file in errors.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from shared.errors import InputError

State = Mapping[str, Tensor]


def image_settings(state: State, options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The image branch's keyword arguments of `build_model`, with embed_size and gpo.

    Raises:
        InputError: a tensor that tells a size is not there.
    """
    grid = is_grid(state)
    head = "image_encoder." if grid else ""
    embed_size, image_dim = shape(state, f"{head}fc.weight", source)
    settings: dict[str, Any] = {
        "embed_size": embed_size,
        "image_encoder": "grid" if grid else "regions",
        "image_dim": image_dim,
        "image_pooling": _pooling(state, f"{head}gpool.", options, "image_pooling", source),
        "image_kmax": options.get("image_kmax"),
        "normalize_images": not options.get("no_imgnorm", False),
        **_gpo(state, f"{head}gpool."),
    }
    if grid:
        settings["backbone"] = options.get("backbone_source") or backbone(state, source)
    else:
        settings["image_hidden"] = shape(state, "mlp.layers.0.weight", source)[0]
    return settings


def text_settings(state: State, options: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The text branch's keyword arguments of `build_model`, with embed_size and gpo; errors as above."""
    settings: dict[str, Any] = {
        "text_encoder": "bert" if is_bert(state) else "bigru",
        "text_pooling": _pooling(state, "gpool.", options, "text_pooling", source),
        "text_kmax": options.get("text_kmax"),
        "normalize_captions": not options.get("no_txtnorm", False),
        **_gpo(state, "gpool."),
    }
    if is_bert(state):
        return settings | {
            "embed_size": shape(state, "linear.weight", source)[0],
            "bert_pretrained": False,
            "bert_config": bert_config(state, source) | (options.get("bert_config") or {}),
        }
    vocab_size, word_dim = shape(state, "embed.weight", source)
    layers = [key for key in state if key.startswith("rnn.weight_ih_l") and not key.endswith("_reverse")]
    return settings | {
        "embed_size": shape(state, "rnn.weight_hh_l0", source)[1],
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "rnn_layers": len(layers),
    }


def is_grid(images: State) -> bool:
    """Whether the image encoder holds a CNN."""
    return any(key.startswith("backbone.") for key in images)


def is_bert(captions: State) -> bool:
    """Whether the text encoder holds a BERT."""
    return any(key.startswith("bert.") for key in captions)


def backbone(images: State, source: str) -> str:
    """The source whose graph the tensors fit; for files whose options do not say."""
    if shape(images, "backbone.base.4.0.conv1.weight", source)[0] > 64:
        return "wsl"
    blocks = {key.split(".")[3] for key in images if key.startswith("backbone.base.6.")}
    return {6: "imagenet_res50", 36: "imagenet_res152"}.get(len(blocks), "detector")


def bert_config(captions: State, source: str) -> dict[str, Any]:
    """Sizes of the BERT whose tensors these are, as overrides of its configuration; heads of 64 dimensions."""
    vocab_size, hidden = shape(captions, "bert.embeddings.word_embeddings.weight", source)
    layers = {key.split(".")[3] for key in captions if key.startswith("bert.encoder.layer.")}
    intermediate = shape(captions, "bert.encoder.layer.0.intermediate.dense.weight", source)[0]
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": intermediate,
        "max_position_embeddings": shape(captions, "bert.embeddings.position_embeddings.weight", source)[0],
    }


def shape(state: State, key: str, source: str) -> tuple[int, ...]:
    """Shape of a tensor; InputError when it is not there or not a matrix (or more) where one is expected."""
    if key not in state:
        raise InputError(f"{source}: not a checkpoint of this model: it has no tensor {key!r}")
    if state[key].ndim < 2:
        raise InputError(f"{source}: {key}: expected a matrix, found the shape {list(state[key].shape)}")
    return tuple(state[key].shape)


def _gpo(state: State, prefix: str) -> dict[str, Any]:
    if f"{prefix}gru.weight_ih_l0" not in state:
        return {}
    positional_dim = state[f"{prefix}gru.weight_ih_l0"].shape[-1]
    hidden_dim = state[f"{prefix}linear.weight"].shape[-1] if f"{prefix}linear.weight" in state else 32
    return {"gpo": {"positional_dim": positional_dim, "hidden_dim": hidden_dim}}


def _pooling(state: State, prefix: str, options: Mapping[str, Any], option: str, source: str) -> str:
    if f"{prefix}gru.weight_ih_l0" in state:
        return "gpo"
    if option in options:
        return str(options[option])
    raise InputError(f"{source}: it has no tensors {prefix}gru.*, and its options do not say the {option}")
