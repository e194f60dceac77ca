"""What `eval.py` is made of: which models, their embeddings of a split, and the protocols on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from projects.vseinfty import correlation, cxc, encoding, metrics
from projects.vseinfty.data import DataSet, Split
from projects.vseinfty.image_encoders import GridEncoder
from projects.vseinfty.trained import Trained
from shared.errors import InputError
from shared.runtime import Runtime

PROTOCOLS = ("folds", "full", "cxc", "correlation")
RELEASED_FILE = "model_best.pth"
RELEASED_MODELS = (
    "butd_region_bert",
    "butd_grid_bert",
    "wsl_grid_bert",
    "butd_region_bigru",
    "butd_grid_bigru",
)
"""Folders `<data>_<model>` of the released weights that the authors' evaluation goes through."""


@dataclass(frozen=True)
class Target:
    """A model to be evaluated: its name in the table, and what `trained.load` takes."""

    name: str
    path: Path

    @property
    def is_released(self) -> bool:
        """Whether it is a file of the authors, or a folder that holds one."""
        folder_of_theirs = (self.path / RELEASED_FILE).is_file() and not any(self.path.glob("*.pt"))
        return self.path.suffix == ".pth" or folder_of_theirs

    @property
    def folder(self) -> Path:
        """Where its results file goes."""
        return self.path if self.path.is_dir() else self.path.parent


@dataclass(frozen=True)
class Protocols:
    """What is computed from the embeddings of a split; the files that it takes are read already."""

    names: tuple[str, ...]  # of PROTOCOLS
    folds: int
    annotations: cxc.Annotations | None = None
    ratings: Mapping[str, correlation.Ratings] | None = None
    samples: int = 1000
    seed: int = 0


def targets(
    run: str | None, checkpoint: str | None, released_root: str | None, *, default: Path, data: str | None
) -> list[Target]:
    """The models that the settings name: one, the released ones of the set `data`, or else the run `default`.

    Raises InputError when more than one setting is given, or when a model is not there.
    """
    given = [name for name in (run, checkpoint, released_root) if name is not None]
    if len(given) > 1:
        raise InputError(f"run, checkpoint, released_root: expected one of them, found {len(given)}")
    if released_root is not None:
        return _released(Path(released_root).expanduser(), data)
    if not given:
        if not default.exists():
            raise InputError(
                f"{default}: not trained yet. `python train.py` makes it in a minute; "
                f"run=FOLDER or checkpoint=FILE evaluates another model"
            )
        return [Target(default.name, default)]
    path = Path(given[0]).expanduser()
    if run is not None and not path.exists():
        path = next((p for p in (default.parent / run, default.parent.parent / run) if p.exists()), path)
    if not path.exists():
        raise InputError(f"{path}: no such run folder or checkpoint")
    return [Target((path if path.is_dir() else path.absolute().parent).name, path)]


def data_set(trained: Trained, settings: dict[str, Any] | None) -> DataSet:
    """The set to evaluate on: the one in the settings if any, prepared as the model demands; else its own.

    Raises InputError for a model without a set of its own (the authors') when the settings name none.
    """
    own = {key: value for key, value in trained.data_settings.items() if key in DataSet.__dataclass_fields__}
    if settings is None:
        if not {"name", "root"} <= own.keys():
            raise InputError(
                "data: the authors' checkpoints do not say where the data are; add data=coco or data=f30k"
            )
        return DataSet(**own)
    demanded = {key: own[key] for key in ("kind", "image_side") if key in own}
    return replace(DataSet(**settings), **demanded)


def open_split(trained: Trained, data: DataSet, split: str) -> Split:
    """Open a split of the set with the model's tokeniser, pixel normalisation and feature size."""
    encoder: Any = trained.model.img_enc
    if isinstance(trained.model.img_enc, GridEncoder):
        return data.open(split, tokenizer=trained.tokenizer, backbone=encoder.backbone.source)
    return data.open(split, tokenizer=trained.tokenizer, image_dim=encoder.fc.in_features)


