"""Embedding files of the released names and keys: what `eval.py` writes and the GAN reads.

`<run>/foodSpace_vectors_<timestamp>_<checkpoint>_<partition>_<language>.npz` with `img_embeds` [N, D] and
`rec_embeds` [N, D] float32 and `rec_ids` [N] text; <timestamp> is the run folder's name up to its first "_",
<language> the row of the recipes' text (0 English, ...). `img_embed.npz` of synthesised pictures has no
`rec_embeds`. Nothing in these files is unpickled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs.tokens import LANGUAGES
from shared import files
from shared.errors import InputError

PREFIX = "foodSpace_vectors"
PARTITIONS = ("train", "val", "test")
_CHECKPOINT_ENDINGS = (".pth.tar", ".pt")


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a partition: row i of both belongs to recipe `ids[i]`."""

    images: np.ndarray  # [N, D] float32
    recipes: np.ndarray | None  # [N, D] float32
    ids: list[str]


def file_name(run: Path, checkpoint: str, partition: str, language: int) -> str:
    """The released name: of a partition, encoded by a checkpoint of a run folder, with a row of its texts."""
    return f"{PREFIX}_{run.name.split('_')[0]}_{checkpoint_stem(checkpoint)}_{partition}_{language}.npz"


def checkpoint_stem(name: str) -> str:
    """A checkpoint's file name without its ending."""
    for ending in _CHECKPOINT_ENDINGS:
        name = name.removesuffix(ending)
    return name


def save(path: Path, ids: Sequence[str], images: np.ndarray, recipes: np.ndarray | None = None) -> None:
    """Write embeddings [N, D] and the recipes' ids, atomically; without `recipes`: an `img_embed.npz`."""
    arrays: dict[str, Any] = {
        "img_embeds": np.asarray(images, np.float32),
        "rec_ids": np.asarray(list(ids), np.str_),
    }
    if recipes is not None:
        arrays["rec_embeds"] = np.asarray(recipes, np.float32)
    files.save_npz(path, **arrays)


def load(path: Path, *, dim: int | None = None, recipes: bool = True) -> Embedded:
    """Read an embedding file. dim: the D that is needed; recipes: whether `rec_embeds` must be there.

    InputError: missing, damaged or pickled; another D or count; a value that is not finite.
    """
    arrays = files.load_npz(path, ("img_embeds", "rec_ids", *(["rec_embeds"] if recipes else [])))
    ids = arrays["rec_ids"]
    if ids.ndim != 1 or ids.dtype.kind not in "US":
        raise InputError(f"{path}: rec_ids: expected a list of texts, found {ids.dtype} {list(ids.shape)}")
    names = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in ids]
    found = {
        key: _matrix(path, key, arrays[key], len(names), dim)
        for key in ("img_embeds", "rec_embeds")
        if key in arrays
    }
    shapes = {array.shape for array in found.values()}
    if len(shapes) > 1:
        raise InputError(f"{path}: img_embeds and rec_embeds have other shapes: {sorted(shapes)}")
    return Embedded(found["img_embeds"], found.get("rec_embeds"), names)


def described(path: Path) -> tuple[str, int]:
    """(partition, language) as the file's name says; ("file's name", 0) for another name."""
    parts = path.stem.split("_")
    if len(parts) < 2 or parts[-2] not in PARTITIONS:
        return path.stem, 0
    last = parts[-1]
    row = LANGUAGES.index(last) if last in LANGUAGES else int(last) if last.isdecimal() else 0
    return parts[-2], row if row < len(LANGUAGES) else 0


def find(run: Path, partition: str, language: int = 0) -> Path:
    """The newest embedding file of a partition in a run folder, by the released search pattern.

    InputError when there is none. The language may stand in the name as a number or as a name.
    """
    wanted = [str(language), LANGUAGES[language]]
    found = [
        path
        for path in run.glob("foodSpace*.npz")
        if any(path.stem.endswith(f"_{partition}_{name}") for name in wanted)
    ]
    if not found:
        raise InputError(
            f"{run}: no embeddings foodSpace*_{partition}_{language}.npz; "
            f"python eval.py model={run} splits=[{','.join(PARTITIONS)}] save_embeddings=true writes them"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def _matrix(path: Path, key: str, array: np.ndarray, rows: int, dim: int | None) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise InputError(f"{path}: {key}: expected floats [N, D], found {array.dtype} {list(array.shape)}")
    if len(array) != rows:
        raise InputError(f"{path}: {key}: expected {rows} rows, one per rec_ids, found {len(array)}")
    if dim is not None and array.shape[1] != dim:
        raise InputError(f"{path}: {key}: expected {dim} dimensions, found {array.shape[1]}")
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise InputError(f"{path}: {key}: holds NaN or infinity")
    return array.astype(np.float32, copy=False)
