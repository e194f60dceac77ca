"""The net that tensors under the released names belong to: its kind and sizes are read off them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.babel.model import build_model
from projects.babel.outputs import Net
from projects.babel.released import COUNTERS, State
from shared.checkpoint import load_strictly
from shared.errors import InputError


def to_model(state: State, *, source: Path | str, settings: Mapping[str, Any] | None = None) -> Net:
    """The net whose tensors these are, in evaluation mode, loaded strictly.

    Args:
        state: tensors under the released names.
        source: named in messages.
        settings: keyword arguments of `build_model` that tensors do not tell (output stride, dilations, PAMR);
            what tensors tell wins.

    Raises:
        InputError: no net of ours has these tensors.
    """
    told = {**(settings or {}), **sizes(state, source), "weights": None}
    with torch.device("meta"):
        net = build_model(**told)
    net.to_empty(device="cpu")
    load_strictly(net, state, source=str(source), allow_missing=COUNTERS)
    for name, buffer in net.named_buffers():
        if name not in state:
            buffer.zero_()
    return net.eval()


def sizes(state: Mapping[str, Tensor], source: Path | str) -> dict[str, Any]:
    """Kind, backbone and widths, read off the tensors: keyword arguments of `build_model`."""
    if any(key.startswith("model_ft.") for key in state):
        return _classifier_sizes(state, source)
    last = "last_conv.0.weight" if "last_conv.0.weight" in state else "fc8.weight"
    if last not in state:
        raise InputError(
            f"{source}: holds no net of this project: no last_conv.0.weight, fc8.weight or model_ft.*"
        )
    told: dict[str, Any] = {"concepts": len(state[last]), "backbone": _backbone(state, source)}
    if told["backbone"].startswith("resnet") and told["backbone"] != "resnet38":
        told["width"] = len(state["conv1.weight"])
    if last == "fc8.weight":
        return {"kind": "bsl", **told}
    try:
        head, skip = len(state["aspp.conv1.weight"]), len(state["fc8_skip.0.weight"])
    except KeyError as error:
        raise InputError(f"{source}: {error.args[0]} is missing") from None
    return {"kind": "ae", **told, "head_width": head, "skip_width": skip}


def _backbone(state: Mapping[str, Tensor], source: Path | str) -> str:
    if "conv1a.weight" in state:
        return "resnet38"
    if "conv1_1.weight" in state:
        return "vgg16"
    if "conv1.weight" not in state:
        raise InputError(f"{source}: no backbone known: no conv1, conv1a or conv1_1")
    if "layer1.0.conv3.weight" not in state:
        return "resnet18"
    return "resnet101" if "layer3.6.conv1.weight" in state else "resnet50"


def _classifier_sizes(state: Mapping[str, Tensor], source: Path | str) -> dict[str, Any]:
    names = {
        "model_ft.fc.weight": "resnet50" if "model_ft.layer1.0.conv3.weight" in state else "resnet18",
        "model_ft.classifier.1.weight": (
            "mobilenet_v2" if "model_ft.features.18.0.weight" in state else "squeezenet"
        ),
    }
    for last, backbone in names.items():
        if last in state:
            return {"kind": "cls", "backbone": backbone, "concepts": len(state[last])}
    raise InputError(f"{source}: no last layer: neither of {', '.join(names)}")
