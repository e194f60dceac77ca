"""Retrieval on Crisscrossed Captions: R@1, 5, 10 in all four directions, with positives that people judged.

Between modalities (t2i, i2t) every listed item is a positive, whatever its rating; a query without one is a
miss. Within a modality (t2t, i2i) an item is a positive from a rating of 3.0 (text) or 2.5 (image) on; the
other captions of a caption's image are positives too; images without positives are left out. An item's score
with itself counts as 0, as in the released evaluation: it stays in the list. The rank of a query is that of
its best positive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from projects.vseinfty.metrics import CAPTIONS_PER_IMAGE, Embeddings
from shared import metrics
from shared.errors import InputError
from shared.files import read_json, read_lines

MIN_TEXT_RATING = 3.0
MIN_IMAGE_RATING = 2.5
RECALLS = (1, 5, 10)

Positives = Sequence[np.ndarray]
"""For each query the indices of its positive items."""


@dataclass(frozen=True)
class Annotations:
    """CxC judgements of one split, as positions in it: lists of positives per caption or image."""

    image_ids: list[str]  # [n]
    caption_ids: list[str]  # [k*n]
    t2i: Positives
    i2t: Positives
    t2t: Positives
    i2i: Positives

    def check_counts(self, num_images: int, num_captions: int) -> None:
        """InputError unless the split that was encoded has as many images and captions as the annotations."""
        if (num_images, num_captions) != (len(self.image_ids), len(self.caption_ids)):
            raise InputError(
                f"CxC annotates {len(self.image_ids)} images and {len(self.caption_ids)} captions, "
                f"the evaluated split has {num_images} and {num_captions}; is it COCO's split testall?"
            )


def read(
    folder: Path, *, split: str = "testall", captions_per_image: int = CAPTIONS_PER_IMAGE
) -> Annotations:
    """`{split}_ids.txt` (each image id repeated per caption), `{split}_capids.txt`, `cxc_{it,i2i,t2t}.json`.

    Raises InputError for missing or malformed files, counts that disagree and queries that are not listed.
    """
    image_path, caption_path = folder / f"{split}_ids.txt", folder / f"{split}_capids.txt"
    repeated, captions = _ids(image_path), _ids(caption_path)
    if len(repeated) != len(captions):
        raise InputError(f"{image_path}: {len(repeated)} lines, but {caption_path.name} has {len(captions)}")
    k = captions_per_image
    images = repeated[::k]
    if repeated != [image for image in images for _ in range(k)]:
        raise InputError(f"{image_path}: expected each image id on {k} consecutive lines")
    image_at, caption_at = _positions(images, image_path), _positions(captions, caption_path)

    inter_path, text_path = folder / "cxc_it.json", folder / "cxc_t2t.json"
    inter, text = read_json(inter_path), read_json(text_path)
    for direction in ("t2i", "i2t"):
        if not isinstance(inter, dict) or direction not in inter:
            raise InputError(f"{inter_path}: expected an object with t2i and i2t, found no {direction}")
    image_intra = folder / "cxc_i2i.json"
    return Annotations(
        image_ids=images,
        caption_ids=captions,
        t2i=positives(inter["t2i"], captions, image_at, source=f"{inter_path}: t2i"),
        i2t=positives(inter["i2t"], images, caption_at, source=f"{inter_path}: i2t"),
        t2t=text_positives(text, captions, caption_at, captions_per_image=k, source=f"{text_path}:"),
        i2i=positives(
            read_json(image_intra), images, image_at, minimum=MIN_IMAGE_RATING, source=f"{image_intra}:"
        ),
    )


def retrieval(
    images: Embeddings, captions: Embeddings, annotations: Annotations
) -> dict[str, dict[str, float]]:
    """Direction (t2i, i2t, t2t, i2i) -> `{"r1", "r5", "r10", "queries", "without_positives"}`, in percent.

    images [n, E], captions [k*n, E]: embeddings in the order of the annotations; score = dot product.
    """
    annotations.check_counts(len(images), len(captions))
    return {
        "t2i": recalls(captions, images, annotations.t2i),
        "i2t": recalls(images, captions, annotations.i2t),
        "t2t": recalls(captions, captions, annotations.t2t, intra=True),
        "i2i": recalls(images, images, annotations.i2i, intra=True),
    }


def recalls(
    queries: Embeddings, items: Embeddings, positives: Positives, *, intra: bool = False
) -> dict[str, float]:
    """R@1, 5, 10 (percent) of `queries` [Q, E] against `items` [N, E].

    intra: queries are the items; queries without positives are left out (otherwise they are misses).
    """
    ranks = best_ranks(queries, items, positives, intra=intra)
    counted = len(ranks) if intra else len(positives)
    found = {f"r{k}": 100.0 * int((ranks < k).sum()) / max(1, counted) for k in RECALLS}
    return {**found, "queries": counted, "without_positives": len(positives) - len(ranks)}


def best_ranks(
    queries: Embeddings, items: Embeddings, positives: Positives, *, intra: bool = False
) -> np.ndarray:
    """0-based rank of the best positive, for each query that has one. intra: see the module."""
    asked = np.array([len(rows) > 0 for rows in positives], bool)
    if intra:
        found = metrics.ranks_among_themselves(items, positives, self_score=0.0)
    else:
        found = metrics.ranks_of_targets(queries, items, positives)
    return found.ranks[asked]


def text_positives(
    listed: object,
    captions: Sequence[str],
    caption_at: Mapping[str, int],
    *,
    captions_per_image: int = CAPTIONS_PER_IMAGE,
    source: str = "t2t",
) -> list[np.ndarray]:
    """Positives of each caption: those rated 3.0 or more, and the other captions of its image."""
    k, count = captions_per_image, len(captions)
    rated = positives(listed, captions, caption_at, minimum=MIN_TEXT_RATING, source=source)
    rows = np.arange(count)
    siblings = (rows - rows % k)[:, None] + np.arange(k)
    own = np.stack(np.broadcast_arrays(rows[:, None], siblings)).reshape(2, -1)
    own = own[:, (own[0] != own[1]) & (own[1] < count)]
    lines = np.concatenate([np.repeat(rows, [len(found) for found in rated]), own[0]])
    pairs = np.unique(lines * count + np.concatenate([*rated, own[1]]))
    return np.split(pairs % count, np.searchsorted(pairs, rows[1:] * count))


def positives(
    listed: object,
    queries: Sequence[str],
    at: Mapping[str, int],
    *,
    minimum: float = -np.inf,
    source: str = "CxC",
) -> list[np.ndarray]:
    """For each query the sorted positions `at` which its listed items occur, of those with a rating >=
    `minimum`.
    """
    if not isinstance(listed, dict):
        raise InputError(
            f"{source} expected an object {{id: [[id, rating], ...]}}, found {type(listed).__name__}"
        )
    result = []
    for query in queries:
        if query not in listed:
            raise InputError(
                f"{source} query id {query} is missing (an empty list means that it has no positives)"
            )
        try:
            found = {
                at[str(item)] for item, score in listed[query] if str(item) in at and float(score) >= minimum
            }
        except (TypeError, ValueError):
            raise InputError(
                f"{source} {query}: expected a list of [id, rating], found {listed[query]!r:.80}"
            ) from None
        result.append(np.array(sorted(found), np.int64))
    return result


def _ids(path: Path) -> list[str]:
    lines = [line.strip() for line in read_lines(path)]
    if not lines or "" in lines:
        raise InputError(
            f"{path}: expected one id per line, " + ("found a blank line" if lines else "found no line")
        )
    return lines


def _positions(ids: Sequence[str], path: Path) -> dict[str, int]:
    at = {name: row for row, name in enumerate(ids)}
    if len(at) != len(ids):
        repeated = next(name for row, name in enumerate(ids) if at[name] != row)
        raise InputError(f"{path}: id {repeated} occurs for more than one item")
    return at
