"""The splits of a run: what it trains and validates on, and what it reports of its best epoch at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projects.xmrs import retrieval
from projects.xmrs.checks import check_split_sizes
from projects.xmrs.data import DataSet, Split
from projects.xmrs.encoding import encode_images, encode_recipes
from projects.xmrs.model import FoodSpaceNet
from shared import checkpoint, collectives
from shared.runtime import Runtime


def open_splits(
    dataset: DataSet, final_splits: Sequence[str], *, seed: int, medr: int
) -> tuple[Split, Split, dict[str, Split]]:
    """The training and the validation split, and those reported at the end; made on first use where embedded.

    All are opened before a run starts, so that a wrong name ends it at once.

    Args:
        dataset: the set.
        final_splits: e.g. ["test"].
        seed: of all draws of training.
        medr: pairs of the subsets that validation draws.

    Raises:
        InputError: the set or a file of it is missing or does not fit, or a split has fewer pairs than `medr`.
    """
    dataset.prepare()
    train = dataset.open(dataset.train_split, seed=seed)
    val = dataset.open(dataset.val_split)
    reported = {name: dataset.open(name) for name in final_splits}
    check_split_sizes(
        {dataset.val_split: len(val)} | {name: len(split) for name, split in reported.items()}, medr
    )
    return train, val, reported


def evaluate_best(
    run_dir: Path,
    model: FoodSpaceNet,
    splits: Mapping[str, Split],
    runtime: Runtime,
    *,
    medr: int,
    strata: str | None = None,
    **loading: Any,
) -> dict[str, dict[str, Any]]:
    """Retrieval both ways by the weights of `run_dir`/best.pt, which are loaded into `model`; {} without splits.

    Args:
        run_dir, model, splits, runtime: what and where.
        medr: pairs of a subset.
        strata: see `DataSet`.
        loading: batch_size and workers.

    Returns:
        {split: {"image_to_recipe": {...}, "recipe_to_image": {...}, and of strata where the set has them}}.
    """
    if not splits:
        return {}
    best = run_dir / checkpoint.BEST
    checkpoint.load_strictly(model, checkpoint.load(best)["modules"]["model"], source=str(best))
    found: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        images = encode_images(model, split, runtime, **loading)
        recipes = encode_recipes(model, split, runtime, **loading)
        if runtime.is_main:
            found[name] = retrieval.rank_both(images, recipes, size=medr)
            if strata is not None and Path(strata).is_file():
                from projects.xmrs import strata as of_strata

                found[name] |= of_strata.metrics(
                    Path(strata), split.ids, images, recipes, split=name, size=medr
                )
    return collectives.gather_objects(found)[0]
