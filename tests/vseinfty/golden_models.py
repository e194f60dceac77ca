"""Models whose weights are those of a golden case."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.vseinfty import released
from projects.vseinfty.model import VSEModel, build_model
from tests.goldens import fill
from tests.goldens.case import Case

State = dict[str, Tensor]


def tensors(case: Case, manifest: str, shapes: Mapping[str, list[int]] | None = None) -> State:
    """Filled weights of a manifest, some with another shape than the manifest's."""
    entries = json.loads(case.path(manifest).read_text(encoding="utf-8"))
    entries = [{**entry, "shape": (shapes or {}).get(entry["name"], entry["shape"])} for entry in entries]
    filled = fill.state_dict(entries, seed=case.seed)
    return {name: torch.from_numpy(value) for name, value in filled.items()}


def build(images: State | None, captions: State | None, **options: Any) -> VSEModel:
    """A loaded model, sizes from the tensors; a branch that is None is a small stand-in."""
    checkpoint = released.ReleasedCheckpoint(Path("golden"), images or {}, captions or {}, options, 0, 0.0, 0)
    settings: dict[str, Any] = {}
    if images is not None:
        settings |= released.image_settings(checkpoint)
    else:
        settings |= {"image_dim": 1, "image_hidden": 1, "image_pooling": "avg"}
    if captions is not None:
        settings |= released.text_settings(checkpoint)
    else:
        settings |= {"vocab_size": 2, "word_dim": 1, "text_pooling": "avg"}
    model = build_model(**settings)
    if images is not None:
        model.img_enc.load_state_dict(images, strict=True)
    if captions is not None:
        model.txt_enc.load_state_dict(captions, strict=True)
    return model.eval()


def padded(values: np.ndarray, lengths: np.ndarray) -> Tensor:
    """Zero rows (or ids) from each length on."""
    outside = np.arange(values.shape[1]) >= np.asarray(lengths)[:, None]
    values = values.copy()
    values[outside] = 0
    return torch.from_numpy(values)


def tensors_shape(case: Case, manifest: str, name: str) -> list[int]:
    entries = json.loads(case.path(manifest).read_text(encoding="utf-8"))
    shape: list[int] = next(entry["shape"] for entry in entries if entry["name"] == name)
    return shape
