"""What the LMDBs of Recipe1M are made from: which recipes are kept, and whether all layers hold them."""

import hashlib
import json
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from projects.xmrs.lmdb_store import MAX_IMAGES
from projects.xmrs.recipe1m import PARTITIONS, layer_path, read_classes, read_keys, stream_image_records
from projects.xmrs.token_files import TokenIndex
from projects.xmrs.tokens import LANGUAGES, Tokenizer
from shared.errors import InputError
from shared.files import atomic_write, read_json, write_json

IMAGES = "images.jsonl"
_END = 1 << 16  # bytes at both ends of a source that its fingerprint reads


@dataclass(frozen=True)
class Corpus:
    """The recipes that are kept, in the order of layer2.json (id -> position).

    image_ends: int64 [N], where the line of each ends in the file of the pictures; missing: keys layer2 lacks.
    """

    positions: dict[str, int]
    image_ends: np.ndarray
    missing: int


def fingerprint(root: Path, tokenizer: Tokenizer, allow_missing: bool) -> dict[str, Any]:
    """What the result depends on; a source is known by its size and its ends (all 10 GB would take minutes).

    InputError names the first source that is not there.
    """
    sources = [layer_path(root, language) for language in LANGUAGES]
    sources += [
        root / "layer2.json",
        root / "classes1M.pkl",
        *(root / f"{split}_keys.pkl" for split in PARTITIONS),
    ]
    known = {}
    for path in sources:
        try:
            known[path.name] = _ends(path)
        except OSError:
            direction = path.stem.removeprefix("layer1_")
            hint = f" (translate.py direction={direction} makes it)" if direction in LANGUAGES else ""
            raise InputError(f"{path}: no such file{hint}") from None
    return {"sources": known, "vocabulary": tokenizer.checksum, "allow_missing": allow_missing}


def _ends(path: Path) -> str:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, size - _END))
        digest.update(file.read())
    return f"{size} bytes, {digest.hexdigest()[:16]}"


def begin(output: Path, building: Path, settings: dict[str, Any]) -> None:
    """Make the folders, or find those of a killed run. InputError where another thing is there."""
    output.mkdir(parents=True, exist_ok=True)
    if (building / "settings.json").exists():
        found = read_json(building / "settings.json")
        compare(building / "settings.json", found, settings, f"remove {building} to begin anew")
        return
    there = next(
        (name for name in (f"{split}_lmdb" for split in PARTITIONS) if (output / name).exists()), None
    )
    if there:
        raise InputError(f"{output / there}: is there already, not made by this tool; choose another output")
    write_json(building / "settings.json", settings)


def compare(path: Path, found: Any, settings: dict[str, Any], advice: str) -> None:
    """InputError where what is there was made from something else."""
    for key, value in settings.items():
        if not isinstance(found, dict) or found.get(key) != value:
            raise InputError(f"{path}: was made with other {key.replace('_', ' ')}; {advice}")


def read_images(root: Path, building: Path, allow_missing: bool) -> Corpus:
    """Keep the wanted recipes of layer2, their pictures in `images.jsonl`, a line a recipe."""
    wanted = {key for split in PARTITIONS for key in read_keys(root / f"{split}_keys.pkl")}
    positions: dict[str, int] = {}
    ends = array("q")
    with atomic_write(building / IMAGES) as file:
        for name, images in stream_image_records(root / "layer2.json"):
            if name not in wanted:
                continue
            if name in positions:
                raise InputError(f"{root / 'layer2.json'}: recipe {name}: is there twice")
            if not images:
                raise InputError(
                    f"{root / 'layer2.json'}: recipe {name}: images: expected one at least, found none"
                )
            positions[name] = len(positions)
            kept = json.dumps(images[:MAX_IMAGES], ensure_ascii=True, separators=(",", ":"))
            file.write(kept.encode() + b"\n")
            ends.append(file.tell())
    missing = wanted - positions.keys()
    if missing and not allow_missing:
        raise InputError(_absent(root / "layer2.json", missing))
    if not positions:
        raise InputError(f"{root / 'layer2.json'}: holds none of the {len(wanted)} recipes of the key lists")
    return Corpus(positions, np.array(ends, np.int64), len(missing))


def read_class_of(path: Path, corpus: Corpus) -> np.ndarray:
    """int32 [N]: the class of the recipe at each position. InputError where one has none."""
    known = read_classes(path).of
    unlabelled = next((name for name in corpus.positions if name not in known), None)
    if unlabelled is not None:
        raise InputError(f"{path}: recipe {unlabelled}: expected a class (0 = background), found none")
    return np.fromiter((known[name] for name in corpus.positions), np.int32, len(corpus.positions))


def check_presence(root: Path, corpus: Corpus, indexes: list[TokenIndex], allow_missing: bool) -> int:
    """How many recipes layer1 lacks; a recipe it holds must be in every translation."""
    original = indexes[0].present
    for language, index in zip(LANGUAGES, indexes, strict=True):
        lacking = ~index.present if language == "en" else original & ~index.present
        if lacking.any() and not (language == "en" and allow_missing):
            names = {name for name, position in corpus.positions.items() if lacking[position]}
            raise InputError(_absent(layer_path(root, language), names))
    return int((~original).sum())


def _absent(path: Path, names: set[str]) -> str:
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    advice = "" if path.stem.startswith("layer1_") else "; allow_missing=true leaves them out"
    return f"{path}: recipe {min(names)}{others} of the key lists: expected, not found{advice}"
