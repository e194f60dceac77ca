"""Tiny networks and a tiny CLIP with random weights, as files that visualize.py, infer.py and demo.py read."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.semabs.clip_model import build_clip
from projects.semabs.clip_tokenizer import WordTokenizer
from projects.semabs.clip_weights import save_clip
from projects.semabs.mini_names import NAMES
from projects.semabs.model import build_network
from shared import checkpoint
from shared.runtime import Runtime

PROMPT = "a photograph of a {} in a home."
TEXT_DIM = 16
MODEL: dict[str, Any] = {
    "voxel_shape": [16, 16, 16],
    "unet": {"f_maps": 8, "channels": 8, "groups": 8, "levels": 2},
    "pts_feat_hidden": 8,
}
LABELS = ("chair", "poster", "table")
DESCRIPTIONS = (("mug", "on", "table"), ("poster", "behind", "chair"))


def write_clip(path: Path, more: Sequence[str] = ()) -> Path:
    """A CLIP of two thin blocks whose tokenizer knows the words of the tests, of the embedded rooms, and `more`."""
    texts = [PROMPT, *LABELS, *NAMES, *(word for row in DESCRIPTIONS for word in row), *more]
    words = sorted({word for text in texts for word in text.lower().replace(".", " ").split()})
    torch.manual_seed(0)
    tokenizer = WordTokenizer(words, 32)
    clip = build_clip(
        image_size=56, patch=8, width=16, layers=2, heads=2, text_width=16, text_layers=1, text_heads=2,
        context=32, vocabulary=tokenizer.vocabulary, embedding=TEXT_DIM,
    )  # fmt: skip
    save_clip(path, clip, tokenizer)
    return path


def write_run(
    folder: Path,
    clip: Path,
    *,
    task: str = "ovssc",
    approach: str = "semantic_abstraction",
    root: Path | None = None,
) -> Path:
    """A run folder as training leaves it, with random weights."""
    torch.manual_seed(1)
    network = build_network(task=task, approach=approach, text_dim=TEXT_DIM, **MODEL)
    data = {
        "clip": str(clip),
        "prompts": [PROMPT],
        "augmentations": 0,
        "root": None if root is None else str(root),
    }
    settings = {
        "name": "tiny",
        "seed": 0,
        "task": task,
        "model": {"approach": approach, "network_inputs": ["saliency"], "text_dim": TEXT_DIM, **MODEL},
        "items": {"saliency_config": "ours", "scene_bounds": [[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]]},
        "data": data,
    }
    folder.mkdir(parents=True)
    runtime = Runtime(torch.device("cpu"))
    checkpoint.save(
        folder, runtime=runtime, modules={"model": network}, progress={"epoch": 1}, config=settings
    )
    return folder


def scene_dict(height: int = 40, width: int = 30) -> dict[str, Any]:
    """The content of a scene pickle: a portrait picture of a wall 2 m before a camera that looks along +x."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height // 10, width // 10, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    rows = np.arange(height, dtype=np.float32)[:, None]
    depth = np.broadcast_to(2.0 - 0.6 * rows / height, (height, width)).astype(np.float32).copy()
    depth[0, :5] = 0
    pose = np.eye(4)
    pose[:3, :3] = [[0, -0.25, 0.968], [-1, 0, 0], [0, -0.968, -0.25]]
    pose[:3, 3] = [-1.7, 0, 1.0]
    return {
        "rgb": rgb,
        "depth": depth,
        "cam_intr": np.array([[35.0, 0, width / 2], [0, 35.0, height / 2], [0, 0, 1]]),
        "cam_extr": pose,
        "ovssc_obj_classes": list(LABELS[::-1]),
        "descriptions": [list(row) for row in DESCRIPTIONS],
    }


def write_pickle(path: Path, content: Any) -> Path:
    """A pickle file."""
    path.write_bytes(pickle.dumps(content))
    return path
