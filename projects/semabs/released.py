"""Checkpoints under the released names, {net, optimizer, epochs}, and the flags beside them in args.pkl.

Nothing in the files is executed. What args.pkl does not say is read off the shapes of the weights.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from projects.semabs.item_settings import ItemSettings
from shared.errors import InputError

ARGUMENTS = "args.pkl"
PREFIX = "module."  # of DistributedDataParallel
UNET = "vol_feature_extractor."
SAME_NAME = ("voxel_shape", "network_inputs", "pointing_method", "pointing_dim", "use_pts_feat_extractor")


@dataclass(frozen=True)
class Released:
    """What a checkpoint holds.

    Attributes:
        weights: of the network, without `module.`.
        optimizer: state of LAMB; empty where there is none.
        epochs: done.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0


def read(content: Any, *, source: str) -> Released:
    """A released checkpoint, or ours under the same names, from the content of its file.

    Names of weights may begin with `module.` (written by several processes) or not.

    Raises:
        InputError: something else.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("net"), Mapping) or not content["net"]:
        found = (
            f"one with {sorted(map(str, content))[:4]}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise InputError(f"{source}: expected a checkpoint with net, optimizer and epochs, found {found}")
    for name, value in content["net"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{source}: net: {name}: expected a tensor, found a {type(value).__name__}")
    weights = {name.removeprefix(PREFIX): value for name, value in content["net"].items()}
    optimizer = content.get("optimizer") or {}
    if not isinstance(optimizer, Mapping):
        raise InputError(f"{source}: optimizer: expected its state, found a {type(optimizer).__name__}")
    epochs = content.get("epochs", 0)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise InputError(f"{source}: epochs: expected a whole number, found {epochs!r}")
    return Released(weights, dict(optimizer), epochs)


def read_arguments(path: Path) -> dict[str, Any]:
    """The flags in an args.pkl by name; InputError for anything but a Namespace of plain values."""
    from shared.untrusted import load_pickle

    content = load_pickle(path)
    if not isinstance(content, Namespace):
        raise InputError(
            f"{path}: expected the flags of a run (a Namespace), found a {type(content).__name__}"
        )
    return dict(vars(content))


def task_of(weights: Mapping[str, Tensor]) -> str:
    """Ovssc or vool."""
    return "vool" if any(name.startswith("completion_net.") for name in weights) else "ovssc"


def model_settings(weights: Mapping[str, Tensor], flags: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Keyword arguments of `model.build_network` but for task and bounds, from shapes and flags.

    Raises:
        InputError: weights that are those of none of the networks.
    """
    task = task_of(weights)
    prefix = "completion_net." if task == "vool" else ""
    try:
        first = weights[f"{prefix}{UNET}encoders.0.basic_module.conv1.conv.weight"]
        last = weights[f"{prefix}{UNET}final_conv.weight"]
        decoder = weights[f"{prefix}visual_sampler.mlp.0.weight"]
        out = weights[f"{prefix}visual_sampler.mlp.2.weight"]
        sampler = weights["spatial_sampler.mlp.0.weight"] if task == "vool" else decoder
    except KeyError as error:
        raise InputError(f"{source}: not a network of this program: it has no {error.args[0]}") from None
    encoder = f"{prefix}{UNET}encoders."
    levels = {name[len(encoder) :].split(".")[0] for name in weights if name.startswith(encoder)}
    found: dict[str, Any] = {
        "approach": _approach(weights, task, out.shape[0]),
        "unet": {
            "f_maps": first.shape[0],
            "channels": last.shape[0],
            "groups": flags.get("unet_num_groups", 8),
            "levels": len(levels),
        },
        "decoder_concat_xyz": sampler.shape[1] != sampler.shape[0],
        "pool": "mean",
    }
    hidden = weights.get(f"{prefix}pts_feat_extractor.0.weight")
    found["use_pts_feat_extractor"] = hidden is not None
    if hidden is not None:
        found["pts_feat_hidden"] = hidden.shape[0]
        if hidden.shape[1] == 6:
            found["network_inputs"] = ["rgb"]
    if task == "ovssc" and found["approach"] == "semantic_aware":
        found["text_dim"] = out.shape[0]
    elif "mlp.weight" in weights:
        found["text_dim"] = (weights["mlp.weight"].shape[1] - weights["mlp.weight"].shape[0]) // 2
    given = {name: flags[name] for name in SAME_NAME if flags.get(name) is not None}
    return {**found, **{name: list(x) if isinstance(x, tuple) else x for name, x in given.items()}}


def item_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The `items` section that a run with these flags had."""
    items = asdict(ItemSettings())
    return {name: flags.get(name, value) for name, value in items.items()}


def _approach(weights: Mapping[str, Tensor], task: str, out_channels: int) -> str:
    if task == "ovssc":
        return "semantic_aware" if out_channels > 1 else "semantic_abstraction"
    if "mlp.weight" in weights:
        return "semantic_aware"
    has_relations = any(name.startswith("relation_embeddings.") for name in weights)
    return "semantic_abstraction" if has_relations else "clip_spatial"
