"""Where a run stands, and the checkpoint that says so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared import checkpoint
from shared.runtime import Runtime


@dataclass
class Progress:
    """All that a checkpoint needs besides weights, optimizer, schedule and random state.

    Attributes:
        epoch, step_in_epoch, step: epochs done, steps done in this one, optimizer steps in all.
        sums: of this epoch's steps by name: [sum, count], without the values that are NaN.
        found: the metrics of the last validation; "epoch" = epochs done then.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def advance(self, values: Mapping[str, float]) -> None:
        """One step is done, with these numbers."""
        self.step += 1
        self.step_in_epoch += 1
        for name, value in values.items():
            if value == value:
                total = self.sums.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1

    def end_epoch(self) -> dict[str, float]:
        """An epoch is done (or as much of it as there is): the means of its numbers, as `<name>_mean`."""
        means = {f"{name}_mean": total / count for name, (total, count) in self.sums.items()}
        self.epoch += 1
        self.step_in_epoch = 0
        self.sums = {}
        return means


class Saved:
    """The checkpoint of a run folder, last.pt."""

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
