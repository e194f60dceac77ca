"""The authors' released checkpoints <-> our model, key by key (spec section 5 and quirks 3, 11).

A released file is a dict {epoch, model: [image encoder's state, text encoder's state], best_rsum, opt:
Namespace, Eiters}. Its keys may carry DataParallel's prefix `module.`, and grid models hold every CNN tensor
twice: as `backbone.resnet.X` (torchvision names) and as `backbone.base.*` / `backbone.top.*`, which win.
Reading resolves both; loading is strict. Nothing in the file is executed.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.vseinfty import sizes
from projects.vseinfty.backbones import TORCHVISION_NAMES
from projects.vseinfty.image_encoders import GridEncoder
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.pooling import POOLINGS, KMaxPooling
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
        return "bert" if sizes.is_bert(self.captions) else "bigru"

    @property
    def image_encoder(self) -> str:
        """Grid or regions, as the keys say."""
        return "grid" if sizes.is_grid(self.images) else "regions"


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
    return sizes.image_settings(checkpoint.images, checkpoint.options, str(checkpoint.path))


def text_settings(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """The text branch's part of `model_settings`, with embed_size and gpo."""
    return sizes.text_settings(checkpoint.captions, checkpoint.options, str(checkpoint.path))


def data_settings(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """How images are prepared for this checkpoint (keyword arguments of `data.open_split`)."""
    settings: dict[str, Any] = {"kind": "pixels" if checkpoint.image_encoder == "grid" else "regions"}
    if checkpoint.image_encoder == "grid":
        settings["backbone"] = image_settings(checkpoint)["backbone"]
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
        # Older files miss the counters that torch added to batch norm, or hold BERT's position ids, which
        # newer transformers no longer save.
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
    """`backbone.base.4.0.conv1.weight` -> `backbone.resnet.layer1.0.conv1.weight`; the classifier's keys
    stay.
    """
    for name, place in TORCHVISION_NAMES.items():
        if key.startswith(f"backbone.{place}."):
            return ALIAS_ROOT + name + key.removeprefix(f"backbone.{place}")
    return key


def _options_of(model: VSEModel) -> dict[str, Any]:
    """The flags of the authors' train.py that the model tells; three more where it is not of their kind."""
    images, captions = model.img_enc, model.txt_enc
    grid = isinstance(images, GridEncoder)
    head = images.image_encoder if isinstance(images, GridEncoder) else images
    options: dict[str, Any] = {
        "precomp_enc_type": "backbone" if grid else "basic",
        "embed_size": model.embed_size,
        "img_dim": head.fc.in_features,
        "no_imgnorm": not head.normalize,
        "no_txtnorm": not captions.normalize,
    }
    if isinstance(images, GridEncoder):
        options["backbone_source"] = images.backbone.source
    if isinstance(captions, BertEncoder):
        config: Any = captions.bert.config
        if config.num_attention_heads * 64 != config.hidden_size:
            options["bert_config"] = {"num_attention_heads": config.num_attention_heads}
    else:
        options |= {"word_dim": captions.embed.embedding_dim, "vocab_size": captions.embed.num_embeddings}
        options["num_layers"] = captions.rnn.num_layers
    for branch, pooling in model.poolings().items():
        name = next(name for name, kind in POOLINGS.items() if isinstance(pooling, kind))
        if name != "gpo":
            options[f"{branch}_pooling"] = name
        if isinstance(pooling, KMaxPooling):
            options[f"{branch}_kmax"] = pooling.k
    return options
