"""Do equal points get equal features? Nearest-neighbour matching of keypoints between images.

P pairs, T matched points of all pairs, D feature channels. Everything kept is of the size of T, however many
images there are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from projects.babel import image_batches
from projects.babel.bilinear_rows import sample_rows
from projects.babel.correspondence import Correspondence
from projects.babel.expectations import expect_positive, expect_whole
from projects.babel.graph import Neighbours
from projects.babel.image_batches import Reader
from projects.babel.outputs import Net
from shared.errors import InputError
from shared.runtime import Runtime

CANDIDATES = 256
WITHIN = 0.1  # of the image


@dataclass(frozen=True)
class Choice:
    """How many random pairs, and at most how many random points of each; None: all pairs. InputError for too few."""

    max_pairs: int | None = 1000
    points_per_pair: int = 64

    def __post_init__(self) -> None:
        expect_whole({"pairs": asdict(self)}, "pairs.max_pairs", least=1, or_null=True)
        expect_whole({"pairs": asdict(self)}, "pairs.points_per_pair", least=1)


@dataclass(frozen=True)
class Scoring:
    """R@1 among so many candidates, PCK within this share of the image. InputError for values without sense."""

    candidates: int = CANDIDATES
    within: float = WITHIN

    def __post_init__(self) -> None:
        expect_whole({"scores": asdict(self)}, "scores.candidates", least=2)
        expect_positive("scores.within", self.within)


@dataclass(frozen=True)
class Pairs:
    """Pairs of images (rows of a split) with points that both see.

    first, second: int64 [P]. offsets: int64 [P + 1]: pair p has the points offsets[p] to offsets[p + 1].
    points: [T] ids of the points. rowcol: float32 [T, 4], (row, col) in the first and in the second image, as
    fractions.
    """

    first: np.ndarray
    second: np.ndarray
    offsets: np.ndarray
    points: np.ndarray
    rowcol: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Features:
    """Unit-norm features of the T points: in the first image and in the second, float32 [T, D] each."""

    first: np.ndarray
    second: np.ndarray


def choose_pairs(
    correspondence: Correspondence,
    neighbours: Neighbours,
    images: Sequence[int | None],
    *,
    max_pairs: int | None = 1000,
    points_per_pair: int = 64,
    seed: int = 0,
) -> Pairs:
    """Random pairs of neighbours, each at most once and in a random direction, with some of their points.

    neighbours, images: of the rows of a split (`graph.image_graph`). InputError when no two rows are neighbours.
    """
    rng = np.random.default_rng([seed, 0x9A1125])
    rows = np.repeat(np.arange(len(neighbours), dtype=np.int32), np.diff(neighbours.offsets))
    links = np.flatnonzero(rows < neighbours.columns)
    if not len(links):
        raise InputError(f"no two of the {len(neighbours)} images share enough points: nothing to match")
    links = np.sort(rng.permutation(links)[:max_pairs])
    ends = np.stack([rows[links], neighbours.columns[links]], axis=1).astype(np.int64)
    ends = np.where(rng.random(len(ends))[:, None] < 0.5, ends, ends[:, ::-1])
    points, rowcol = [], []
    for first, second in ends.tolist():
        i, j = images[first], images[second]
        assert i is not None
        assert j is not None
        shared, *places = correspondence.shared(i, j)
        kept = np.sort(rng.permutation(len(shared))[:points_per_pair])
        points.append(np.asarray(shared[kept], np.int64))
        rowcol.append(np.concatenate([place[kept] for place in places], axis=1))
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in points])])
    first, second = np.ascontiguousarray(ends.T)
    return Pairs(first, second, offsets, np.concatenate(points), np.concatenate(rowcol))


def encode(
    model: Net,
    pairs: Pairs,
    read: Reader,
    *,
    layers: Sequence[str],
    size: int | None = 224,
    batch_size: int = 16,
    workers: int | None = 0,
    runtime: Runtime,
) -> dict[str, Features]:
    """Features of all points at each layer; every image passes the net once.

    Args:
        read: a row of the split -> uint8 RGB [H, W, 3].
        size: images are stretched to this side, as in validation; None: as they are, one by one.

    Raises:
        InputError: a layer that the model does not have, or features that are not finite.
    """
    images = np.unique(np.concatenate([pairs.first, pairs.second]))
    pair_of = np.repeat(np.arange(len(pairs)), np.diff(pairs.offsets))
    ends = np.stack([pairs.first[pair_of], pairs.second[pair_of]], axis=1)  # [T, 2] the images of each point
    by_image = np.argsort(ends, axis=None, kind="stable")  # slots 2t and 2t + 1 of point t
    starts = np.searchsorted(ends.reshape(-1)[by_image], np.append(images, images[-1] + 1))
    places = pairs.rowcol.reshape(-1, 2)
    kept: dict[str, np.ndarray] = {}
    outputs = image_batches.run(
        model, images, read, layers=layers, size=size, batch_size=batch_size, workers=workers, runtime=runtime
    )
    for part, output in outputs:
        slots = by_image[starts[part.start] : starts[part.stop]]
        counts = np.diff(starts[part.start : part.stop + 1])
        index = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(runtime.device)
        where = torch.from_numpy(places[slots]).to(runtime.device)
        for layer in layers:
            rows = features_at(output.features[layer], index, where).cpu().numpy()
            if layer not in kept:
                kept[layer] = np.empty((len(places), rows.shape[1]), np.float32)
            kept[layer][slots] = rows
    for layer, rows in kept.items():
        if not np.isfinite(rows).all():
            raise InputError(f"features of layer {layer} are not finite (a damaged model?)")
    return {layer: Features(rows[0::2], rows[1::2]) for layer, rows in kept.items()}


def scores(
    features: Features, pairs: Pairs, *, candidates: int = CANDIDATES, within: float = WITHIN, seed: int = 0
) -> dict[str, float]:
    """How often the nearest feature is the right one, in percent.

    r1: the points of all pairs are dealt into groups of `candidates`; a query (first image) finds its point (second
    image) if the nearest of the group's features is of the same 3D point; those of the query's own image, which are
    second images of other pairs, do not take part. pck: among the points of its pair, the nearest is within
    `within` of the right place, as a fraction of the image's sides. Chance: of a random choice.
    """
    hits, chance, group_size = _recall(features, pairs, candidates, seed)
    close, close_chance = 0, 0.0
    for start, end in zip(pairs.offsets[:-1].tolist(), pairs.offsets[1:].tolist(), strict=True):
        if start == end:
            continue
        place = pairs.rowcol[start:end, 2:]
        near = np.linalg.norm(place[:, None] - place[None], axis=2) <= within
        best = (features.first[start:end] @ features.second[start:end].T).argmax(axis=1)
        close += int(near[np.arange(end - start), best].sum())
        close_chance += float(near.mean(axis=1).sum())
    total = max(1, len(pairs.points))
    return {
        "r1": 100 * hits,
        "pck": 100 * close / total,
        "r1_chance": 100 * chance,
        "pck_chance": 100 * close_chance / total,
        "candidates": group_size,
        "points": len(pairs.points),
        "pairs": len(pairs),
    }


@torch.inference_mode()
def features_at(maps: Tensor, image: Tensor, rowcol: Tensor) -> Tensor:
    """Unit-norm features at points as the 3D loss takes them: maps [I, D, h, w], image [R], rowcol [R, 2] -> [R, D]."""
    rows = sample_rows(maps.float(), image, rowcol)
    return rows / (rows.norm(dim=1, keepdim=True) + 1e-6)


def mutual_matches(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Matches of two feature sets [M, D], [N, D] of unit norm, each the other's nearest; best first.

    Returns:
        indices int64 [K, 2] and cosine similarities float32 [K].
    """
    similarity = first @ second.T
    forth, back = similarity.argmax(dim=1), similarity.argmax(dim=0)
    rows = torch.arange(len(first), device=first.device)
    kept = rows[back[forth] == rows]
    values = similarity[kept, forth[kept]]
    order = values.argsort(descending=True, stable=True)
    return torch.stack([kept, forth[kept]], dim=1)[order].cpu().numpy(), values[order].cpu().numpy()


def _recall(features: Features, pairs: Pairs, candidates: int, seed: int) -> tuple[float, float, int]:
    """Share of queries that find their point, the same by chance, and the size of the groups."""
    size = min(candidates, len(pairs.points))
    pair_of = np.repeat(np.arange(len(pairs)), np.diff(pairs.offsets))
    hits, chance, total = 0, 0.0, 0
    for group in _groups(len(pairs.points), size, seed):
        points, pair = pairs.points[group], pair_of[group]
        allowed = pairs.first[pair][:, None] != pairs.second[pair][None]
        similarity = np.where(allowed, features.first[group] @ features.second[group].T, -np.inf)
        same = allowed & (points[:, None] == points[None])  # a point may be in several pairs
        hits += int(same[np.arange(size), similarity.argmax(axis=1)].sum())
        chance += float((same.sum(axis=1) / allowed.sum(axis=1)).sum())
        total += size
    return hits / max(1, total), chance / max(1, total), size


def _groups(count: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Random groups of equal size; what is left over is not asked."""
    order = np.random.default_rng([seed, 0x6120]).permutation(count)
    for start in range(0, count - size + 1, max(1, size)):
        yield order[start : start + size]
