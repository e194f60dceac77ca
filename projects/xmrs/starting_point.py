"""Where a new run starts: from nothing, from weights, or from where another run stood (ours or a released one)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from projects.xmrs import released, released_options
from projects.xmrs.run_state import Progress
from shared import checkpoint
from shared.errors import InputError


@dataclass(frozen=True)
class StartingPoint:
    """What a run begins with.

    Attributes:
        source: the file; None = nothing.
        weights: state dict of the model.
        states: of the optimizer and the scaler, where the file has them.
        progress: epochs and steps done. The best validations are the new run's own.
    """

    source: Path | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    def load_weights(self, model: nn.Module) -> None:
        """Load the weights; InputError names the keys that do not fit."""
        if self.source is not None:
            counters = ("*.num_batches_tracked",)
            checkpoint.load_strictly(model, self.weights, source=str(self.source), allow_missing=counters)

    def load_states(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, epochs: int
    ) -> Progress:
        """Load optimizer and scaler where there is something to load; returns the progress.

        Raises:
            InputError: a state that does not fit, or `epochs` are done already.
        """
        if self.progress.epoch >= epochs:
            done = f"{self.progress.epoch} that {self.source} has done"
            raise InputError(f"optim.epochs: expected more than the {done}, found {epochs}")
        targets: dict[str, Any] = {"optimizer": optimizer, "scaler": scaler}
        for name, state in self.states.items():
            try:
                if state:
                    targets[name].load_state_dict(state)
            except (ValueError, KeyError, RuntimeError) as error:
                raise InputError(
                    f"{self.source}: its {name} does not fit ({error}); init_from takes the weights alone"
                ) from None
        return self.progress


def starting_point(resume_from: str | None, init_from: str | None) -> StartingPoint:
    """Read the file that a new run starts from (released `--resume` and `--model_init_path`).

    Args:
        resume_from: go on: weights, epoch, and of our runs the optimizer (the released one is a pickled object
            whose parameters are not the model's: its moments start at zero).
        init_from: the weights alone, from epoch 0.

    Raises:
        InputError: no such file, or one that is no checkpoint.
    """
    if init_from is not None:
        point = _read(_file(Path(init_from).expanduser(), "init_from", (checkpoint.BEST, checkpoint.LAST)))
        return StartingPoint(point.source, point.weights)
    if resume_from is not None:
        return _read(_file(Path(resume_from).expanduser(), "resume_from", (checkpoint.LAST,)))
    return StartingPoint()


def _read(path: Path) -> StartingPoint:
    content = released.read_file(path)
    if not released.is_released(content):
        ours = checkpoint.load(path)
        states = {name: ours["modules"].get(name) for name in ("optimizer", "scaler")}
        done = {name: ours["progress"][name] for name in ("epoch", "step_in_epoch", "step")}
        return StartingPoint(path, ours["modules"].get("model", {}), states, Progress(**done))
    theirs = released.from_content(content, path)
    found = theirs.progress
    progress = Progress(epoch=int(found.get("epoch", 0)), step=int(found.get("iteration", 0)))
    return StartingPoint(path, theirs.state, {}, progress)


def _file(path: Path, key: str, names: tuple[str, ...]) -> Path:
    """The checkpoint of a run folder of ours, or of the released code; a file as it is."""
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    if released_options.is_run_folder(path):
        return released_options.best_checkpoint(path)
    raise InputError(
        f"{key}: no checkpoint {path} (a file, or a run folder with {names[0]} or the released models/)"
    )
