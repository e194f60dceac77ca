"""Saved results of a model on a split, and the ensemble of several: the mean of their similarities.

Ours: `results_<data>.npz` without pickle: `npts` and the embeddings `images` [n, E], `captions` [k*n, E]
(their product is the similarity matrix; 120 MB for COCO instead of 1 GB). Read as well: a plain `.npy` matrix
[n, k*n], an `.npz` with `npts` and `sims`, and the release's `results_*.npy`, a pickled `{"npts": n, "sims":
float64 [n, 5n]}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from projects.vseinfty import metrics
from shared import files, untrusted
from shared.errors import InputError


@dataclass(frozen=True)
class Results:
    """One file: either both embeddings or the similarities."""

    path: Path
    num_images: int
    images: np.ndarray | None = None  # [n, E]
    captions: np.ndarray | None = None  # [k*n, E]
    sims: np.ndarray | None = None  # [n, k*n]

    @property
    def num_captions(self) -> int:
        """Captions of the split."""
        matrix = self.sims.T if self.sims is not None else self.captions
        assert matrix is not None
        return len(matrix)

    @property
    def rounding(self) -> float:
        """By how much two answers of `block` for the same pair may differ: those of a product depend on its
        shape.
        """
        if self.sims is not None:
            return 0.0
        assert self.images is not None
        assert self.captions is not None
        norms = [np.sqrt(np.einsum("ne,ne->n", side, side).max()) for side in (self.images, self.captions)]
        return float(self.images.shape[1] * np.finfo(np.float64).eps * norms[0] * norms[1])

    def block(self, images: slice, captions: slice) -> np.ndarray:
        """Float64 similarities of a slice of images with a slice of captions."""
        if self.sims is not None:
            return np.asarray(self.sims[images, captions], np.float64)
        assert self.images is not None
        assert self.captions is not None
        return self.images[images].astype(np.float64) @ self.captions[captions].astype(np.float64).T


def save(path: Path, images: np.ndarray, captions: np.ndarray) -> None:
    """Write the embeddings [n, E] and [k*n, E] of a split."""
    files.save_npz(path, npts=np.array(len(images)), images=images, captions=captions)


def find(path: Path) -> Path:
    """`path`, or the file of the same name with the other ending (ours .npz, the release's .npy) where it is
    absent.
    """
    other = path.with_suffix({".npy": ".npz", ".npz": ".npy"}.get(path.suffix, path.suffix))
    return other if other.is_file() and not path.exists() else path


def load(path: Path, *, captions_per_image: int = metrics.CAPTIONS_PER_IMAGE) -> Results:
    """Read one results file, ours or the release's, without executing anything in it.

    Raises InputError when it is neither, when counts disagree or when a value is not finite.
    """
    arrays = _arrays(path)
    num_images = int(arrays["npts"]) if "npts" in arrays else None
    if "sims" in arrays:
        sims = _matrix(path, "sims", arrays["sims"])
        result = Results(path, len(sims), sims=sims)
    else:
        images, captions = (_matrix(path, name, arrays[name]) for name in ("images", "captions"))
        if images.shape[1] != captions.shape[1]:
            raise InputError(
                f"{path}: images have {images.shape[1]} dimensions, captions {captions.shape[1]}"
            )
        result = Results(path, len(images), images=images, captions=captions)
    expected = (num_images if num_images is not None else result.num_images) * captions_per_image
    if num_images not in (None, result.num_images) or result.num_captions != expected:
        raise InputError(
            f"{path}: npts = {num_images} and {captions_per_image} captions per image expected, "
            f"found {result.num_images} images and {result.num_captions} captions"
        )
    return result


def ensemble(members: Sequence[Results], *, folds: int | None = None) -> dict:
    """Metrics of the mean similarity of several models: one set, or `folds` (`{"mean", "folds"}`).

    Only blocks of rows are computed; where all files hold embeddings, the sum of the dot products is the dot
    product of the concatenated embeddings, which takes the fast path of `metrics.retrieval`. Raises
    InputError when the files disagree in the number of images.
    """
    sizes = {member.num_images for member in members}
    if len(sizes) != 1:
        counts = ", ".join(f"{member.path}: {member.num_images}" for member in members)
        raise InputError(f"an ensemble needs results of the same images, found npts {counts}")
    num_images = sizes.pop()
    if folds is not None and num_images < folds:
        raise InputError(f"{members[0].path}: {num_images} images cannot be cut into {folds} folds")
    if all(member.sims is None for member in members):
        images, captions = (
            np.concatenate([getattr(member, side) for member in members], axis=1)
            for side in ("images", "captions")
        )
        if folds is None:
            return metrics.retrieval(images, captions)
        return metrics.retrieval_folds(images, captions, folds=folds)

    def mean(images: slice, captions: slice) -> np.ndarray:
        sums = members[0].block(images, captions)
        for member in members[1:]:
            sums = sums + member.block(images, captions)
        return sums / len(members)

    rounding = sum(member.rounding for member in members) / len(members)
    if folds is None:
        return metrics.retrieval_from_similarities(mean, num_images, rounding=rounding)
    return metrics.retrieval_folds_from_similarities(mean, num_images, folds=folds, rounding=rounding)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """What a results file holds: `sims`, or `images` and `captions`, and usually `npts`."""
    if not path.is_file():
        raise InputError(f"{path}: no such results file; `python eval.py save_results=true` writes one")
    if path.suffix == ".npz":
        arrays = files.load_npz(path)
    elif _is_object_array(path):
        arrays = untrusted.load_object_npy(path)
    else:
        arrays = {"sims": files.open_npy(path, ndim=2)}
    if not isinstance(arrays, dict) or not ("sims" in arrays or {"images", "captions"} <= arrays.keys()):
        found = sorted(map(str, arrays)) if isinstance(arrays, dict) else type(arrays).__name__
        raise InputError(f"{path}: expected npts and sims, or npts, images and captions; found {found}")
    return arrays


def _is_object_array(path: Path) -> bool:
    """Whether an .npy file holds pickled objects; read from its header only."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            return bool(read(file)[2].hasobject)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not an .npy file: {error}") from None


def _matrix(path: Path, name: str, value: object) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or not np.issubdtype(value.dtype, np.floating):
        found = (
            f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        )
        raise InputError(f"{path}: {name} should be a matrix of floating-point numbers, found {found}")
    step = max(1, (16 << 20) // max(1, value.shape[1] * value.itemsize))
    for start in range(0, len(value), step):
        if not np.isfinite(value[start : start + step]).all():
            raise InputError(
                f"{path}: {name} holds a value that is not finite (rows {start} to {start + step})"
            )
    return value
