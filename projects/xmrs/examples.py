"""The page of an evaluation: some queries of its first subset, each with its best matches."""

from pathlib import Path

import numpy as np

from projects.xmrs import attention, inference, retrieval
from projects.xmrs.data import Split
from projects.xmrs.evaluation import Encoded, Job
from projects.xmrs.pages import Searched, write_page
from projects.xmrs.sources import SplitPictures, SplitRecipes
from projects.xmrs.tokens import LANGUAGES, build_tokenizer
from shared.errors import InputError
from shared.runtime import Runtime


def try_to_write(path: Path, job: Job, encoded: Encoded, runtime: Runtime, **shown: int) -> list[Path]:
    """`write`, or a warning instead of a page: numbers need no vocabulary. No page of embedding files."""
    if job.model is None:
        return []
    try:
        return [write(path, job, encoded, runtime, **shown)]
    except InputError as error:
        print(f"warning: no page of examples: {error}")
        return []


def write(
    path: Path, job: Job, encoded: Encoded, runtime: Runtime, *, count: int, top_k: int, seed: int
) -> Path:
    """Write the page: `count` queries of each direction among the pairs of the first subset, top `top_k`.

    InputError where the vocabulary, which turns the stored tokens into words again, is not at hand.
    """
    assert job.model is not None
    assert job.data is not None
    split: Split = job.data.open(encoded.split, language=encoded.language)
    vocabulary = {} if job.data.vocab is None else {"vocab": Path(job.data.vocab)}
    pieces = build_tokenizer(**{**job.model.tokenizer, **vocabulary}).pieces
    pictures, recipes = SplitPictures(split, pieces), SplitRecipes(split, pieces)
    subset = retrieval.ten_subsets(len(encoded.ids), job.sizes[0], seed=seed, runs=1)[0]
    chosen = np.unique(np.linspace(0, len(subset) - 1, 2 * count).astype(int))
    asked = [subset[chosen[half::2]].tolist() for half in (0, 1)]

    def best(queries: list[int], rows: np.ndarray, items: np.ndarray) -> list[inference.Answer]:
        found = inference.nearest(queries, rows[queries], items[subset], top_k, items=subset)
        return inference.mark_pairs(found)

    weighed = []
    if attention.has_attention(job.model.model):
        texts, _ = recipes.tokens(asked[0])
        weighed = attention.attention_of(job.model.model, texts, pieces, device=runtime.device)
    title = f"Top {top_k} of {len(subset)}: {encoded.split}, {LANGUAGES[encoded.language]}"
    found = Searched(
        title=title,
        model=job.model.name,
        pictures=pictures,
        recipes=recipes,
        asked_recipes=recipes,
        asked_pictures=pictures,
        for_recipes=best(asked[0], encoded.recipes, encoded.images),
        for_pictures=best(asked[1], encoded.images, encoded.recipes),
        weighed=weighed,
    )
    return write_page(path, found)
