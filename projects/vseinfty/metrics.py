"""Image-text retrieval as the paper's tables report it: one set (Flickr30K, COCO 5K) and COCO's five 1K
folds.

Names as in the release: `r1 r5 r10 medr meanr` image -> text, `r1i r5i r10i medri meanri` text -> image
(recalls in percent), `rsum` the sum of the six recalls, `ar` / `ari` the mean of the three recalls of a
direction; `ties`: pairs that score as high as a true pair. Captions k*i .. k*i + k - 1 (k =
`captions_per_image`) describe image i. What a rank is, ties included, is defined in `shared.ranking`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from shared import metrics

CAPTIONS_PER_IMAGE = 5
IMAGE_TO_TEXT = ("r1", "r5", "r10", "medr", "meanr")
TEXT_TO_IMAGE = ("r1i", "r5i", "r10i", "medri", "meanri")

Embeddings = np.ndarray | Tensor
SimilarityBlock = Callable[[slice, slice], np.ndarray]
"""`block(images, captions)`: the similarities of a slice of images with a slice of captions."""


def retrieval(
    images: Embeddings, captions: Embeddings, *, captions_per_image: int = CAPTIONS_PER_IMAGE
) -> dict[str, float]:
    """All metrics of one set, from embeddings `images` [n, E] and `captions` [k*n, E] (score = dot product).

    Equal to the released evaluation with its float64 similarities, without its [n, k*n] matrix.
    """
    return _from_ranks(ranks(images, captions, captions_per_image=captions_per_image))


def retrieval_folds(
    images: Embeddings,
    captions: Embeddings,
    *,
    folds: int = 5,
    captions_per_image: int = CAPTIONS_PER_IMAGE,
) -> dict[str, Any]:
    """COCO 1K: the metrics of `folds` consecutive slices of n // folds images, and their `mean`.

    Spec quirk 25: the released evaluation slices 1,000 images whatever n is, its ensemble n // 5; here n //
    folds. Returns `{"mean": {...}, "folds": [{...}, ...]}`.
    """
    check_counts(len(images), len(captions), captions_per_image)
    k = captions_per_image
    return _mean_of(
        retrieval(images[at], captions[k * at.start : k * at.stop], captions_per_image=k)
        for at in fold_slices(len(images), folds)
    )


def retrieval_from_similarities(
    similarities: np.ndarray | SimilarityBlock,
    num_images: int,
    *,
    captions_per_image: int = CAPTIONS_PER_IMAGE,
    rounding: float = 0.0,
) -> dict[str, float]:
    """All metrics of one set from its similarities, compared in the precision that they have.

    `similarities` is a matrix [n, k*n], memory-mapped if large, or a function that gives parts of it
    (`rounding`: by how much two of its answers for the same pair may differ). Only a part is in memory at a
    time.
    """
    return _from_ranks(
        metrics.paired_ranks_of_scores(
            similarities, num_images, per_query=captions_per_image, rounding=rounding
        )
    )


def retrieval_folds_from_similarities(
    similarities: np.ndarray | SimilarityBlock,
    num_images: int,
    *,
    folds: int = 5,
    captions_per_image: int = CAPTIONS_PER_IMAGE,
    rounding: float = 0.0,
) -> dict[str, Any]:
    """`retrieval_folds` from similarities (see `retrieval_from_similarities`)."""
    k = captions_per_image

    def fold(at: slice) -> dict[str, float]:
        def part(images: slice, captions: slice) -> np.ndarray:
            rows = slice(at.start + images.start, at.start + images.stop)
            columns = slice(k * at.start + captions.start, k * at.start + captions.stop)
            return similarities(rows, columns) if callable(similarities) else similarities[rows, columns]

        return retrieval_from_similarities(part, at.stop - at.start, captions_per_image=k, rounding=rounding)

    return _mean_of(map(fold, fold_slices(num_images, folds)))


def ranks(
    images: Embeddings, captions: Embeddings, *, captions_per_image: int = CAPTIONS_PER_IMAGE
) -> metrics.PairedRanks:
    """0-based ranks of both directions: `queries` [n] image -> best own caption, `items` [k*n] caption ->
    image.
    """
    check_counts(len(images), len(captions), captions_per_image)
    return metrics.paired_ranks(images, captions, per_query=captions_per_image)


def nearest(queries: Embeddings, items: Embeddings, *, block: int = 256) -> np.ndarray:
    """Index [Q] of each query's highest-scoring item, by float64 dot products; the latest of equal ones."""
    left, right = (np.asarray(rows, np.float64) for rows in (queries, items))
    reversed_items = right[::-1].T
    parts = [(left[at : at + block] @ reversed_items).argmax(axis=1) for at in range(0, len(left), block)]
    return len(right) - 1 - np.concatenate(parts)


