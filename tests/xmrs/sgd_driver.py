"""Runs train.py with SGD in the place of Adam: its steps are as close as the gradients are."""

import runpy
import sys
from typing import Any

import torch

from tests.xmrs.training_runs import TRAIN


class SGD(torch.optim.SGD):
    """SGD that takes Adam's arguments."""

    def __init__(self, parameters: Any, lr: float, **_: Any) -> None:
        super().__init__(parameters, lr=lr)


if __name__ == "__main__":
    torch.optim.Adam = SGD  # type: ignore[misc, assignment]
    sys.argv[0] = str(TRAIN)
    runpy.run_path(str(TRAIN), run_name="__main__")
