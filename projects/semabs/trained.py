"""One way in for every trained network: a run folder or checkpoint of ours, or a released .pth with its args.pkl."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from projects.semabs import released
from projects.semabs.model import build_network
from shared import checkpoint
from shared.errors import InputError


@dataclass(frozen=True)
class Trained:
    """A network and what belongs to it.

    Attributes:
        network: in evaluation mode, on the CPU.
        settings: of the run, as train_ovssc.py and train_vool.py have them; of a released checkpoint as far as its
            args.pkl tells (`model`, `items`).
        task: ovssc or vool.
        approach: semantic_abstraction, semantic_aware, clip_spatial.
        saliency_config: the relevancy maps that it was trained on.
        name: what it is called in tables and pages.
        path: the file that was read.
        progress: epoch and the like, as the file says.
    """

    network: nn.Module
    settings: dict[str, Any]
    task: str
    approach: str
    saliency_config: str
    name: str
    path: Path
    progress: dict[str, Any] = field(default_factory=dict)


def load(path: str | Path) -> Trained:
    """Load a trained network.

    Args:
        path: our run folder (its last.pt), one of our .pt files, or a .pth under the released names; beside the
            latter an args.pkl or, of our runs, config.yaml; or a folder with exactly one .pth.

    Raises:
        InputError: no such checkpoint, or one that is damaged, does not fit together or asks for code.
    """
    from shared.untrusted import load_checkpoint

    file = find_checkpoint(Path(path).expanduser())
    content = load_checkpoint(file)
    if isinstance(content, Mapping) and "format" in content:
        return _of_ours(content, file)
    found = released.read(content, source=str(file))
    run = _run_beside(file)
    task = released.task_of(found.weights)
    if not run:
        flags_file = file.parent / released.ARGUMENTS
        flags = released.read_arguments(flags_file) if flags_file.is_file() else {}
        model = released.model_settings(found.weights, flags, source=str(file))
        run = {"model": model, "items": released.item_settings(flags)}
    name = str(run.get("name") or f"{file.parent.name}/{file.stem}")
    return _built(run, found.weights, task=task, file=file, name=name, progress={"epoch": found.epochs})


def find_checkpoint(path: Path) -> Path:
    """The file that a path means; InputError when a folder holds none, or several."""
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint (a file, or the folder of a run)")
        return path
    if (path / checkpoint.LAST).is_file():
        return path / checkpoint.LAST
    found = sorted(path.glob("*.pth"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:4])
        raise InputError(f"{path}: {len(found)} checkpoints in this folder, name one of them: {names}")
    raise InputError(f"{path}: no checkpoint in this folder ({checkpoint.LAST} or a .pth)")


def _of_ours(content: Mapping[str, Any], file: Path) -> Trained:
    if content["format"] != checkpoint.FORMAT:
        raise InputError(f"{file}: a checkpoint of another program ({content['format']!r})")
    modules, run = content["modules"], dict(content["config"])
    if "model" not in modules or "model" not in run or "items" not in run:
        raise InputError(f"{file}: not a checkpoint of a network: it holds {sorted(modules)}")
    weights = released.read({"net": modules["model"]}, source=str(file)).weights
    task = str(run.get("task") or released.task_of(weights))
    name = str(run.get("name") or file.parent.name)
    return _built(run, weights, task=task, file=file, name=name, progress=dict(content["progress"]))


def _built(
    run: dict[str, Any],
    weights: Mapping[str, Any],
    *,
    task: str,
    file: Path,
    name: str,
    progress: dict[str, Any],
) -> Trained:
    model, items = dict(run["model"]), dict(run["items"])
    try:
        network = build_network(task=task, bounds=items["scene_bounds"], **model)
    except TypeError as error:  # settings of another version
        raise InputError(f"{file}: its model settings are not of this program: {error}") from None
    checkpoint.load_strictly(network, weights, source=str(file))
    return Trained(
        network.eval(),
        {**run, "model": model, "items": items},
        task,
        str(model["approach"]),
        str(items["saliency_config"]),
        name,
        file,
        progress,
    )


def _run_beside(file: Path) -> dict[str, Any]:
    """The config of the run of ours that wrote a .pth, in its folder or the one above; empty if there is none."""
    import yaml

    for folder in (file.parent, file.parent.parent):
        path = folder / "config.yaml"
        if path.is_file():
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: not readable as yaml: {str(error).splitlines()[0]}") from None
            if isinstance(found, dict) and isinstance(found.get("model"), dict) and "items" in found:
                return found
    return {}
