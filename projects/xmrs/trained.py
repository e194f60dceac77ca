"""One way in for every trained model: a run folder or checkpoint of ours, or one of the released code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.xmrs import released, released_options
from projects.xmrs.model import FoodSpaceNet
from shared import checkpoint
from shared.errors import InputError

TOKENIZER = "bert-base-multilingual-cased"


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode and what its inputs need.

    Attributes:
        settings: the run's config; for released runs {"model", "data"} in the same words.
        tokenizer: keyword arguments of `tokens.build_tokenizer`.
        name: what it is called in tables and pages.
        path: the checkpoint that was read.
        progress: epoch and the like, as the file says.
        options: flags of the released train.py, empty for our runs.
    """

    model: FoodSpaceNet
    settings: dict[str, Any]
    tokenizer: dict[str, Any]
    name: str
    path: Path
    progress: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def load(path: str | Path, *, device: torch.device | str = "cpu") -> Trained:
    """Load a trained model.

    Args:
        path: our run folder (its best.pt, else last.pt) or one of our .pt files; a run folder of the released
            code (opts.txt and models/) or one of its .pth.tar files, whose flags are read from the opts.txt
            one or two folders up.
        device: where the model is put.

    Raises:
        InputError: no such checkpoint, or one that is damaged, does not fit together or asks for code.
    """
    path = Path(path).expanduser()
    file = find_checkpoint(path)
    content = released.read_file(file)
    if released.is_released(content):
        return _released(released.from_content(content, file), device)
    content = _of_ours(content, file)
    settings = dict(content["config"])
    text = dict(settings["model"].get("text") or {})
    model = released.to_model(
        dict(content["modules"]["model"]),
        source=file,
        heads=int(text.get("heads", 2)),
        dropout=float(text.get("dropout", 0.1)),
    )
    data = dict(settings.get("data") or {})
    tokenizer = _tokenizer(data.get("vocab"))
    name = str(settings.get("name", path.name))
    return Trained(model.to(device), settings, tokenizer, name, file, dict(content["progress"]))


def weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of FoodSpaceNet in any of the files that `load` takes; same errors."""
    file = find_checkpoint(Path(path).expanduser())
    content = released.read_file(file)
    if released.is_released(content):
        return released.from_content(content, file).state
    return released.canonical(_of_ours(content, file)["modules"]["model"], file)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint file that a path means; InputError when a folder holds none."""
    if not path.is_dir():
        return path
    for name in (checkpoint.BEST, checkpoint.LAST):
        if (path / name).is_file():
            return path / name
    if released_options.is_run_folder(path):
        return released_options.best_checkpoint(path)
    raise InputError(f"{path}: no checkpoint in this folder (best.pt, last.pt, or opts.txt and models/)")


def _of_ours(content: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or content.get("format") != checkpoint.FORMAT:
        raise InputError(f"{file}: expected a checkpoint of this program or of the released train.py")
    if "model" not in content["modules"] or "model" not in content["config"]:
        found = sorted(content["modules"])
        raise InputError(f"{file}: not a checkpoint of a retrieval model: it holds {found}")
    return content


def _released(theirs: released.ReleasedCheckpoint, device: torch.device | str) -> Trained:
    folder = _run_folder(theirs.path)
    options = released_options.read(folder) if folder is not None else dict(released_options.FLAGS)
    model = released.to_model(theirs.state, source=theirs.path, heads=options["BERT_heads"])
    settings = {
        "model": {"embed_dim": model.embed_dim, "head_dim": model.head_dim, "text": model.text_settings},
        "data": released_options.data_settings(options),
    }
    name = theirs.path.name.removesuffix(".tar").removesuffix(".pth") if folder is None else folder.name
    return Trained(model.to(device), settings, _tokenizer(), name, theirs.path, theirs.progress, options)


def _tokenizer(vocab: str | None = None) -> dict[str, Any]:
    return {"vocab": Path(vocab) if vocab else None, "name": TOKENIZER}


def _run_folder(file: Path) -> Path | None:
    folders = (file.absolute().parent, file.absolute().parent.parent)
    return next((folder for folder in folders if (folder / released_options.OPTIONS_FILE).is_file()), None)
