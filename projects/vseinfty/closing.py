"""What a finished run reports of its best epoch besides dev metrics: other splits, learned coefficients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.vseinfty import engine
from projects.vseinfty.captions import build_tokenizer
from projects.vseinfty.data import DataSet, Split
from projects.vseinfty.model import VSEModel
from shared import checkpoint
from shared.runtime import Runtime


def open_splits(
    dataset: DataSet, names: Sequence[str], model_settings: Mapping[str, Any]
) -> dict[str, Split]:
    """The splits that a run will report on, opened before it starts, so that a wrong name ends it at once.

    Args:
        dataset: the set, prepared.
        names: e.g. ["test"].
        model_settings: keyword arguments of `build_model`.

    Raises:
        InputError: a split is missing or does not fit.
    """
    if not names:
        return {}
    tokenizer = build_tokenizer(
        text_encoder=model_settings["text_encoder"],
        vocab_path=dataset.vocab_path,
        bert=model_settings["bert"],
    )
    opening = {"backbone": model_settings["backbone"], "image_dim": model_settings["image_dim"]}
    return {name: dataset.open(name, tokenizer=tokenizer, **opening) for name in names}


def evaluate_best(
    run_dir: Path, model: VSEModel, splits: Mapping[str, Split], runtime: Runtime, **loading: Any
) -> dict[str, dict[str, Any]]:
    """Retrieval metrics of each split and the pooling coefficients, by the weights of `run_dir`/best.pt.

    They are loaded into `model`; without splits nothing is done. loading: see `engine.validate`.

    Returns:
        {split: metrics, ..., "coefficients": {"image" | "text": {set size: theta}}}.
    """
    if not splits:
        return {}
    best = run_dir / checkpoint.BEST
    checkpoint.load_strictly(model, checkpoint.load(best)["modules"]["model"], source=str(best))
    found: dict[str, dict[str, Any]] = {
        name: engine.validate(model, split, runtime, **loading) for name, split in splits.items()
    }
    from projects.vseinfty import figure  # it brings the drawing library

    return {**found, "coefficients": figure.coefficients(model)}
