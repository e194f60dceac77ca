"""The gradients of one step, computed by a group of processes or by one; run as a script by test_torchrun."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.xmrs import engine, optim
from projects.xmrs.data import Batch, open_split
from projects.xmrs.model import FoodSpaceNet
from shared import runtime
from shared.runtime import Runtime

SHARES = ((0, 4), (4, 10))  # the rows of each rank: unequal, and each with another longest text
LOSSES: dict[str, dict[str, Any]] = {
    "published": {},
    "mean negatives": {"hardest": False},
    "between modalities": {"intra_modal": False, "symmetric": True},
}
VOCABULARY = 120
TEXT = {"vocab_size": VOCABULARY, "hidden": 16, "intermediate": 16, "max_tokens": 16}


def build(sync_batchnorm: bool, here: Runtime, *, compact: bool = True) -> FoodSpaceNet:
    """A small model without dropout, which would draw other numbers on each rank."""
    torch.manual_seed(0)
    model = FoodSpaceNet(
        embed_dim=12,
        head_dim=12,
        image={"backbone": "resnet18", "width": 8},
        text={
            "vocab_size": VOCABULARY,
            "hidden": 16,
            "intermediate": 16,
            "max_tokens": 16,
            "dropout": 0.0,
            "init_std": 0.4,
        },
    )
    table = np.arange(100, VOCABULARY) if compact else None
    engine.prepare(model, here, seed=0, sync_batchnorm=sync_batchnorm, word_table=table)
    return model


def whole_batch() -> Batch:
    """Ten pairs with texts of 2 to 9 tokens."""
    rng = torch.Generator().manual_seed(1)
    lengths = torch.tensor([3, 5, 2, 4, 9, 2, 5, 7, 3, 2])
    tokens = torch.randint(104, VOCABULARY, (10, 9), generator=rng)
    tokens[:, 0] = 101
    tokens[torch.arange(9) >= lengths[:, None]] = 0
    images = torch.randn(10, 3, 32, 32, generator=rng)
    return Batch(images, tokens, lengths, torch.zeros(10, dtype=torch.int64), torch.arange(10))


def share(batch: Batch, start: int, stop: int) -> Batch:
    """Rows start..stop, trimmed to their own longest text as the collation of a rank does."""
    rows, longest = slice(start, stop), int(batch.lengths[start:stop].max())
    parts = {name: getattr(batch, name)[rows] for name in ("images", "lengths", "classes", "indices")}
    return replace(batch, tokens=batch.tokens[rows, :longest], **parts)


def stepped(here: Runtime, batch: Batch, loss: dict[str, Any], *, sync_batchnorm: bool) -> dict[str, Tensor]:
    """Loss, gradients and buffers of one step of SGD at rate 0: what the optimizer would have seen."""
    model = build(sync_batchnorm, here)
    groups = [{"params": list(model.parameters()), "name": optim.GROUPS[0]}]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    result = engine.train_step(model, optimizer, batch, runtime=here, **loss)
    found = {"loss": torch.tensor(result.loss), "norm": torch.tensor(result.gradient_norm)}
    found |= {"positive": torch.tensor(result.positive), "negative": torch.tensor(result.negative)}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def validated(here: Runtime, root: Path, statistics: int) -> dict[str, Tensor]:
    """Metrics after a validation that began with these running statistics."""
    split = open_split(
        image_root=root / "images", data_root=root / "loader_data", split="val", side=32, resize=36
    )
    torch.manual_seed(0)
    model = FoodSpaceNet(
        embed_dim=12,
        head_dim=12,
        image={"backbone": "resnet18", "width": 8},
        text={"vocab_size": 400, "hidden": 16, "intermediate": 16, "max_tokens": 32},
    )
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.linspace(-0.5, 0.5, len(buffer)) * (1 - 2 * statistics))
    found = engine.validate(model, split, here, loss={"margin": 0.3}, medr=10, batch_size=4, workers=0)
    return {name: torch.tensor(value) for name, value in found.items()} | dict(model.named_buffers())


def main(out: Path, root: Path) -> None:
    with runtime.start(device="cpu", threads=1) as here:
        own = share(whole_batch(), *SHARES[here.rank])
        found = {
            f"synchronised, {name}": stepped(here, own, loss, sync_batchnorm=True)
            for name, loss in LOSSES.items()
        }
        found["per replica"] = stepped(here, own, {}, sync_batchnorm=False)
        found["validated"] = validated(here, root, statistics=here.rank)
        torch.save(found, out / f"rank{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
