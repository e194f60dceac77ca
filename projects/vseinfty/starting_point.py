"""Where a new run starts: from nothing, from one of our checkpoints, or from one of the authors'."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from projects.vseinfty import released
from projects.vseinfty.engine import Progress
from projects.vseinfty.model import VSEModel
from shared import checkpoint
from shared.errors import InputError
from shared.untrusted import load_checkpoint


def start_from(
    path: str | Path | None,
    model: VSEModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    weights_only: bool = False,
) -> Progress:
    """Load a checkpoint into a fresh run and say where to go on; nothing to do for `path` None.

    The released `--resume`. Our checkpoints bring the optimizer too; the authors' hold none (quirk 12), so its
    moments start at zero. `weights_only` (released `--reset_start_epoch`): the weights, from epoch 0.

    Args:
        path: a run folder (its last.pt), one of our .pt files, or the authors' .pth.
        model, optimizer, scaler: what is loaded into.
        weights_only: see above.

    Raises:
        InputError: no such file, or one that does not fit the model, naming the keys.
    """
    if path is None:
        return Progress()
    file = _checkpoint_file(Path(path).expanduser())
    content = load_checkpoint(file)
    if released.is_released(content):
        theirs = released.from_content(content, file)
        released.load(model, theirs)
        if weights_only:
            return Progress()
        return Progress(epoch=theirs.epoch, step=theirs.steps, best_rsum=theirs.best_rsum)
    ours = checkpoint.load(file)
    modules: Mapping[str, Any] = ours["modules"]
    checkpoint.load_strictly(model, modules.get("model", {}), source=str(file))
    if weights_only:
        return Progress()
    for name, target in (("optimizer", optimizer), ("scaler", scaler)):
        try:
            target.load_state_dict(modules[name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{file}: its {name} does not fit ({error}); reset_start_epoch=true takes the weights alone"
            ) from None
    return Progress(**ours["progress"])


def _checkpoint_file(path: Path) -> Path:
    file = path / "last.pt" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"resume_from: no checkpoint {file}")
    return file
