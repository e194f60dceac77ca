"""A training step and a validation on one rank of a group; also imported by the tests for one process.

Run: two_ranks_training.py OUT_DIR DATA_DIR
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.babel import engine, validation
from projects.babel.data import Batch, Split, open_split
from projects.babel.matches import Matches
from projects.babel.model import build_model
from projects.babel.objective import Objective
from projects.babel.outputs import Net
from shared import data, runtime
from shared.runtime import Runtime
from tests.babel.tiny_wikiscenes import CONCEPTS

PAIRS = 6
SHARES = [(0, 2), (2, 6)]  # pairs of each rank: unequal on purpose
EASY = {"layer": "decoder", "weight": 0.3, "kind": "contrastive_easy", "negatives": 4, "tau": 0.2, "normalize": True,
        "margin": 3.0}  # fmt: skip
OBJECTIVES = {
    "all terms": Objective(mask_weight=0.7, correspondence=EASY),
    "several labels": Objective("SoftMargin", 0.0, {**EASY, "kind": "triplet", "layer": "fc8"}),
    "harder negatives": Objective("Hinge", 0.5, {**EASY, "kind": "contrastive", "layer": "backbone"}),
}


def build(here: Runtime, *, sync_batchnorm: bool = False) -> Net:
    """A small net without dropout and gate: what is drawn differs between ranks."""
    torch.manual_seed(0)
    model = build_model(
        concepts=3, backbone="resnet18", width=8, output_stride=8, head_width=8, skip_width=4, dropout=0.0,
        last_dropout=0.0, gate_alpha=0.0, pamr={"dilations": [1, 2], "iterations": 2},
    )  # fmt: skip
    with torch.no_grad():  # masks of several classes from the start
        model.get_parameter("last_conv.0.weight").mul_(3)
    engine.prepare(model, here, seed=0, sync_batchnorm=sync_batchnorm)
    return model


def open_train(root: Path, **settings: Any) -> Split:
    how: dict[str, Any] = {
        "concepts": CONCEPTS,
        "size": 32,
        "graph_threshold": 5,
        "labelled": 0.7,
        **settings,
    }
    file, correspondence = root / "train.txt", root / "correspondence.json"
    return open_split(name="train", file=file, root=root, correspondence=correspondence, **how)


def whole_batch(root: Path, **settings: Any) -> Batch:
    """Six pairs; some labels are withheld, some pairs have no matches."""
    split = open_train(root, **settings)
    return split.fetch_train(data.BatchPlan(0, 0, np.array([0, 1, 3, 7, 9, 14])))


def share(batch: Batch, start: int, stop: int) -> Batch:
    """Pairs start..stop, as a rank loads them."""
    rows = torch.tensor([*range(start, stop), *range(PAIRS + start, PAIRS + stop)])
    points = (batch.matches.pair >= start) & (batch.matches.pair < stop)
    matches = Matches(
        batch.matches.pair[points] - start, batch.matches.rowcol[points], batch.matches.counts[start:stop]
    )
    parts = {name: getattr(batch, name)[rows] for name in ("images", "labels", "first", "indices")}
    return replace(batch, matches=matches, **parts)


def stepped(here: Runtime, batch: Batch, aim: Objective, *, sync_batchnorm: bool) -> dict[str, Tensor]:
    """Numbers, gradients and buffers of one step of SGD at rate 0: what the optimizer would have seen."""
    model = build(here, sync_batchnorm=sync_batchnorm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    result = engine.train_step(
        model, optimizer, batch, aim, runtime=here, batch_size=PAIRS, draw_seed=(5, 1, 2)
    )
    found = {name: torch.tensor(value) for name, value in vars_of(result).items()}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def vars_of(result: engine.StepResult) -> dict[str, float]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def validated(here: Runtime, root: Path, statistics: int) -> dict[str, Tensor]:
    """Numbers of a validation that began with these running statistics."""
    split = open_split(name="val", file=root / "val.txt", root=root, concepts=CONCEPTS, size=32)
    model = build(Runtime(here.device))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.linspace(-0.5, 0.5, len(buffer)) * (1 - 2 * statistics))
    found = validation.validate(model, split, Objective(), here, batch_size=4, workers=0)
    numbers = found.scores.metrics(CONCEPTS)
    values = {name: torch.tensor(numbers[name]) for name in ("mAP", "acc", "easy_acc")}
    return {**values, "loss": torch.tensor(found.loss)}


def main(out: Path, root: Path) -> None:
    with runtime.start(device="cpu", threads=1) as here:
        own = share(whole_batch(root), *SHARES[here.rank])
        found = {
            f"synchronised, {name}": stepped(here, own, aim, sync_batchnorm=True)
            for name, aim in OBJECTIVES.items()
        }
        found["per replica"] = stepped(here, own, OBJECTIVES["all terms"], sync_batchnorm=False)
        found["validated"] = validated(here, root, statistics=here.rank)
        torch.save(found, out / f"rank{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
