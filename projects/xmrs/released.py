"""Checkpoints of the released code <-> our model; nothing in them is executed.

A checkpoint is a dict {epoch, state_dict, optimizer, ...} whose keys carry DataParallel's `module.` and whose
optimizer is a whole pickled object, which is left unread. An image encoder file is a bare state dict.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from projects.xmrs import released_options, sizes
from projects.xmrs.image_encoder import FoodSpaceImageEncoder
from projects.xmrs.model import FoodSpaceNet, image_encoder_of
from shared.errors import InputError

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)
COUNTERS = ("*.num_batches_tracked",)
PREFIX = "module."
POSITION_IDS = "textMLP.mBERT.embeddings.position_ids"  # a buffer that transformers 4 saved
PROGRESS = (
    "epoch",
    "since_improvement",
    "freeVision",
    "freeHeads",
    "freeWordEmb",
    "curr_val",
    "curr_recall",
    "iteration",
    "lr",
)


class _LeftOut:
    """Stands for the pickled optimizer."""

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stands for the optimizer's defaultdict of moments, which torch's own reader does not fill."""
    return {}


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A released file: tensors under our names, and the numbers beside them (PROGRESS, those that are there)."""

    path: Path
    state: State
    progress: dict[str, Any] = field(default_factory=dict)


def read_file(path: Path | str) -> Any:
    """The content of a released .pth.tar.

    Raises:
        InputError: no such file, damaged, or a pickle that asks for more than tensors and an optimizer.
    """
    from shared.untrusted import load_checkpoint

    allow: list[Any] = [(_LeftOut, "torch.optim.adam.Adam"), (_plain_dict, "collections.defaultdict")]
    allow += [(dict, "builtins.dict"), (dict, "__builtin__.dict")]  # what that defaultdict makes
    return load_checkpoint(Path(path), allow=allow)


def is_released(content: object) -> bool:
    """Whether the content of a file is a checkpoint of the released train.py."""
    return isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)


def read(path: Path | str) -> ReleasedCheckpoint:
    """Read a released checkpoint; InputError as `read_file`, or when it is something else."""
    return from_content(read_file(path), Path(path))


def from_content(content: Any, path: Path) -> ReleasedCheckpoint:
    """The same from content that has been read already."""
    if not is_released(content):
        found = sorted(map(str, content))[:6] if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            f"{path}: expected a checkpoint of the released train.py (state_dict), found {found}"
        )
    progress = {name: content[name] for name in PROGRESS if name in content}
    return ReleasedCheckpoint(path, canonical(content["state_dict"], path), progress)


def canonical(state: Mapping[str, Any], source: Path | str) -> State:
    """Keys without DataParallel's prefix, without the position ids; InputError unless all are tensors."""
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{source}: {key}: expected a tensor, found a {type(value).__name__}")
    plain = {key.removeprefix(PREFIX): value for key, value in state.items()}
    plain.pop(POSITION_IDS, None)
    return plain


def to_model(state: State, *, source: Path | str, heads: int = 2, dropout: float = 0.1) -> FoodSpaceNet:
    """The model whose tensors these are, in evaluation mode; sizes come from the tensors.

    Raises:
        InputError: tensors that are missing, left over or do not fit each other.
    """
    from shared.checkpoint import load_strictly

    settings = sizes.model_settings(state, heads=heads, dropout=dropout, source=str(source))
    model = _unfilled(FoodSpaceNet, settings)
    load_strictly(model, state, source=str(source), allow_missing=COUNTERS)
    return model.eval()


def _unfilled(kind: type[Network], settings: Mapping[str, Any]) -> Network:
    """A network whose weights are not drawn, as all of them are going to be loaded."""
    with torch.device("meta"):
        network = kind(**settings)
    network.to_empty(device="cpu")
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):  # files of old versions of torch have none
            buffer.zero_()
    return network


def released_state(model: FoodSpaceNet) -> State:
    """State dict under the released names, with the prefix and the position ids."""
    state: State = OrderedDict()
    for key, value in model.state_dict().items():
        if key.endswith("mBERT.embeddings.word_embeddings.weight"):
            positions = torch.arange(int(model.text_settings["max_tokens"]))[None]
            state[PREFIX + POSITION_IDS] = positions
        state[PREFIX + key] = value.detach().cpu().contiguous()
    return state


