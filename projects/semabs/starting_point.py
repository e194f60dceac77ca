"""Where a new run starts: from nothing, from weights, or from where another run stood (ours or a released one)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from projects.semabs import released
from projects.semabs.run_state import Progress
from shared import checkpoint, untrusted
from shared.errors import InputError


@dataclass(frozen=True)
class StartingPoint:
    """What a run begins with.

    Attributes:
        source: the file; None = nothing.
        weights: state dict of the network.
        states: of the optimizer and the scaler, where the file has them.
        progress: epochs and steps done.
    """

    source: Path | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    states: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    def load_weights(self, network: nn.Module) -> None:
        """Load the weights; InputError names the keys that do not fit."""
        if self.source is not None:
            checkpoint.load_strictly(network, self.weights, source=str(self.source))

    def load_states(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        *,
        epochs: int,
        steps_per_epoch: int,
    ) -> Progress:
        """Load optimizer and scaler where there is something to load; returns the progress.

        Args:
            optimizer, scaler: of the new run.
            epochs: of the run in all.
            steps_per_epoch: how far the schedule is where the file counts epochs only (a released one).

        Raises:
            InputError: a state that does not fit, or `epochs` are done already.
        """
        if self.progress.epoch >= epochs:
            done = f"{self.progress.epoch} that {self.source} has done"
            raise InputError(f"optim.epochs: expected more than the {done}, found {epochs} epochs in all")
        targets: dict[str, Any] = {"optimizer": optimizer, "scaler": scaler}
        groups = [
            {name: x for name, x in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        for name, state in self.states.items():
            try:
                if state:
                    targets[name].load_state_dict(state)
                    _check_shapes(targets[name])
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise InputError(
                    f"{self.source}: its {name} does not fit ({error}); init_from takes the weights alone"
                ) from None
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group.update(own)  # rates and decay are this run's
        if self.progress.epoch and not self.progress.step:
            self.progress.step = self.progress.epoch * steps_per_epoch
        return self.progress


def starting_point(resume_from: str | None, init_from: str | None) -> StartingPoint:
    """Read the file that a new run starts from.

    Args:
        resume_from: go on: weights, optimizer, epochs done. A run folder or last.pt of ours, or a released .pth
            (released `--load`).
        init_from: the weights alone, from epoch 0.

    Raises:
        InputError: no such file, or one that is no checkpoint.
    """
    if init_from is not None:
        point = _read(_file(Path(init_from).expanduser(), "init_from"))
        return StartingPoint(point.source, point.weights)
    if resume_from is not None:
        return _read(_file(Path(resume_from).expanduser(), "resume_from"))
    return StartingPoint()


def _check_shapes(target: Any) -> None:
    """ValueError where an optimizer's moments are not of its parameters (it takes any itself)."""
    for parameter, state in getattr(target, "state", {}).items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                shapes = f"expected {list(parameter.shape)}, found {list(value.shape)}"
                raise ValueError(f"{name} of a parameter: {shapes}")


def _read(path: Path) -> StartingPoint:
    content = untrusted.load_checkpoint(path)
    if isinstance(content, Mapping) and content.get("format") == checkpoint.FORMAT:
        modules, done = content["modules"], content["progress"]
        states = {name: modules.get(name) for name in ("optimizer", "scaler")}
        return StartingPoint(path, modules["model"], states, Progress(**done))
    found = released.read(content, source=str(path))
    states = {"optimizer": found.optimizer}
    return StartingPoint(path, found.weights, states, Progress(epoch=found.epochs))


def _file(path: Path, key: str) -> Path:
    """The checkpoint of a run folder; a file as it is."""
    if path.is_file():
        return path
    if (path / checkpoint.LAST).is_file():
        return path / checkpoint.LAST
    raise InputError(f"{key}: no checkpoint {path} (a file, or a run folder with {checkpoint.LAST})")
