"""What `eval.py` is made of: data, languages and subset sizes, embeddings of the splits, numbers, tables.

N: pairs of a split   D: joint space
"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.xmrs import embeddings, released, retrieval, trained
from projects.xmrs.data import SPLITS, DataSet, Split
from projects.xmrs.encoding import encode_images, encode_recipes
from projects.xmrs.tokens import LANGUAGES
from projects.xmrs.trained import Trained
from shared.errors import InputError
from shared.files import ensure_writable, write_json
from shared.runtime import Runtime, gather_objects

RELEASED_MEDR = 1000
_SHOWN = 100  # unreadable pictures that results.json names


@dataclass(frozen=True)
class Encoded:
    """Embeddings of a split with the recipes in one language."""

    split: str
    language: int
    ids: list[str]
    images: np.ndarray  # [N, D] float32
    recipes: np.ndarray  # [N, D] float32


@dataclass
class Report:
    """What an evaluation has found so far."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def add(self, encoded: Encoded, found: Mapping[int, Any], of_strata: Mapping[str, Any]) -> None:
        """Numbers of a split in a language: {size: `retrieval.rank_both`}, the first size being the main one."""
        first, language = next(iter(found)), LANGUAGES[encoded.language]
        others = {f"medr{size}": both for size, both in found.items() if size != first}
        numbers = {**found[first], **others, **of_strata}
        self.metrics.setdefault(encoded.split, {})[language] = numbers
        for size, both in found.items():
            self.rows[f"{encoded.split} {language} {size}"] = both


def languages_of(chosen: str | int | Sequence[str | int]) -> list[int]:
    """Rows of the recipes' texts by name or number, or "all". InputError for another name."""
    if chosen == "all":
        return list(range(len(LANGUAGES)))
    listed = [chosen] if isinstance(chosen, str | int) else list(chosen)
    rows = []
    for one in listed:
        row = LANGUAGES.index(one) if one in LANGUAGES else int(one) if str(one).isdecimal() else -1
        if not 0 <= row < len(LANGUAGES):
            raise InputError(f"languages: expected some of {', '.join(LANGUAGES)}, or all, found {one!r}")
        rows.append(row)
    if not rows:
        raise InputError(f"languages: expected some of {', '.join(LANGUAGES)}, or all, found none")
    return list(dict.fromkeys(rows))


def splits_of(chosen: str | Sequence[str]) -> list[str]:
    """Names of splits; InputError for another one."""
    listed = [chosen] if isinstance(chosen, str) else list(chosen)
    for one in listed:
        if one not in SPLITS:
            raise InputError(f"splits: expected some of {', '.join(SPLITS)}, found {one!r}")
    if not listed:
        raise InputError(f"splits: expected some of {', '.join(SPLITS)}, found none")
    return list(dict.fromkeys(listed))


def sizes_of(medr: int | Sequence[int] | None, settings: Mapping[str, Any] | None = None) -> list[int]:
    """Sizes of the subsets; None: those of the run's validation, 1,000 for the released code's."""
    if medr is None:
        medr = ((settings or {}).get("validation") or {}).get("medr", RELEASED_MEDR)
    listed: list[Any] = list(medr) if isinstance(medr, list | tuple) else [medr]
    for one in listed:
        if type(one) is not int or one < 1:
            raise InputError(f"medr: expected pairs of a subset (1000 or 10000), found {one!r}")
    if not listed:
        raise InputError("medr: expected pairs of a subset (1000 or 10000), found none")
    return list(dict.fromkeys(listed))


def find_model(path: str | Path) -> Path:
    """A run folder or checkpoint, which a pattern may name (RUN/models/model_BEST_REC_*), as in the release.

    InputError when nothing is there, or when several files match.
    """
    place = Path(path).expanduser()
    if place.exists():
        return place
    if not glob.has_magic(str(place)):
        raise InputError(
            f"model: {place}: no such run folder or checkpoint; `python train.py` makes runs/mini in minutes"
        )
    found = [Path(one) for one in sorted(glob.glob(str(place))) if "_image_encoder" not in one]
    if len(found) != 1:
        names = ", ".join(one.name for one in found[:3])
        raise InputError(f"model: {place}: expected one match, found {len(found)}{names and f': {names}'}")
    return found[0]


def data_set(
    model: Trained, chosen: dict[str, Any] | None, text_inputs: str | Sequence[str] | None = None
) -> DataSet:
    """The set to evaluate on: the chosen one, read as the model was trained to read; else the model's own.

    text_inputs: parts of the recipes; None = those of the training. InputError for a model without a set of
    its own (of the released code) when none is chosen.
    """
    own = {key: value for key, value in model.settings["data"].items() if key in _fields()}
    if chosen is None and not {"name", "image_root", "data_root"} <= own.keys():
        raise InputError(
            f"data: {model.path} does not say where the data are; add data=recipe1m (data.root=FOLDER)"
        )
    settings = own
    if chosen is not None:
        kept = {key: own[key] for key in ("side", "resize", "max_tokens", "text_inputs") if key in own}
        settings = {**chosen, **kept}
    found = DataSet(**settings)
    return found if text_inputs is None else replace(found, text_inputs=text_inputs)


@dataclass(frozen=True)
class Job:
    """What is ranked: embeddings as they come, from a model or from files."""

    encoded: Iterator[Encoded]
    sizes: list[int]
    model: Trained | None = None
    data: DataSet | None = None
    splits: Mapping[str, Split] = field(default_factory=dict)


