"""The authors' released checkpoints <-> our model, key by key (spec section 5, "Checkpoint"; quirks 3 and 11).

A released file is a dict {epoch, model: [image encoder state, text encoder state], best_rsum, opt: Namespace, Eiters}.
Its keys may carry DataParallel's prefix `module.`, and grid models hold every CNN tensor twice: as
`backbone.resnet.X` (torchvision names) and as `backbone.base.*` / `backbone.top.*`, which win. Reading resolves both;
loading is strict. Nothing in the file is executed.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.vseinfty.backbones import TORCHVISION_NAMES
from projects.vseinfty.image_encoders import GridEncoder
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.text_encoders import BertEncoder
from shared.errors import InputError

State = dict[str, Tensor]
PREFIX = "module."
ALIAS_ROOT = "backbone.resnet."
BACKBONE_SIDE = 256  # pixels at input_scale_factor 1


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A released file with canonical keys; `options` are the flags of the authors' train.py."""

    path: Path
    images: State
    captions: State
    options: dict[str, Any]
    epoch: int
    best_rsum: float
    steps: int

    @property
    def text_encoder(self) -> str:
        """bert or bigru, as the keys say."""
        return "bert" if any(key.startswith("bert.") for key in self.captions) else "bigru"

    @property
    def image_encoder(self) -> str:
        """Grid or regions, as the keys say."""
        return "grid" if any(key.startswith("backbone.") for key in self.images) else "regions"


def is_released(content: object) -> bool:
    """Whether the content of a checkpoint file is of the authors' format."""
    return (
        isinstance(content, Mapping) and isinstance(content.get("model"), list | tuple) and "opt" in content
    )


def read(path: Path | str) -> ReleasedCheckpoint:
    """Read a released file without executing anything in it.

    Raises:
        InputError: no such file, a pickle with a foreign global, or not of the released format.
    """
    from shared.untrusted import load_checkpoint

    return from_content(load_checkpoint(Path(path)), Path(path))


def from_content(content: Any, path: Path) -> ReleasedCheckpoint:
    """The same from content that has been read already."""
    if not is_released(content) or len(content["model"]) != 2:
        found = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"{path}: expected a released checkpoint (model: [image, text], opt), found {found}")
    for name, state in zip(("image", "text"), content["model"], strict=True):
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise InputError(f"{path}: the {name} encoder's state dict holds something else than tensors")
    images, captions = (canonical(state) for state in content["model"])
    options = content["opt"]
    return ReleasedCheckpoint(
        path=path,
        images=images,
        captions=captions,
        options=dict(vars(options) if isinstance(options, argparse.Namespace) else options),
        epoch=int(content.get("epoch", 0)),
        best_rsum=float(content.get("best_rsum", 0.0)),
        steps=int(content.get("Eiters", 0)),
    )


def canonical(state: Mapping[str, Tensor]) -> State:
    """Keys without DataParallel's prefix, each CNN tensor once under `backbone.base` / `backbone.top`."""
    plain = {key.removeprefix(PREFIX): value for key, value in state.items()}
    result: State = {}
    for key, value in plain.items():
        name = _without_alias(key)
        if name == key or name not in plain:
            result[name] = value
    return result


def _without_alias(key: str) -> str:
    """`backbone.resnet.layer1.0.conv1.weight` -> `backbone.base.4.0.conv1.weight`; other keys stay."""
    if not key.startswith(ALIAS_ROOT):
        return key
    first, _, rest = key.removeprefix(ALIAS_ROOT).partition(".")
    return f"backbone.{TORCHVISION_NAMES[first]}.{rest}" if first in TORCHVISION_NAMES else key


