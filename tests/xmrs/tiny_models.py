"""Models of a few thousand numbers, and texts for them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.xmrs.model import FoodSpaceNet

VOCAB = 300
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "intermediate": 24,
    "max_tokens": 40,
}
IMAGE: dict[str, Any] = {"backbone": "resnet18", "width": 4}


def tiny_model(*, seed: int = 0, embed_dim: int = 8, head_dim: int = 12, **text: Any) -> FoodSpaceNet:
    """A FoodSpaceNet of ~20,000 numbers in evaluation mode; `text` overrides its text section."""
    torch.manual_seed(seed)
    settings = {**TEXT, **text}
    if settings.get("kind") == "average":
        settings = {name: settings[name] for name in ("kind", "vocab_size", "hidden")}
    model = FoodSpaceNet(embed_dim=embed_dim, head_dim=head_dim, image=IMAGE, text=settings)
    with torch.no_grad():  # weights at which every part matters, and statistics that are not 0 and 1
        for name, parameter in model.named_parameters():
            if "mBERT" in name or "word_embeddings" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def texts(lengths: list[int], *, width: int | None = None, seed: int = 0, high: int = VOCAB) -> Tensor:
    """Random token ids [B, width] that begin with 101; zeros from each length on."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(104, high, (len(lengths), width or max(lengths)))
    ids[:, 0] = 101
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    return torch.from_numpy(ids)


def photos(count: int, *, side: int = 32, seed: int = 0) -> Tensor:
    """Random normalised images [B, 3, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator)
