"""A training step on one rank of a group; also imported by the tests for one process.

Run: two_ranks_training.py OUT_DIR DATA_DIR
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.semabs import engine
from projects.semabs.data import open_split
from projects.semabs.model import build_network
from shared import data, runtime
from shared.runtime import Runtime

BOUNDS = [[-1.0, -1.0, -0.1], [1.0, 1.0, 1.9]]
ITEMS = {"num_patches": 2, "num_descs": 2, "num_input_pts": 200, "num_output_pts": 100, "mean_of": "own"}
SCENES = np.array([0, 1, 3])
CASES: dict[str, dict[str, Any]] = {
    "points": {},
    "scenes": {"mean_over": "scenes"},
    "balanced points": {"balance_positive_negative": True},
    "balanced scenes": {"balance_positive_negative": True, "mean_over": "scenes"},
    "vool": {},
}


def stepped(here: Runtime, root: Path, case: str) -> dict[str, Tensor]:
    """Numbers and gradients of one step at rate 0: what the optimizer would have seen."""
    task = "vool" if case == "vool" else "ovssc"
    split = open_split(root=root, split="train", task=task, items=ITEMS)
    mine = slice(here.rank * 3 // here.world_size, (here.rank + 1) * 3 // here.world_size)
    batch = split.fetch_train(data.BatchPlan(0, 0, SCENES[mine]))
    names = batch[engine.NAMES[task]]
    if here.rank == here.world_size - 1:
        names[-1][1] = {"ovssc": "", "vool": "[pad]"}[task]  # shares of kept points differ between the ranks
    torch.manual_seed(0)
    network = build_network(
        task=task, voxel_shape=(8, 8, 8), bounds=BOUNDS, pts_feat_hidden=8, pointing_dim=8,
        unet={"f_maps": 4, "channels": 8, "groups": 4, "levels": 2},
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    result = engine.train_step(task, network, optimizer, batch, runtime=here, clip=None, **CASES[case])
    numbers = engine.numbers(result, batch, bounds=BOUNDS, clip=None)
    found = {name: torch.tensor(value) for name, value in numbers.items()}
    found["gradient_norm"] = torch.tensor(result.gradient_norm)
    return found | {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def main(out: Path, root: Path) -> None:
    with runtime.start(device="cpu", threads=1) as here:
        torch.save({case: stepped(here, root, case) for case in CASES}, out / f"rank{here.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
