"""One way in for every trained net: a run folder or checkpoint of ours, or a snapshot of the released code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from projects.babel import released, released_nets, snapshots
from projects.babel.concepts import CONCEPTS
from projects.babel.outputs import Net
from shared import checkpoint
from shared.errors import InputError


@dataclass(frozen=True)
class Trained:
    """A net in evaluation mode and what belongs to it.

    Attributes:
        settings: the run's config; for a released snapshot {"model": ...} as far as its tensors tell.
        concepts: names of the classes, background not counted.
        name: what it is called in tables and pages.
        path: the file that was read.
        progress: epoch and the like, as the file or its name says.
    """

    model: Net
    settings: dict[str, Any]
    concepts: tuple[str, ...]
    name: str
    path: Path
    progress: dict[str, Any] = field(default_factory=dict)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
    concepts: Sequence[str] | None = None,
) -> Trained:
    """Load a trained net.

    Args:
        path: our run folder (its last.pt), one of our .pt files, a snapshot model_enc_*.pth (ours or released),
            or a folder with exactly one such snapshot.
        device: where the net is put.
        settings: keyword arguments of `build_model` for a snapshot whose run's config is not in its folder or one
            above, where its tensors do not tell (output stride, dilations, PAMR).
        concepts: names, where neither the run says them nor there are the ten released ones.

    Raises:
        InputError: no such checkpoint, or one that is damaged, does not fit together or asks for code.
    """
    from shared.untrusted import load_checkpoint

    file = find_checkpoint(Path(path).expanduser())
    content = load_checkpoint(file)
    if isinstance(content, Mapping) and "format" in content:
        run, state, progress = _of_ours(content, file)
        name = str(run.get("name", file.parent.name))
    else:
        run, state = _run_beside(file), released.state_of(content, file)
        progress, name = _of_name(file), file.stem
    net = released_nets.to_model(
        state, source=file, settings={**dict(run.get("model") or {}), **(settings or {})}
    )
    run = {**run, "model": net.settings}
    return Trained(net.to(device), run, _concepts(run, concepts, net.concepts, file), name, file, progress)


def find_checkpoint(path: Path) -> Path:
    """The file that a path means; InputError when a folder holds none, or several snapshots."""
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint (a file, or the folder of a run)")
        return path
    if (path / checkpoint.LAST).is_file():
        return path / checkpoint.LAST
    found = sorted(path.glob(f"{snapshots.MODEL}*.pth"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:4])
        raise InputError(f"{path}: {len(found)} snapshots in this folder, name one of them: {names} ...")
    raise InputError(f"{path}: no checkpoint in this folder ({checkpoint.LAST} or {snapshots.MODEL}*.pth)")


def _of_ours(content: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], released.State, dict[str, Any]]:
    if content["format"] != checkpoint.FORMAT:
        raise InputError(f"{file}: a checkpoint of another program ({content['format']!r})")
    modules, config = content["modules"], content["config"]
    if "model" not in modules or "model" not in config:
        raise InputError(f"{file}: not a checkpoint of a net: it holds {sorted(modules)}")
    return dict(config), released.state_of(modules["model"], file), dict(content["progress"])


def _run_beside(file: Path) -> dict[str, Any]:
    """The config of the run that wrote a snapshot, in its folder or the one above; empty if there is none."""
    import yaml

    for folder in (file.parent, file.parent.parent):
        path = folder / "config.yaml"
        if path.is_file():
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: not readable as yaml: {str(error).splitlines()[0]}") from None
            if isinstance(found, dict) and isinstance(found.get("model"), dict):
                return found
    return {}


def _of_name(file: Path) -> dict[str, Any]:
    parts = snapshots.parse(file.stem.removeprefix(snapshots.MODEL))
    if parts is None:
        return {}
    return {"epoch": int(parts[0]), "score": float(parts[1])}


def _concepts(run: Mapping[str, Any], given: Sequence[str] | None, count: int, file: Path) -> tuple[str, ...]:
    names = tuple(given or (run.get("data") or {}).get("concepts") or ())
    if not names and count == len(CONCEPTS):
        names = CONCEPTS
    if len(names) != count:
        found = ", ".join(names) if names else "none"
        raise InputError(f"{file}: has scores of {count} concepts, expected as many names, found {found}")
    return tuple(names)
