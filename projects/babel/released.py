"""Weights of the released code <-> our nets; nothing in the files is executed.

A snapshot `model_enc_<suffix>.pth` is the plain state dict of the net: 399 tensors for the released ResNet-50.
Initial weights of backbones are torchvision's files (resnet50-19c8e357.pth) or state dicts under our names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.babel.outputs import Net
from shared.errors import InputError

State = dict[str, Tensor]
COUNTERS = ("*.num_batches_tracked",)  # files of old versions of torch have none
PREFIX = "module."  # of DataParallel
KERNELS = re.compile(r"^_aff\.(aff_x|aff_m|aff_std)\.kernel$")
TORCHVISION_VGG = [f"conv{stage}_{i}" for stage, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of these in torchvision's `features`


def read(path: Path | str) -> State:
    """The tensors of a released snapshot or another file of weights.

    Raises:
        InputError: no such file, damaged, asks for code, or is no state dict.
    """
    from shared.untrusted import load_checkpoint

    return state_of(load_checkpoint(Path(path)), path)


def state_of(content: Any, source: Path | str) -> State:
    """The state dict that the content of a file is, or holds under `state_dict`; `module.` is taken off."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        found = "an empty one" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise InputError(f"{source}: expected a state dict of tensors by name, found {found}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{source}: {key}: expected a tensor, found a {type(value).__name__}")
    state = {key.removeprefix(PREFIX): value for key, value in content.items()}
    check_kernels(state, source)
    return state


def check_kernels(state: Mapping[str, Tensor], source: Path | str) -> None:
    """PAMR is computed without its kernels: InputError unless those in the file shift by one pixel, as released."""
    for key, kernel in state.items():
        if not KERNELS.match(key):
            continue
        taps = kernel.flatten(1)
        in_range = bool(((taps == 0) | (taps.abs() == 1)).all()) and kernel.shape[1:] == (1, 3, 3)
        if not in_range or bool((taps[:, [0, 1, 2, 3, 5, 6, 7, 8]].abs().sum(1) > 1).any()):
            raise InputError(f"{source}: {key}: expected kernels that shift by one pixel, found others")


def write(path: Path | str, net: Net) -> None:
    """Write a net as a released snapshot, atomically."""
    from shared.files import atomic_write

    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic_write(Path(path)) as file:
        torch.save(state, file)


def load_backbone(net: Net, path: Path | str) -> None:
    """Load a backbone's initial weights: torchvision's file, or any state dict that has them under our names.

    All layers of the backbone must be there (of VGG16, fc6 and fc7 may be missing: torchvision's have other
    sizes); a head in the file is left out.

    Raises:
        InputError: no such file, or one that does not fit, naming the keys.
    """
    from shared.checkpoint import FORMAT, load_strictly
    from shared.untrusted import load_checkpoint

    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"model.weights: no such file {path}")
    content = load_checkpoint(path)
    if isinstance(content, Mapping) and content.get("format") == FORMAT:  # a run of ours
        content = content["modules"].get("model")
    own = net.state_dict()
    found = _under_our_names(state_of(content, path), net)
    if net.settings.get("kind") == "cls":
        head = {key for key in own if key.startswith(("model_ft.fc.", "model_ft.classifier."))}
    else:
        head = {key for key in own if key.split(".")[0] not in net.pretrained_layers}
    kept = {key: value for key, value in found.items() if key in own and key not in head}
    optional = ["fc6.*", "fc7.*"] if net.settings.get("backbone") == "vgg16" else []
    load_strictly(net, kept, source=str(path), allow_missing=(*COUNTERS, *sorted(head), *optional))


def _under_our_names(state: State, net: Net) -> State:
    if net.settings.get("kind") == "cls":
        return {key if key.startswith("model_ft.") else f"model_ft.{key}": v for key, v in state.items()}
    if net.settings.get("backbone") == "vgg16" and "features.0.weight" in state:
        names = dict(zip(map(str, VGG_PLACES), TORCHVISION_VGG, strict=True))
        parts = {key: key.split(".") for key in state if key.startswith("features.")}
        return {f"{names[part[1]]}.{part[2]}": state[key] for key, part in parts.items() if part[1] in names}
    return {key.removeprefix("model_ft."): value for key, value in state.items()}
