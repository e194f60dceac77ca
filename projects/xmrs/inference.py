"""A trained model over pictures and recipes: pictures for recipes, recipes for pictures.

D: joint space
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from projects.xmrs.encoding import length_buckets
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.sources import PictureSource, RecipeSource
from shared import index as indices
from shared.data import eval_plans, load, pad_sequences, to_device
from shared.errors import InputError
from shared.index import Encoded, Index
from shared.progress import Progress
from shared.runtime import Runtime
from shared.search import top_k


@dataclass(frozen=True)
class Match:
    """One result: position of the item in what was searched, score, whether it is known to be right."""

    position: int
    score: float
    correct: bool | None = None


@dataclass(frozen=True)
class Answer:
    """A query (position in what was asked) and its best matches, the best first."""

    query: int
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Encoder:
    """A model in evaluation mode, and how it is fed."""

    model: FoodSpaceNet
    runtime: Runtime
    batch_size: int = 64
    workers: int | None = None

    def pictures(self, source: PictureSource, positions: Sequence[int], label: str = "") -> Iterator[Encoded]:
        """Embeddings of pictures, batch by batch, with progress when there is a `label`."""
        chosen = np.asarray(positions, np.int64)
        plans = eval_plans(len(chosen), self.batch_size)
        plans = [type(plan)(plan.epoch, plan.step, chosen[plan.indices]) for plan in plans]
        workers = 0 if len(plans) < 2 else self.workers
        pinned = self.runtime.device.type == "cuda"
        with Progress(len(chosen), unit="picture", label=label, silent=not label) as bar:
            for chunk in load(source.fetch, plans, workers=workers, pin_memory=pinned):
                rows = np.empty((0, self.model.embed_dim), np.float32)
                if len(chunk.positions):
                    pixels = to_device(chunk.images, self.runtime.device)
                    rows = self._rows(partial(self.model.encode_images, pixels))
                names = [source.names[position] for position in chunk.positions.tolist()]
                yield Encoded(chunk.positions.numpy(), _finite(rows, names), chunk.failures)
                bar.update(len(rows) + len(chunk.failures))

    def recipes(self, source: RecipeSource, positions: Sequence[int], label: str = "") -> Iterator[Encoded]:
        """Embeddings of recipes, batch by batch; texts of like length share a batch."""
        texts, failures = source.tokens(positions)
        lost = {position for position, _ in failures}
        chosen = np.array([p for p in positions if p not in lost], np.int64)
        if failures:
            yield Encoded(np.empty(0, np.int64), np.empty((0, self.model.embed_dim), np.float32), failures)
        with Progress(len(chosen), unit="recipe", label=label, silent=not label) as bar:
            for plan in length_buckets(np.array([len(text) for text in texts]), self.batch_size):
                ids, lengths = (
                    torch.from_numpy(array.astype(np.int64)).to(self.runtime.device)
                    for array in pad_sequences([texts[i] for i in plan.indices])
                )
                rows = self._rows(partial(self.model.encode_recipes, ids, lengths))
                here = chosen[plan.indices]
                yield Encoded(here, _finite(rows, [source.names[i] for i in here]))
                bar.update(len(rows))

    def _rows(self, encode: Callable[[], Tensor]) -> np.ndarray:
        self.model.eval()
        with torch.inference_mode(), self.runtime.autocast():
            return encode().float().cpu().numpy()


def index_pictures(
    folder: Path, source: PictureSource, encoder: Encoder, *, model: str, strict: bool = False
) -> Index:
    """The index of pictures, brought up to date. InputError as in `shared.index.update`."""
    return indices.update(
        folder,
        source.items,
        lambda positions: encoder.pictures(source, positions, label="pictures"),
        model=model,
        embed_size=encoder.model.embed_dim,
        strict=strict,
    )


def index_recipes(
    folder: Path, source: RecipeSource, encoder: Encoder, *, model: str, strict: bool = False
) -> Index:
    """The index of recipes, brought up to date. InputError as in `shared.index.update`."""
    return indices.update(
        folder,
        source.items,
        lambda positions: encoder.recipes(source, positions, label="recipes"),
        model=model,
        embed_size=encoder.model.embed_dim,
        strict=strict,
    )


def index_line(index: Index, what: str) -> str:
    """What an index holds, and what was done for it now."""
    skipped = (
        f", {len(index.skipped)} could not be read (first: {index.skipped[0].reason})"
        if index.skipped
        else ""
    )
    return f"index: {len(index.positions)} {what}, {index.num_encoded} encoded now{skipped}; {index.folder}"


def recipe_rows(source: RecipeSource, positions: Sequence[int], encoder: Encoder) -> np.ndarray:
    """Embeddings [q, D] of the recipes that are asked; InputError for one without text."""
    return _in_order(encoder.recipes(source, positions), positions, "recipe", encoder.model.embed_dim)


def picture_rows(source: PictureSource, positions: Sequence[int], encoder: Encoder) -> np.ndarray:
    """Embeddings [q, D] of the pictures that are asked; InputError for one that cannot be read."""
    return _in_order(encoder.pictures(source, positions), positions, "picture", encoder.model.embed_dim)


def search(
    queries: Sequence[int], rows: np.ndarray, index: Index, k: int, *, paired: bool = False
) -> list[Answer]:
    """The k best items of an index for each query, whose embeddings are `rows` [q, D].

    paired: query i belongs to item i (a split), so that what is right is known.
    """
    found = nearest(queries, rows, index.embeddings, k, items=index.positions)
    return mark_pairs(found) if paired else found


def nearest(
    queries: Sequence[int], rows: np.ndarray, embeddings: np.ndarray, k: int, *, items: np.ndarray
) -> list[Answer]:
    """The k best of `embeddings` [n, D], which belong to the positions `items` [n]."""
    scores, found = top_k(np.ascontiguousarray(rows, np.float32), embeddings, k)
    return [
        Answer(
            int(query), tuple(Match(int(items[row]), float(score)) for row, score in zip(*one, strict=True))
        )
        for query, *one in zip(queries, found, scores, strict=True)
    ]


def mark_pairs(answers: Sequence[Answer]) -> list[Answer]:
    """Say of each match whether it is the query's own pair."""
    return [
        Answer(a.query, tuple(Match(m.position, m.score, m.position == a.query) for m in a.matches))
        for a in answers
    ]


def _in_order(batches: Iterable[Encoded], positions: Sequence[int], what: str, dim: int) -> np.ndarray:
    where = {position: i for i, position in enumerate(positions)}
    rows = np.zeros((len(where), dim), np.float32)
    for batch in batches:
        for _, reason in batch.failures:
            raise InputError(f"{what}: {reason}")
        rows[[where[position] for position in batch.positions.tolist()]] = batch.embeddings
    return rows[[where[position] for position in positions]]


def _finite(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise InputError(f"{names[int(bad.argmax())]!r}: its embedding is not finite (a damaged model?)")
    return rows