def write(
    path: Path | str,
    model: FoodSpaceNet,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    **progress: Any,
) -> None:
    """Write a checkpoint that the released test.py and GAN scripts load.

    Args:
        path: the file, written atomically.
        model: any model of ours.
        optimizer: stored as the whole object, which the released --resume expects; None: left out.
        progress: those of PROGRESS that are known; the others get a new run's values.

    Raises:
        TypeError: a name that is not in PROGRESS.
    """
    from shared.files import atomic_write

    if unknown := set(progress) - set(PROGRESS):
        raise TypeError(f"not part of a released checkpoint: {', '.join(sorted(unknown))}")
    start = {
        "epoch": 0,
        "since_improvement": 0,
        "freeVision": True,
        "freeHeads": True,
        "freeWordEmb": True,
        "curr_val": float("inf"),
        "curr_recall": {1: 0.0, 5: 0.0, 10: 0.0},
        "iteration": 0,
        "lr": 1e-4,
    }
    content = {**start, **progress, "state_dict": released_state(model), "optimizer": optimizer}
    with atomic_write(Path(path)) as file:
        torch.save(content, file)


def write_run(
    folder: Path | str,
    model: FoodSpaceNet,
    *,
    options: Mapping[str, Any] | None = None,
    epoch: int = 0,
    medr: float = 0.0,
    recalls: tuple[float, float, float] = (0.0, 0.0, 0.0),
    optimizer: torch.optim.Optimizer | None = None,
) -> Path:
    """Write a run folder (opts.txt, models/model_BEST_REC_*.pth.tar) for the released test.py and GAN scripts.

    Args:
        folder: made if need be.
        model: any model of ours.
        options: flags of the released train.py; the model tells its own.
        epoch: epochs done.
        medr, recalls: its validation, recalls at 1, 5, 10 as fractions.
        optimizer: see `write`.

    Returns:
        The checkpoint's path.

    Raises:
        ValueError: a flag that the released code does not have.
    """
    text = model.text_settings
    of_model = {
        "embDim": model.embed_dim,
        "textmodel": released_options.TEXT_MODELS[text["kind"]],
        "BERT_layers": text["layers"],
        "BERT_heads": text["heads"],
    }
    flags = {**(options or {}), **of_model}
    released_options.write(folder, flags)
    name = released_options.checkpoint_name("REC", epoch, medr, sum(recalls))
    progress = {"epoch": epoch, "curr_val": medr, "lr": flags.get("lr", released_options.FLAGS["lr"])}
    progress["curr_recall"] = dict(zip((1, 5, 10), recalls, strict=True))
    path = Path(folder) / "models" / name
    write(path, model, optimizer=optimizer, **progress)
    return path


def validation_of(progress: Mapping[str, Any]) -> dict[str, Any]:
    """Epoch, median rank and recalls of a checkpoint's progress (ours or theirs), for `write_run`."""
    if "curr_recall" in progress:
        recalls = tuple(float(progress["curr_recall"][k]) for k in (1, 5, 10))
        return {"epoch": int(progress["epoch"]), "medr": float(progress["curr_val"]), "recalls": recalls}
    epoch, best = int(progress.get("epoch", 0)), progress.get("best") or {}
    if best.get("epoch") != epoch:  # the validation that is known is of another epoch
        return {"epoch": epoch}
    return {"epoch": epoch, "medr": best["medr"], "recalls": (best["r1"], best["r5"], best["r10"])}


def write_image_encoder(path: Path | str, model: FoodSpaceNet | FoodSpaceImageEncoder) -> None:
    """Write `<checkpoint>_image_encoder.pth.tar`: the bare state dict of the image branch, no prefix."""
    from shared.files import atomic_write

    encoder = image_encoder_of(model) if isinstance(model, FoodSpaceNet) else model
    state = OrderedDict(
        (key, value.detach().cpu().contiguous()) for key, value in encoder.state_dict().items()
    )
    with atomic_write(Path(path)) as file:
        torch.save(state, file)


def read_image_encoder(path: Path | str, *, device: torch.device | str = "cpu") -> FoodSpaceImageEncoder:
    """An image encoder in evaluation mode, from its own file or from any checkpoint of a whole model.

    Raises:
        InputError: no such file, or one that holds no image branch.
    """
    from shared.checkpoint import load_strictly

    content = read_file(path)
    if is_released(content):
        content = content["state_dict"]
    elif isinstance(content, Mapping) and isinstance(content.get("modules"), Mapping):
        content = content["modules"].get("model")
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path}: expected the state dict of an image encoder, found {type(content).__name__}"
        )
    branches = ("visionMLP.", "visual_embedding.", "align_img.", "align.")
    state = {key: value for key, value in canonical(content, path).items() if key.startswith(branches)}
    encoder = _unfilled(FoodSpaceImageEncoder, sizes.image_encoder_settings(state, source=str(path)))
    load_strictly(encoder, state, source=str(path), allow_missing=COUNTERS)
    return encoder.eval().to(device)
