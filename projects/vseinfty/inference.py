"""A trained model over the user's images and captions: images for texts, captions for images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from projects.vseinfty.captions import Tokenizer, TokenTable
from projects.vseinfty.encoding import length_buckets
from projects.vseinfty.model import VSEModel
from projects.vseinfty.sources import Source
from shared import index as indices
from shared.data import eval_plans, load, to_device
from shared.errors import InputError
from shared.index import Encoded, Index, Item
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
    """A query and its best matches, the best first."""

    query: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Encoder:
    """A model in evaluation, with what it needs to encode."""

    model: VSEModel
    tokenizer: Tokenizer
    runtime: Runtime
    batch_size: int = 64
    workers: int | None = None

    def images(self, source: Source, positions: Sequence[int], label: str = "") -> Iterator[Encoded]:
        """Embeddings of items of a source, batch by batch, with progress when there is a `label`."""
        chosen = np.asarray(positions, np.int64)
        plans = eval_plans(len(chosen), self.batch_size)
        plans = [type(plan)(plan.epoch, plan.step, chosen[plan.indices]) for plan in plans]
        pinned = self.runtime.device.type == "cuda"
        with Progress(len(chosen), unit="image", label=label, silent=not label) as bar:
            for chunk in load(source.fetch, plans, workers=self._workers(len(plans)), pin_memory=pinned):
                batch = to_device(chunk, self.runtime.device)
                rows = np.empty((0, self.model.embed_size), np.float32)
                if len(chunk.positions):
                    rows = self._rows(lambda b=batch: self.model.encode_images(b.images, b.lengths))
                names = [source.items[position].name for position in chunk.positions.tolist()]
                yield Encoded(chunk.positions.numpy(), _finite(rows, names), chunk.failures)
                bar.update(len(rows) + len(chunk.failures))

    def captions(self, texts: Sequence[str], positions: Sequence[int], label: str = "") -> Iterator[Encoded]:
        """Embeddings of texts, batch by batch; texts of similar length share a batch."""
        chosen = np.asarray(positions, np.int64)
        table = TokenTable.build(self.tokenizer, [texts[i] for i in chosen])
        with Progress(len(chosen), unit="caption", label=label, silent=not label) as bar:
            for plan in length_buckets(table.lengths, self.batch_size):
                ids, lengths = (
                    torch.from_numpy(a).to(self.runtime.device) for a in table.padded(plan.indices)
                )
                rows = self._rows(lambda i=ids, n=lengths: self.model.encode_captions(i, n))
                positions_here = chosen[plan.indices]
                yield Encoded(positions_here, _finite(rows, [texts[i] for i in positions_here]))
                bar.update(len(rows))

    def _rows(self, encode: "object") -> np.ndarray:
        self.model.eval()
        with torch.inference_mode(), self.runtime.autocast():
            found: Tensor = encode()  # type: ignore[operator]
            return found.float().cpu().numpy()

    def _workers(self, num_plans: int) -> int | None:
        return 0 if num_plans < 2 else self.workers


def _finite(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise InputError(f"{names[int(bad.argmax())]!r}: its embedding is not finite (a damaged model?)")
    return rows


def index_images(folder: Path, source: Source, encoder: Encoder, *, model: str, strict: bool) -> Index:
    """The index of a source, brought up to date. InputError as in `index.update`."""
    return indices.update(
        folder,
        source.items,
        lambda positions: encoder.images(source, positions, label="images"),
        model=model,
        embed_size=encoder.model.embed_size,
        strict=strict,
    )


def index_line(index: Index) -> str:
    """What an index holds, and what was done for it now."""
    skipped = (
        f", {len(index.skipped)} could not be read (first: {index.skipped[0].reason})"
        if index.skipped
        else ""
    )
    return f"index: {len(index.positions)} images, {index.num_encoded} encoded now{skipped}; {index.folder}"


def index_captions(folder: Path, texts: Sequence[str], encoder: Encoder, *, model: str) -> Index:
    """The index of captions; each different one is encoded once."""
    return indices.update(
        folder,
        [Item(text, "") for text in texts],
        lambda positions: encoder.captions(texts, positions, label="captions"),
        model=model,
        embed_size=encoder.model.embed_size,
    )


def images_for_texts(
    texts: Sequence[str], index: Index, encoder: Encoder, k: int, right: Sequence[set[int]] | None = None
) -> list[Answer]:
    """The k best items of the index for every text; `right`: positions known to be right, per text."""
    rows = in_order(encoder.captions(texts, range(len(texts))), len(texts), encoder.model.embed_size)
    return _answers(texts, rows, index, k, right)


def captions_for_images(
    source: Source | None,
    positions: Sequence[int],
    index: Index,
    encoder: Encoder,
    k: int,
    right: Sequence[set[int]] | None = None,
) -> list[Answer]:
    """The k best captions of the index for every item; an item that cannot be read is an InputError."""
    assert source is not None, "query images come from somewhere"
    batches = list(encoder.images(source, positions))
    for batch in batches:
        if batch.failures:
            raise InputError(f"query_image: {batch.failures[0][1]}")
    where = {position: i for i, position in enumerate(positions)}
    moved = [
        Encoded(np.array([where[p] for p in b.positions.tolist()], np.int64), b.embeddings) for b in batches
    ]
    rows = in_order(moved, len(positions), encoder.model.embed_size)
    return _answers([source.items[p].name for p in positions], rows, index, k, right)


def in_order(batches: Iterable[Encoded], count: int, embed_size: int) -> np.ndarray:
    """Batches in any order -> [count, E]."""
    rows = np.zeros((count, embed_size), np.float32)
    for batch in batches:
        rows[batch.positions] = batch.embeddings
    return rows


def _answers(
    queries: Sequence[str], rows: np.ndarray, index: Index, k: int, right: Sequence[set[int]] | None
) -> list[Answer]:
    scores, found = top_k(rows, index.embeddings, k)
    answers = []
    for i, query in enumerate(queries):
        positions = index.positions[found[i]].tolist()
        good = None if right is None else right[i]
        matches = [
            Match(position, float(score), None if good is None else position in good)
            for position, score in zip(positions, scores[i], strict=True)
        ]
        answers.append(Answer(query, tuple(matches)))
    return answers