def from_ranks(image_ranks: np.ndarray, caption_ranks: np.ndarray, *, ties: int = 0) -> dict[str, float]:
    """The metrics by name from the 0-based ranks of both directions."""
    to_text = metrics.recall_summary(image_ranks)
    to_image = {f"{name}i": value for name, value in metrics.recall_summary(caption_ranks).items()}
    found = {**to_text, **to_image}
    recalls_of_images = sum(found[name] for name in IMAGE_TO_TEXT[:3])
    recalls_of_captions = sum(found[name] for name in TEXT_TO_IMAGE[:3])
    return {
        **found,
        "rsum": recalls_of_images + recalls_of_captions,
        "ar": recalls_of_images / 3,
        "ari": recalls_of_captions / 3,
        "ties": ties,
    }


def fold_slices(num_images: int, folds: int) -> list[slice]:
    """The images of each fold: `folds` consecutive slices of num_images // folds images; the rest is left
    out.
    """
    size = num_images // folds
    if size < 1:
        raise ValueError(f"{num_images} images cannot be cut into {folds} folds")
    return [slice(i * size, (i + 1) * size) for i in range(folds)]


def check_counts(num_images: int, num_captions: int, captions_per_image: int = CAPTIONS_PER_IMAGE) -> None:
    """Raise ValueError unless there are images, and `captions_per_image` captions for each."""
    expected = captions_per_image * num_images
    if num_images < 1 or num_captions != expected:
        raise ValueError(f"{num_images} images need {expected} captions, found {num_captions}")


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """A line per set: R@1, 5, 10, median and mean rank of both directions, and rsum."""
    width = max(len("set"), *map(len, results))
    head = "  R@1   R@5  R@10  medr   meanr"
    lines = [
        f"{'':{width}} | {'image -> text':{len(head)}} | {'text -> image':{len(head)}} |",
        f"{'set':{width}} | {head} | {head} |   rsum",
    ]
    for name, values in results.items():
        halves = [
            " ".join(f"{values[key]:5.1f}" for key in keys[:4]) + f" {values[keys[4]]:7.1f}"
            for keys in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)
        ]
        lines.append(f"{name:{width}} | {halves[0]} | {halves[1]} | {values['rsum']:6.1f}")
    return "\n".join(lines)


class RunningMean:
    """The released log's running average: `mean` = sum / (1e-4 + count) of the values, weighted by n."""

    def __init__(self) -> None:
        self.last = 0.0
        self.total = 0.0
        self.count = 0

    def update(self, value: float, n: int = 1) -> None:
        """Add the mean `value` of `n` items."""
        self.last = value
        self.total += value * n
        self.count += n

    @property
    def mean(self) -> float:
        """The average so far; 0 before the first value."""
        return self.total / (1e-4 + self.count)


def _from_ranks(found: metrics.PairedRanks) -> dict[str, float]:
    return from_ranks(found.queries, found.items, ties=found.ties)


def _mean_of(folds: Iterable[dict[str, float]]) -> dict[str, Any]:
    results = list(folds)
    mean = {name: float(np.mean([fold[name] for fold in results])) for name in results[0]}
    return {"mean": {**mean, "ties": sum(fold["ties"] for fold in results)}, "folds": results}
