"""Snapshots under the released names: model_enc_e024Xs-0.800.pth (weights), opt_enc_e024Xs-0.800.pth (optimizer).

The name says the epochs done and the score, 1 - the mean validation loss on unseen landmarks.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shared import files

MODEL, OPTIMIZER = "model_enc_", "opt_enc_"
_SUFFIX = re.compile(r"^e(\d+)Xs([\.\d+\-]+)$")


def suffix(epoch: int, score: float) -> str:
    """e024Xs-0.800 for 24 epochs done and the score -0.8."""
    return f"e{epoch:03d}Xs{score:4.3f}"


def parse(text: str) -> tuple[str, str] | None:
    """("024", "-0.800") of e024Xs-0.800; None for what is no such name."""
    found = _SUFFIX.match(text)
    return (found[1], found[2]) if found else None


def epoch_of(path: Path) -> int | None:
    """Epochs done according to the name of a model_enc_*.pth; None for another name."""
    name = path.name.removesuffix(".pth")
    found = parse(name.removeprefix(MODEL)) if name.startswith(MODEL) else None
    return int(found[0]) if found else None


def optimizer_of(path: Path) -> Path:
    """The opt_enc_*.pth that belongs to a model_enc_*.pth."""
    return path.with_name(OPTIMIZER + path.name.removeprefix(MODEL))


def write(
    folder: Path, epoch: int, score: float, *, model: Mapping[str, Any], optimizer: Mapping[str, Any]
) -> str:
    """Write both files (state dicts) into `folder`; returns their suffix. OSError when the disk is full."""
    name = suffix(epoch, score)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.items()}
    for start, state in ((MODEL, weights), (OPTIMIZER, dict(optimizer))):
        with files.atomic_write(folder / f"{start}{name}.pth") as file:
            torch.save(state, file)
    return name


def remove_old(folder: Path, keep: int) -> None:
    """Leave the `keep` snapshots with the most epochs (the released code keeps all)."""
    for start in (MODEL, OPTIMIZER):
        found = [path for path in folder.glob(f"{start}*.pth") if _epoch(path, start) is not None]
        found.sort(key=lambda path: (_epoch(path, start) or 0, path.stat().st_mtime_ns))
        for path in found[: max(0, len(found) - keep)]:
            path.unlink(missing_ok=True)


def _epoch(path: Path, start: str) -> int | None:
    found = parse(path.name.removesuffix(".pth").removeprefix(start))
    return int(found[0]) if found else None
