"""What a finished run reports of its best epoch besides dev metrics: other splits, learned coefficients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.vseinfty import engine
from projects.vseinfty.captions import build_tokenizer
from projects.vseinfty.data import DataSet
from projects.vseinfty.model import VSEModel
from shared import checkpoint
from shared.runtime import Runtime


def evaluate_best(
    run_dir: Path,
    model: VSEModel,
    dataset: DataSet,
    splits: Sequence[str],
    *,
    model_settings: Mapping[str, Any],
    runtime: Runtime,
    **loading: Any,
) -> dict[str, dict[str, Any]]:
    """Retrieval metrics of each split and the pooling coefficients, by the best epoch's weights.

    The weights of `run_dir`/best.pt are loaded into `model`, unless `splits` is empty: then nothing is done.

    Args:
        splits: names of the set's splits, e.g. ["test"].
        model_settings: keyword arguments of `build_model`.
        loading: `batch_size` and `workers`, see `engine.validate`.

    Returns:
        {split: metrics, ..., "coefficients": {"image" | "text": {set size: theta}}}.

    Raises:
        InputError: a split is missing or does not fit.
    """
    if not splits:
        return {}
    best = checkpoint.load(run_dir / checkpoint.BEST)
    checkpoint.load_strictly(model, best["modules"]["model"], source=str(run_dir / checkpoint.BEST))
    tokenizer = build_tokenizer(
        text_encoder=model_settings["text_encoder"],
        vocab_path=dataset.vocab_path,
        bert=model_settings["bert"],
    )
    opening = {"backbone": model_settings["backbone"], "image_dim": model_settings["image_dim"]}
    found: dict[str, dict[str, Any]] = {
        name: engine.validate(model, dataset.open(name, tokenizer=tokenizer, **opening), runtime, **loading)
        for name in splits
    }
    from projects.vseinfty import figure  # it brings the drawing library

    return {**found, "coefficients": figure.coefficients(model)}