def model_settings(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """Keyword arguments of `build_model`: sizes from the tensors, the rest from the options.

    Raises:
        InputError: a tensor that tells a size is not there.
    """
    return {**image_settings(checkpoint), **text_settings(checkpoint)}


def image_settings(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """The image branch's part of `model_settings`, with embed_size and gpo."""
    options, state, kind = checkpoint.options, checkpoint.images, checkpoint.image_encoder
    head = "image_encoder." if kind == "grid" else ""
    embed_size, image_dim = _shape(checkpoint, state, f"{head}fc.weight")
    settings: dict[str, Any] = {
        "embed_size": embed_size,
        "image_encoder": kind,
        "image_dim": image_dim,
        "image_pooling": _pooling(checkpoint, state, f"{head}gpool.", "image_pooling"),
        "image_kmax": options.get("image_kmax"),
        "normalize_images": not options.get("no_imgnorm", False),
        **_gpo(state, f"{head}gpool."),
    }
    if kind == "grid":
        settings["backbone"] = options.get("backbone_source") or _guess_backbone(checkpoint)
    else:
        settings["image_hidden"] = _shape(checkpoint, state, "mlp.layers.0.weight")[0]
    return settings


def text_settings(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """The text branch's part of `model_settings`, with embed_size and gpo."""
    options, state, kind = checkpoint.options, checkpoint.captions, checkpoint.text_encoder
    settings: dict[str, Any] = {
        "text_encoder": kind,
        "text_pooling": _pooling(checkpoint, state, "gpool.", "text_pooling"),
        "text_kmax": options.get("text_kmax"),
        "normalize_captions": not options.get("no_txtnorm", False),
        **_gpo(state, "gpool."),
    }
    if kind == "bert":
        embed_size = _shape(checkpoint, state, "linear.weight")[0]
        return settings | {
            "embed_size": embed_size,
            "bert_pretrained": False,
            "bert_config": _bert_config(checkpoint),
        }
    vocab_size, word_dim = _shape(checkpoint, state, "embed.weight")
    layers = sum(key.startswith("rnn.weight_ih_l") and not key.endswith("_reverse") for key in state)
    return settings | {
        "embed_size": _shape(checkpoint, state, "rnn.weight_hh_l0")[1],
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "rnn_layers": layers,
    }


def _gpo(state: State, prefix: str) -> dict[str, Any]:
    if f"{prefix}gru.weight_ih_l0" not in state:
        return {}
    positional_dim = state[f"{prefix}gru.weight_ih_l0"].shape[1]
    hidden_dim = state[f"{prefix}gru.weight_hh_l0"].shape[1]
    return {"gpo": {"positional_dim": positional_dim, "hidden_dim": hidden_dim}}


def data_settings(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """How images and captions are prepared for this checkpoint (the keyword arguments of `data.open_split`)."""
    settings: dict[str, Any] = {"kind": "pixels" if checkpoint.image_encoder == "grid" else "regions"}
    if checkpoint.image_encoder == "grid":
        settings["backbone"] = checkpoint.options.get("backbone_source") or _guess_backbone(checkpoint)
        settings["image_side"] = int(BACKBONE_SIDE * float(checkpoint.options.get("input_scale_factor", 1.0)))
    return settings


def to_model(checkpoint: ReleasedCheckpoint) -> VSEModel:
    """Build the model that the checkpoint describes and load it strictly, in evaluation mode.

    Raises:
        InputError: keys that are missing, left over or of another shape, by name.
    """
    model = build_model(**model_settings(checkpoint))
    load(model, checkpoint)
    return model.eval()


def load(model: VSEModel, checkpoint: ReleasedCheckpoint) -> None:
    """Load the checkpoint into a model that is there; strict, see `to_model`."""
    from shared.checkpoint import load_strictly

    for name, encoder, state in (
        ("image encoder", model.img_enc, checkpoint.images),
        ("text encoder", model.txt_enc, checkpoint.captions),
    ):
        # Older files miss the counters that torch added to batch norm, or hold BERT's position ids, which newer
        # transformers no longer save.
        counters = tuple(key for key in encoder.state_dict() if key.endswith("num_batches_tracked"))
        load_strictly(
            encoder,
            state,
            source=f"{checkpoint.path} ({name})",
            allow_missing=counters,
            allow_unexpected=("bert.embeddings.position_ids",),
        )


def save(
    path: Path | str,
    model: VSEModel,
    *,
    options: Mapping[str, Any],
    epoch: int = 0,
    best_rsum: float = 0.0,
    steps: int = 0,
) -> None:
    """Write the authors' format, with their key names, prefix and aliases, for use in their code.

    Args:
        path: the file, written atomically.
        model: any model of ours.
        options: flags of the authors' train.py; those that the model itself tells are filled in.
        epoch: next epoch; best_rsum, steps: as the authors count them.
    """
    from shared.files import atomic_write

    images, captions = released_states(model)
    content = {
        "epoch": epoch,
        "model": [images, captions],
        "best_rsum": float(best_rsum),
        "opt": argparse.Namespace(**{**_options_of(model), **options}),
        "Eiters": steps,
    }
    with atomic_write(Path(path)) as file:
        torch.save(content, file)


def released_states(model: VSEModel) -> tuple[State, State]:
    """State dicts under the released key names, in the released order.

    BERT models and all grid models were saved inside DataParallel, so their keys start with `module.`.
    """
    prefix = (
        PREFIX if isinstance(model.img_enc, GridEncoder) or isinstance(model.txt_enc, BertEncoder) else ""
    )
    images: State = {}
    own = {key: value.detach() for key, value in model.img_enc.state_dict().items()}
    if isinstance(model.img_enc, GridEncoder):
        images.update({_alias(key): value for key, value in own.items() if key.startswith("backbone.")})
    images.update({key: value for key, value in own.items() if not key.startswith(ALIAS_ROOT)})
    captions = {key: value.detach() for key, value in model.txt_enc.state_dict().items()}
    return _prefixed(images, prefix), _prefixed(captions, prefix)


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def _alias(key: str) -> str:
    """`backbone.base.4.0.conv1.weight` -> `backbone.resnet.layer1.0.conv1.weight`; the classifier's keys stay."""
    for name, place in TORCHVISION_NAMES.items():
        if key.startswith(f"backbone.{place}."):
            return ALIAS_ROOT + name + key.removeprefix(f"backbone.{place}")
    return key


def _options_of(model: VSEModel) -> dict[str, Any]:
    grid = isinstance(model.img_enc, GridEncoder)
    options: dict[str, Any] = {
        "precomp_enc_type": "backbone" if grid else "basic",
        "embed_size": model.embed_size,
    }
    if isinstance(model.img_enc, GridEncoder):
        options["backbone_source"] = model.img_enc.backbone.source
    return options


def _shape(checkpoint: ReleasedCheckpoint, state: State, key: str) -> tuple[int, ...]:
    if key not in state:
        raise InputError(f"{checkpoint.path}: not a checkpoint of this model: no tensor {key!r}")
    return tuple(state[key].shape)


def _pooling(checkpoint: ReleasedCheckpoint, state: State, prefix: str, option: str) -> str:
    if f"{prefix}gru.weight_ih_l0" in state:
        return "gpo"
    if option in checkpoint.options:
        return str(checkpoint.options[option])
    raise InputError(f"{checkpoint.path}: no tensors {prefix}*, and opt does not say the {option}")


def _guess_backbone(checkpoint: ReleasedCheckpoint) -> str:
    """The source whose graph the tensors fit, for files whose options do not say."""
    images = checkpoint.images
    if _shape(checkpoint, images, "backbone.base.4.0.conv1.weight")[0] > 64:
        return "wsl"
    blocks = len({key.split(".")[3] for key in images if key.startswith("backbone.base.6.")})
    return {6: "imagenet_res50", 36: "imagenet_res152"}.get(blocks, "detector")


def _bert_config(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    captions = checkpoint.captions
    vocab_size, hidden = _shape(checkpoint, captions, "bert.embeddings.word_embeddings.weight")
    layers = {key.split(".")[3] for key in captions if key.startswith("bert.encoder.layer.")}
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": _shape(checkpoint, captions, "bert.encoder.layer.0.intermediate.dense.weight")[
            0
        ],
        "max_position_embeddings": _shape(checkpoint, captions, "bert.embeddings.position_embeddings.weight")[
            0
        ],
        **checkpoint.options.get("bert_config", {}),
    }
