"""Split files: pickles of {split: [file names]}, the names relative to the data folder."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from shared.errors import InputError
from shared.files import atomic_write
from shared.untrusted import load_pickle

SPLIT_FILES = {"ovssc": "ssc_split.pkl", "vool": "vool_split.pkl"}
TRAIN = "train"
NOVEL_ROOMS = "unseen_instances"
NOVEL_VISUAL = "unseen_instances_dr"  # reads domain_randomized_rgb
NOVEL_VOCABULARY = "unseen_instances_synonyms"  # classes under other names
NOVEL_CLASSES = "unseen_classes"


def read_splits(path: str | Path) -> dict[str, list[str]]:
    """The file names of each split, as they are; through the allow-list reader.

    InputError: not {text: [text]}, or a name that leads out of the data folder.
    """
    found = load_pickle(path)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{path}: expected a dict of splits, found {type(found).__name__}")
    splits = {}
    for split, names in found.items():
        if not isinstance(names, Sequence | set | frozenset) or isinstance(names, str | bytes):
            raise InputError(f"{path}: {split}: expected a list of file names, found {type(names).__name__}")
        ordered = sorted(names) if isinstance(names, set | frozenset) else list(names)
        splits[str(split)] = [_checked(name, path, split) for name in ordered]
    return splits


def write_splits(path: str | Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write a split file atomically (a pickle of plain dict, list and str, as released)."""
    plain = {str(split): [_checked(name, path, split) for name in names] for split, names in splits.items()}
    with atomic_write(path) as file:
        pickle.dump(plain, file, protocol=2)


def uses_randomized_images(split: str) -> bool:
    """Whether a split shows the views in other colours and textures."""
    return split.endswith("_dr")


def uses_synonyms(split: str) -> bool:
    """Whether a split calls classes by their synonyms."""
    return "synonyms" in split


def scene_paths(root: str | Path, task: str, split: str, splits_file: str | Path | None = None) -> list[Path]:
    """The scene files of a split of a task ("ovssc" or "vool"); InputError where split or files are missing.

    splits_file: the task's in `root` by default.
    """
    file = Path(root) / SPLIT_FILES[task] if splits_file is None else Path(splits_file)
    splits = read_splits(file)
    if split not in splits:
        raise InputError(f"{file}: no split {split!r}; it holds {', '.join(splits) or 'none'}")
    paths = [Path(root) / name for name in splits[split]]
    missing = [found for found in paths if not found.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: no such scene file ({len(missing)} of {split} in {file} are missing)"
        )
    return paths


def _checked(name: object, path: str | Path, split: object) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: {split}: expected file names, found {name!r}")
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise InputError(f"{path}: {split}: expected names below the data folder, found {name!r}")
    return name
