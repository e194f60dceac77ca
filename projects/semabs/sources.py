"""What a run reads: the scenes of its splits (embedded ones are made on first use) and CLIP."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from projects.semabs import mini, mini_clip, relevancy_dataset
from projects.semabs.clip_weights import load_clip
from projects.semabs.data import Split, open_split
from projects.semabs.item_settings import ItemSettings
from projects.semabs.scene_file import SceneFile
from projects.semabs.splits import SPLIT_FILES
from projects.semabs.text_features import text_embeddings
from shared import collectives
from shared.errors import InputError
from shared.runtime import Runtime

VARIANTS = ("rooms", None)


def prepare(data: Mapping[str, Any], runtime: Runtime) -> None:
    """Make what is missing of embedded data: rooms, CLIP stand-in, relevancies. To be called on all ranks.

    Args:
        data: the `data` section; with `variant: null` nothing is made.
        runtime: where relevancies are computed.

    Raises:
        InputError: an unknown variant, or a folder with something else in it.
    """
    if data["variant"] not in VARIANTS:
        raise InputError(f"data.variant: expected rooms or null, found {data['variant']!r}")
    if data["variant"] is None:
        return
    root = Path(data["root"])
    with _locked(root) if runtime.is_main else nullcontext():
        _make(root, data, runtime)


def _make(root: Path, data: Mapping[str, Any], runtime: Runtime) -> None:
    if runtime.is_main:
        if not root.exists():
            print(f"making the embedded rooms, once: {root}", flush=True)
        mini.make(root, **data["mini"])
        mini_clip.ensure(root, **data["stand_in"])
    collectives.barrier()
    relevancy_dataset.generate(
        root,
        load_clip(data["clip"]),
        runtime=replace(runtime, precision="fp32"),  # the same maps whatever a run computes in
        prompts=data["prompts"],
        augmentations=data["augmentations"],
        gzip=None,  # read quicker
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock beside `root`: a second run on the same data waits until the first has made them."""
    try:
        import fcntl
    except ImportError:  # a system without it
        yield
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.parent / f".{root.name}.lock", "a", encoding="utf-8") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def open_splits(
    task: str, settings: Mapping[str, Any], items: ItemSettings, runtime: Runtime
) -> tuple[Split, Split | None]:
    """The training split, and the one to validate on (None: no validation). Embedded data are made on first use.

    Args:
        task: ovssc or vool.
        settings: of train_ovssc.py or train_vool.py.
        items: how a scene becomes an item.
        runtime: of the run; to be called on all ranks.

    Raises:
        InputError: a split or a scene that is missing or damaged, or one without scenes.
    """
    data = settings["data"]
    prepare(data, runtime)
    root = Path(data["root"])
    names = [data["train_split"], *([data["val_split"]] if settings["validation"]["every"] else [])]
    opened = {
        split: open_split(
            root=root,
            splits_file=root / SPLIT_FILES[task],
            split=split,
            task=task,
            items=items,
            network_inputs=network_inputs(settings["model"]),
            voxel_shape=settings["model"]["voxel_shape"],
            seed=settings["seed"],
            max_items=data["max_items"],
        )
        for split in names
    }
    for name, split in opened.items():
        if len(split) == 0:
            raise InputError(f"{root / SPLIT_FILES[task]}: {name}: expected scenes, found none")
    if task == "ovssc" and settings["model"]["approach"] == "semantic_aware":
        path = opened[names[0]].paths[0]
        with SceneFile(path) as scene:
            features = scene.text_features(config=items.saliency_config)
        _check_text_dim(settings["model"], features.shape[1], path)
    return opened[names[0]], opened[names[1]] if len(names) > 1 else None


def _check_text_dim(model: Mapping[str, Any], found: int, source: Path | str) -> None:
    if model["text_dim"] != found:
        raise InputError(
            f"model.text_dim: expected {found}, the length of the text features of {source}, found {model['text_dim']}"
        )


def network_inputs(model: Mapping[str, Any]) -> list[str]:
    """What points carry, from the `model` section: semantic_aware always sees colours, as released."""
    return ["rgb"] if model["approach"] == "semantic_aware" else list(model["network_inputs"])


def text_encoder(settings: Mapping[str, Any], runtime: Runtime) -> Callable[[Sequence[str]], Tensor] | None:
    """Names -> CLIP's text features as they are [n, D], for the approach that is told names; None for the others.

    Raises:
        InputError: no CLIP in `data.clip`.
    """
    if settings["model"]["approach"] != "semantic_aware":
        return None
    source = settings["data"]["clip"]
    if source is None:
        raise InputError("data.clip: semantic_aware needs a CLIP that encodes names, found null")
    clip = load_clip(source)
    _check_text_dim(settings["model"], clip.model.text_projection.shape[1], source)
    clip.model.to(runtime.device).eval()
    return partial(text_embeddings, clip)