def of_model(
    path: str | Path,
    chosen: dict[str, Any] | None,
    splits: Sequence[str],
    languages: Sequence[int],
    runtime: Runtime,
    *,
    medr: int | Sequence[int] | None,
    text_inputs: str | Sequence[str] | None,
    **loading: Any,
) -> Job:
    """A trained model on splits of the set `chosen` (None: its own); `loading`: batch_size and workers.

    InputError when a split has fewer pairs than a subset, before anything is encoded.
    """
    model = trained.load(find_model(path), device=runtime.device)
    data = data_set(model, chosen, text_inputs)
    data.prepare()
    sizes = sizes_of(medr, model.settings)
    opened = {name: data.open(name) for name in splits}
    for name, split in opened.items():
        if len(split) < max(sizes):
            raise InputError(
                f"medr: subsets of {max(sizes)} pairs asked for, but the split {name} has {len(split)}"
            )
    return Job(_encode(model, data, opened, languages, runtime, loading), sizes, model, data, opened)


def of_files(paths: str | Sequence[str], *, medr: int | Sequence[int] | None) -> Job:
    """Embedding files, ours or the released code's."""
    listed = [paths] if isinstance(paths, str) else list(paths)
    return Job(_read([Path(path).expanduser() for path in listed]), sizes_of(medr))


def _encode(
    model: Trained,
    data: DataSet,
    splits: Mapping[str, Split],
    languages: Sequence[int],
    runtime: Runtime,
    loading: Mapping[str, Any],
) -> Iterator[Encoded]:
    """Each split in each language; its images are encoded once."""
    for name, split in splits.items():
        images = encode_images(model.model, split, runtime, **loading, label=f"{name} images")
        for language in languages:
            texts = split if language == split.reading.language else data.open(name, language=language)
            label = f"{name} recipes {LANGUAGES[language]}"
            recipes = encode_recipes(model.model, texts, runtime, **loading, label=label)
            yield Encoded(name, language, split.ids, images, recipes)


def _read(paths: Sequence[Path]) -> Iterator[Encoded]:
    described = [embeddings.described(path) for path in paths]
    for path, (split, language) in zip(paths, described, strict=True):
        found = embeddings.load(path)
        assert found.recipes is not None, "load checks it"
        name = split if described.count((split, language)) == 1 else str(path)  # files of several models
        yield Encoded(name, language, found.ids, found.images, found.recipes)


def rankings(
    encoded: Encoded, sizes: Sequence[int], runtime: Runtime, *, seed: int, runs: int
) -> dict[int, dict[str, Any]]:
    """{size: `retrieval.rank_both`} for each size of subset, on the run's device."""
    images, recipes = (
        torch.from_numpy(rows).to(runtime.device) for rows in (encoded.images, encoded.recipes)
    )
    return {size: retrieval.rank_both(images, recipes, size=size, seed=seed, runs=runs) for size in sizes}


def strata_metrics(data: DataSet | None, encoded: Encoded) -> dict[str, Any]:
    """Numbers of the parts of the split, for a set that names some."""
    if data is None or data.strata is None or not Path(data.strata).is_file():
        return {}
    from projects.xmrs import strata

    found: dict[str, Any] = strata.metrics(
        Path(data.strata), encoded.ids, encoded.images, encoded.recipes, split=encoded.split
    )
    return found


def save_embeddings(model: Trained, encoded: Encoded, output: str | None) -> Path:
    """Write the embedding file of a split and language, under its released name, to the run or `output`."""
    name = embeddings.file_name(run_folder(model), model.path.name, encoded.split, encoded.language)
    path = _folder(model, output) / name
    embeddings.save(path, encoded.ids, encoded.images, encoded.recipes)
    return path


def save_image_encoder(model: Trained, output: str | None) -> Path:
    """Write the image encoder, which the GAN starts from, to `models/<checkpoint>_image_encoder.pth.tar`."""
    stem = embeddings.checkpoint_stem(model.path.name)
    path = _folder(model, output) / "models" / f"{stem}_image_encoder.pth.tar"
    released.write_image_encoder(path, model.model)
    return path


def write_results(
    path: Path, settings: Mapping[str, Any], job: Job, report: Report, unreadable: Sequence[str]
) -> None:
    """Write results.json, and name what was written."""
    if unreadable:
        print(
            f"warning: {len(unreadable)} pictures could not be read, white ones stood in: {unreadable[0]} ..."
        )
    content = {
        "name": settings["name"],
        "seed": settings["seed"],
        "model": None if job.model is None else {"name": job.model.name, "path": str(job.model.path)},
        "sizes": job.sizes,
        "metrics": report.metrics,
        "warnings": {"unreadable picture": len(unreadable)} if unreadable else {},
        "unreadable": unreadable[:_SHOWN],
        "files": [str(file) for file in report.files],
        "config": settings,
    }
    write_json(path, content)
    for file in (*report.files, path):
        print(f"written: {file}")


def _folder(model: Trained, output: str | None) -> Path:
    return ensure_writable(run_folder(model) if output is None else Path(output).expanduser())


def run_folder(model: Trained) -> Path:
    """The run folder that a checkpoint belongs to; the released code keeps them in `models` below it."""
    folder = model.path.absolute().parent
    return folder.parent if folder.name == "models" else folder


def all_unreadable(splits: Mapping[str, Split]) -> list[str]:
    """A line for each picture that could not be read by any process; on every rank."""
    own = [line for split in splits.values() for line in split.newly_unreadable()]
    return sorted({line for lines in gather_objects(own) for line in lines})


def _fields() -> set[str]:
    return set(DataSet.__dataclass_fields__)