def read_protocols(
    names: Sequence[str] | None,
    data: DataSet,
    split: Split,
    split_name: str,
    *,
    folds: int | None = None,
    cxc_folder: str | None = None,
    correlation_split: str = "test",
    correlation_samples: int = 1000,
    seed: int = 0,
) -> Protocols:
    """The protocols to follow on a split: `names`, or the set's own (COCO: its folds, then the whole).

    Raises InputError for what does not fit, so that nobody waits for the encoding first.
    """
    folds = folds or data.folds
    if names is None:
        names = ["folds", "full"] if folds > 1 else ["full"]
    if not names or not set(names) <= set(PROTOCOLS):
        unknown = ", ".join(name for name in names if name not in PROTOCOLS) or "none"
        raise InputError(f"protocols: expected some of {', '.join(PROTOCOLS)}, found {unknown}")
    if "folds" in names and not 1 <= folds <= split.num_images:
        raise InputError(f"folds: {split.num_images} images cannot be cut into {folds} folds")
    annotations = ratings = None
    if "cxc" in names or "correlation" in names:
        folder = Path(cxc_folder or Path(data.root) / "cxc_annots").expanduser()
        annotations = cxc.read(folder, split=split_name)
        annotations.check_counts(split.num_images, split.num_captions)
        if "correlation" in names:
            paths = {task: folder / f"{task}_{correlation_split}.csv" for task in correlation.TASKS}
            ratings = {task: correlation.read_ratings(path) for task, path in paths.items()}
    return Protocols(tuple(names), folds, annotations, ratings, correlation_samples, seed)


def embed(
    trained: Trained, split: Split, runtime: Runtime, *, batch_size: int, workers: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, E] and captions [5n, E], each encoded once: all protocols share them."""
    how: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
    return (
        encoding.encode_images(trained.model, split, runtime, **how, label="images"),
        encoding.encode_captions(trained.model, split, runtime, **how, label="captions"),
    )


def evaluate(images: np.ndarray, captions: np.ndarray, protocols: Protocols) -> dict[str, Any]:
    """Protocol -> its numbers: `full` and `folds` ({"mean", "folds"}) retrieval, `cxc`, `correlation`."""
    found: dict[str, Any] = {}
    if "folds" in protocols.names:
        found["folds"] = metrics.retrieval_folds(images, captions, folds=protocols.folds)
    if "full" in protocols.names:
        found["full"] = metrics.retrieval(images, captions)
    if protocols.annotations is not None and "cxc" in protocols.names:
        found["cxc"] = cxc.retrieval(images, captions, protocols.annotations)
    if protocols.annotations is not None and protocols.ratings is not None:
        found["correlation"] = correlation.correlations(
            protocols.ratings,
            images,
            captions,
            image_ids=protocols.annotations.image_ids,
            caption_ids=protocols.annotations.caption_ids,
            samples=protocols.samples,
            seed=protocols.seed,
        )
    return found


def summary(found: dict[str, Any]) -> str:
    """The tables of all protocols, for the terminal."""
    retrieval: dict[str, dict[str, float]] = {}
    if "folds" in found:
        count = len(found["folds"]["folds"])
        retrieval |= {f"fold {i + 1} of {count}": fold for i, fold in enumerate(found["folds"]["folds"])}
        retrieval["mean of the folds"] = found["folds"]["mean"]
    if "full" in found:
        retrieval["all images"] = found["full"]
    parts = [metrics.table(retrieval)] if retrieval else []
    if "cxc" in found:
        rows = [f"{'CxC':4}    R@1   R@5  R@10   queries"]
        for direction in ("i2t", "t2i", "t2t", "i2i"):
            of = found["cxc"][direction]
            recalls = " ".join(f"{of[key]:5.1f}" for key in ("r1", "r5", "r10"))
            rows.append(f"{direction:4}  {recalls}   {of['queries']:7d}")
        parts.append("\n".join(rows))
    if "correlation" in found:
        rows = ["CxC correlation (Spearman x 100, mean and standard deviation over the bootstrap samples)"]
        for task, of in found["correlation"].items():
            rows.append(f"{task.upper():4}  {of['mean']:5.1f} +- {of['std']:.1f}   {of['pairs']} pairs")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def text(report: Mapping[str, Any], split: Split) -> str:
    """What is printed for a model."""
    counts = f"{split.num_images} images, {split.num_captions} captions"
    head = f"{report['model']}: {report['data']} {report['split']}, {counts}"
    return f"{head}\n{summary(report['metrics'])}\n"


def _released(root: Path, data: str | None) -> list[Target]:
    """The released models of a set that are under `root`."""
    if data is None:
        raise InputError("released_root: which set? add data=coco or data=f30k")
    folders = [root / f"{data}_{model}" for model in RELEASED_MODELS]
    found = [
        Target(folder.name, folder / RELEASED_FILE)
        for folder in folders
        if (folder / RELEASED_FILE).is_file()
    ]
    if not found:
        names = ", ".join(f"{folder.name}/{RELEASED_FILE}" for folder in folders)
        raise InputError(f"{root}: none of the released models is there; expected {names}")
    return found
