"""Where a run stands, which epochs are its best, and the checkpoints that say so."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared import checkpoint, files
from shared.runtime import Runtime

RECALLS = ("r1", "r5", "r10")
LOWEST_MEDR = "lowest_medr.pt"


@dataclass
class Progress:
    """Where a run stands: all that its checkpoint needs besides weights, optimizer and random state.

    Attributes:
        epoch, step_in_epoch, step: epochs done, steps done in this one, optimizer steps in all.
        best_recall: largest R@1 + R@5 + R@10 of a validation; `best` its metrics.
        best_medr: smallest median rank of a validation; `lowest_medr` its metrics.
        is_lowest_medr: the last validation was the one of `best_medr`.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_recall: float = -1.0
    best: dict[str, float] = field(default_factory=dict)
    best_medr: float | None = None
    lowest_medr: dict[str, float] = field(default_factory=dict)
    is_lowest_medr: bool = False

    def position(self, steps_per_epoch: int) -> int:
        """Steps of this run's schedule that lie behind."""
        return self.epoch * steps_per_epoch + self.step_in_epoch

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.step_in_epoch += 1
        self.is_lowest_medr = False

    def end_epoch(self, found: dict[str, float] | None) -> bool:
        """The epoch is over, with its validation or None; True when it has the largest sum of recalls so far.

        Of equal ones the first stays (both rules).
        """
        improved = False
        if found is not None:
            metrics = {**found, "epoch": self.epoch + 1}
            recall = sum(found[name] for name in RECALLS)
            improved = recall > self.best_recall
            if improved:
                self.best_recall, self.best = recall, metrics
            self.is_lowest_medr = self.best_medr is None or found["medr"] < self.best_medr
            if self.is_lowest_medr:
                self.best_medr, self.lowest_medr = found["medr"], metrics
        self.epoch += 1
        self.step_in_epoch = 0
        return improved


class Saved:
    """The checkpoints of a run folder: last.pt, best.pt by recall, lowest_medr.pt (names of one file where equal)."""

    def __init__(
        self, folder: Path, runtime: Runtime, parts: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        self.folder, self.runtime, self.parts, self.settings = folder, runtime, parts, settings

    def resume(self) -> Progress | None:
        """Restore all parts and say where the run stood; None in a fresh folder."""
        saved = checkpoint.resume(self.folder, runtime=self.runtime, modules=self.parts)
        if saved is None:
            return None
        at = Progress(**saved)
        self._name_lowest_medr(at)
        return at

    def save(self, at: Progress, *, best: bool = False) -> None:
        """Write a checkpoint; to be called on all ranks."""
        checkpoint.save(
            self.folder,
            runtime=self.runtime,
            modules=self.parts,
            progress=asdict(at),
            config=self.settings,
            best=best,
        )
        self._name_lowest_medr(at)

    def _name_lowest_medr(self, at: Progress) -> None:
        """A kill between the checkpoint and its second name is caught up with at the next start."""
        last, named = self.folder / checkpoint.LAST, self.folder / LOWEST_MEDR
        if not self.runtime.is_main or not at.is_lowest_medr:
            return
        if named.exists() and os.path.samefile(last, named):
            return
        with files.atomic_path(named) as temporary:
            try:
                os.link(last, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(last, temporary)
