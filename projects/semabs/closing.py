"""What happens between the epochs of a run: validation, its numbers, snapshots under the released names."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from projects.semabs import snapshots
from projects.semabs.checks import cutoffs
from projects.semabs.data import Split
from projects.semabs.engine import SCORES
from projects.semabs.evaluation import evaluate_split
from projects.semabs.run_state import Progress
from projects.semabs.stats import Stats
from shared.log import Run
from shared.runtime import Runtime

STATS = "detailed_stats"  # the rows of the last validation, .npz and .csv


class EndOfEpoch:
    """Validates every `validation.every`-th epoch and at the end, and writes the snapshots of that moment.

    Args:
        task: ovssc or vool.
        run, runtime, network, optimizer: of this run.
        split: to validate on; None = no validation.
        settings: of the run.
        epochs: how many there are in all.
    """

    def __init__(
        self,
        task: str,
        run: Run,
        runtime: Runtime,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        split: Split | None,
        settings: Mapping[str, Any],
        *,
        epochs: int,
    ) -> None:
        self.task, self.run, self.runtime = task, run, runtime
        self.network, self.optimizer = network, optimizer
        self.split, self.settings, self.epochs = split, settings, epochs
        self.cutoffs = cutoffs(settings["validation"]["cutoffs"])

    def finish(self, at: Progress) -> None:
        """To be called on all ranks when an epoch's steps are done: closes the epoch in `at`."""
        means = at.end_epoch()
        self.run.scalars(at.step, {"epoch": at.epoch, **{f"train/{name}": x for name, x in means.items()}})
        every = self.settings["validation"]["every"]
        if self.split is not None and every and (at.epoch % every == 0 or at.epoch == self.epochs):
            self._validate(self.split, at)
        self._write_snapshots(at)

    def _validate(self, split: Split, at: Progress) -> None:
        stats = evaluate_split(
            self.network, split, task=self.task, cutoffs=self.cutoffs, runtime=self.runtime, epoch=at.epoch,
            workers=self.settings["workers"],
        )  # fmt: skip
        self.network.train()
        at.found = {"epoch": at.epoch, **summary(stats)}
        defined = {f"val/{name}": value for name, value in at.found.items() if value is not None}
        self.run.scalars(at.step, defined)
        score = at.found[SCORES[-1]]
        shown = "undefined" if score is None else f"{100 * score:.1f} % at cutoff {at.found['cutoff']:.2f}"
        self.run.info(f"{at.epoch} epochs done: validation IoU {shown}")
        if self.runtime.is_main:
            for suffix in (".npz", ".csv"):
                stats.write((self.run.dir / STATS).with_suffix(suffix))

    def _write_snapshots(self, at: Progress) -> None:
        every, keep = self.settings["snapshots"]["every"], self.settings["snapshots"]["keep"]
        if keep == 0 or not self.runtime.is_main:
            return
        folder = self.run.dir
        states = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        snapshots.write_arguments(self.task, self.settings, folder)
        snapshots.write(folder / snapshots.LATEST, **states, epochs=at.epoch)
        if at.epoch % every == 0 or at.epoch == self.epochs:
            snapshots.write(snapshots.path_of(folder, at.epoch), **states, epochs=at.epoch)
            if keep is not None:
                snapshots.remove_old(folder, keep)


def summary(stats: Stats) -> dict[str, float | None]:
    """Means of a validation: over all rows (`<metric>_mean`, as released), and at the cutoff with the best IoU.

    None where a mean is undefined.
    """
    score = SCORES[-1]
    rows = {cutoff: stats.where(stats["cutoff"] == cutoff) for cutoff in np.unique(stats["cutoff"]).tolist()}
    best = max(rows, key=lambda cutoff: (np.nan_to_num(rows[cutoff].mean(score), nan=-1.0), -abs(cutoff)))
    found = {"cutoff": best, **{name: rows[best].mean(name) for name in SCORES}, **stats.means(SCORES)}
    return {name: None if math.isnan(value) else value for name, value in found.items()}
