"""Weights under the released names: ckpt_{epoch}.pth, latest.pth, and args.pkl with the released flags.

A file holds {"net", "optimizer", "epochs"}; names in "net" begin with "module.", as those of the released runs.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shared import files

LATEST, ARGUMENTS = "latest.pth", "args.pkl"
PREFIX = "module."
_NAME = re.compile(r"^ckpt_(\d+)\.pth$")


def write(path: Path, *, network: Mapping[str, Any], optimizer: Mapping[str, Any], epochs: int) -> None:
    """Write state dicts and the number of epochs done; OSError when the disk is full."""
    weights = {f"{PREFIX}{name}": value.detach().cpu().contiguous() for name, value in network.items()}
    with files.atomic_write(path) as file:
        torch.save({"net": weights, "optimizer": dict(optimizer), "epochs": epochs}, file)


def path_of(folder: Path, epoch: int) -> Path:
    """The snapshot after this many epochs."""
    return folder / f"ckpt_{epoch}.pth"


def remove_old(folder: Path, keep: int) -> None:
    """Leave the `keep` snapshots with the most epochs (the released code keeps all)."""
    found = sorted((int(name[1]), path) for path in folder.iterdir() if (name := _NAME.match(path.name)))
    for _, path in found[: max(0, len(found) - keep)]:
        path.unlink(missing_ok=True)


def released_arguments(task: str, settings: Mapping[str, Any], folder: Path) -> argparse.Namespace:
    """The settings of a run as the released command line has them (with the task added).

    Args:
        task: ovssc or vool.
        settings: of train_ovssc.py or train_vool.py.
        folder: of the run.
    """
    data, items, model, optim = (settings[name] for name in ("data", "items", "model", "optim"))
    same = {name: items[name] for name in _OF_ITEMS} | {name: model[name] for name in _OF_MODEL}
    renamed = {
        "file_path": data["root"],
        "log": str(folder),
        "num_warmup_steps": optim["warmup"],
        "lr_scheduler_type": optim["schedule"],
        "grad_max_norm": optim["clip"],
        "lr": optim["lr"],
        "weight_decay": optim["weight_decay"],
        "epochs": optim["epochs"],
        "batch_size": optim["batch_size"],
        "balance_positive_negative": settings["loss"]["balance_positive_negative"],
        "eval_freq": settings["validation"]["every"],
        "save_freq": settings["snapshots"]["every"],
        "seed": settings["seed"],
        "load": settings["resume_from"],
        "num_workers": settings["workers"] or 0,
        "use_amp": settings["runtime"]["precision"] != "fp32",
        "device": settings["runtime"]["device"],
        "gpus": ["0"],
        "pts_feat_extractor_hidden_dim": model["pts_feat_hidden"],
        "decoder_concat_xyz_pts": model["decoder_concat_xyz"],
        "reduce_method": "max",  # what the released code asserts, and does not do
        **{f"unet_{name}": model["unet"][ours] for name, ours in _OF_UNET.items()},
    }
    return argparse.Namespace(task=task, **same, **renamed)


def write_arguments(task: str, settings: Mapping[str, Any], folder: Path) -> None:
    """Write args.pkl beside the snapshots, unless it is there already, as released."""
    path = folder / ARGUMENTS
    if not path.exists():
        with files.atomic_write(path) as file:
            pickle.dump(released_arguments(task, settings, folder), file)


_OF_UNET = {"f_maps": "f_maps", "num_channels": "channels", "num_groups": "groups", "num_levels": "levels"}
_OF_MODEL = (
    "approach",
    "voxel_shape",
    "network_inputs",
    "pointing_method",
    "pointing_dim",
    "use_pts_feat_extractor",
)
_OF_ITEMS = (
    "saliency_config",
    "scene_bounds",
    "num_patches",
    "num_descs",
    "num_input_pts",
    "num_output_pts",
    "subtract_mean_relevancy",
    "saliency_vmin",
    "patch_mask_cutoff",
    "offset_patch_mask",
    "domain_randomization",
    "dr_pos",
    "dr_orn",
    "dr_scale",
    "xyz_pts_noise",
    "balance_spatial_sampling",
    "balance_spatial_relations",
    "always_replace_subsample_pts",
)
