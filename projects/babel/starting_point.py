"""Where a new run starts: from nothing, from weights, or from where another run stood (ours or a released one)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from projects.babel import released, snapshots
from projects.babel.run_state import Progress
from shared import checkpoint, untrusted
from shared.errors import InputError


@dataclass(frozen=True)
class StartingPoint:
    """What a run begins with.

    Attributes:
        source: the file; None = nothing.
        weights: state dict of the net.
        states: of the optimizer and the scaler, where the file has them.
        progress: epochs and steps done.
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
            raise InputError(f"optim.epochs: expected more than the {done}, found {epochs} epochs in all")
        targets: dict[str, Any] = {"optimizer": optimizer, "scaler": scaler}
        for name, state in self.states.items():
            try:
                if state:
                    load_state(targets[name], state)
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                raise InputError(
                    f"{self.source}: its {name} does not fit ({error}); init_from takes the weights alone"
                ) from None
        return self.progress


def starting_point(resume_from: str | None, init_from: str | None) -> StartingPoint:
    """Read the file that a new run starts from.

    Args:
        resume_from: go on: weights, epochs done, optimizer. A run folder or last.pt of ours, or a released
            model_enc_e024Xs-0.800.pth with its opt_enc_*.pth beside it (released `--resume e024Xs-0.800`).
        init_from: the weights alone, from epoch 0.

    Raises:
        InputError: no such file, or one that is no checkpoint.
    """
    if init_from is not None:
        point = _read(_file(Path(init_from).expanduser(), "init_from"), with_states=False)
        return StartingPoint(point.source, point.weights)
    if resume_from is not None:
        return _read(_file(Path(resume_from).expanduser(), "resume_from"), with_states=True)
    return StartingPoint()


def load_state(target: Any, state: Mapping[str, Any]) -> None:
    """Load a state; an optimizer keeps what its groups have and older versions of torch did not save."""
    groups = [dict(group) for group in getattr(target, "param_groups", ())]
    target.load_state_dict(state)
    for group, before in zip(getattr(target, "param_groups", ()), groups, strict=False):
        for name, value in before.items():
            group.setdefault(name, value)


def _read(path: Path, *, with_states: bool) -> StartingPoint:
    content = untrusted.load_checkpoint(path)
    if isinstance(content, Mapping) and content.get("format") == checkpoint.FORMAT:
        modules, done = content["modules"], content["progress"]
        states = {name: modules.get(name) for name in ("optimizer", "scaler")}
        progress = Progress(**{name: done[name] for name in ("epoch", "step_in_epoch", "step")})
        return StartingPoint(path, modules.get("model", {}), states, progress)
    weights = released.state_of(content, path)
    if not with_states:
        return StartingPoint(path, weights)
    epoch = snapshots.epoch_of(path)
    if epoch is None:
        raise InputError(
            f"resume_from: {path.name} does not say its epochs as model_enc_e024Xs-0.800.pth does; "
            "init_from takes the weights alone"
        )
    optimizer = snapshots.optimizer_of(path)
    if not optimizer.is_file():
        raise InputError(f"resume_from: no {optimizer}; init_from takes the weights alone")
    states = {"optimizer": untrusted.load_checkpoint(optimizer)}
    return StartingPoint(path, weights, states, Progress(epoch=epoch))


def _file(path: Path, key: str) -> Path:
    """The checkpoint of a run folder; a file as it is."""
    if path.is_file():
        return path
    if (path / checkpoint.LAST).is_file():
        return path / checkpoint.LAST
    raise InputError(f"{key}: no checkpoint {path} (a file, or a run folder with {checkpoint.LAST})")
