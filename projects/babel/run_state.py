"""Where a run stands, and the checkpoint that says so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.runtime import Runtime


@dataclass
class Progress:
    """All that a checkpoint needs besides weights, optimizer and random state.

    Attributes:
        epoch, step_in_epoch, step: epochs done, steps done in this one, optimizer steps in all.
        found: the metrics of the last validation, by split; "epoch" = epochs done then.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    found: dict[str, Any] = field(default_factory=dict)

    def position(self, steps_per_epoch: int) -> int:
        """Steps of the run's schedule that lie behind."""
        return self.epoch * steps_per_epoch + self.step_in_epoch

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.step_in_epoch += 1

    def end_epoch(self) -> None:
        """An epoch is done."""
        self.epoch += 1
        self.step_in_epoch = 0


class Saved:
    """The checkpoint of a run folder, last.pt. There is no best one: `val` is the set that is reported."""

    def __init__(
        self, folder: Path, runtime: Runtime, parts: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> None:
        self.folder, self.runtime, self.parts, self.settings = folder, runtime, parts, settings

    def resume(self) -> Progress | None:
        """Restore all parts and say where the run stood; None in a fresh folder."""
        saved = checkpoint.resume(self.folder, runtime=self.runtime, modules=self.parts)
        return None if saved is None else Progress(**saved)

    def save(self, at: Progress) -> None:
        """Write a checkpoint; to be called on all ranks."""
        checkpoint.save(
            self.folder, runtime=self.runtime, modules=self.parts, progress=asdict(at), config=self.settings
        )
