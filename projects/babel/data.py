"""WikiScenes as batches of image pairs for training, and of single images for validation.

P: pairs   S: image side   C: concepts   T: matched points of all pairs
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.babel import augmentation, pair_sampling, pictures
from projects.babel.augmentation import Augmentation
from projects.babel.concepts import CONCEPTS, check_concepts
from projects.babel.correspondence import Correspondence
from projects.babel.graph import Neighbours, image_graph
from projects.babel.matches import Matches
from projects.babel.splits import Row, image_id, multi_hot, read_split
from shared.data import BatchPlan, item_generator
from shared.errors import InputError

SPLITS = ("train", "val_easy", "dev", "val")
NO_LABEL = -1  # `first` of an image whose label is withheld
_WITHHELD = 0x1ABE1  # the stream of the draw of labels that are withheld


@dataclass
class Batch:
    """A training batch: rows i and i + P of the images are pair i."""

    images: Tensor  # [2P, 3, S, S] float32, normalised
    labels: Tensor  # [2P, C] float32: the concepts that supervise; zeros where withheld
    first: Tensor  # [2P] int64: the first concept; -1 where withheld
    matches: Matches  # points that both images of a pair see, after their crops
    indices: Tensor  # [2P] int64, rows of the split


@dataclass
class ImageBatch:
    """Images for validation."""

    images: Tensor  # [B, 3, S, S] float32, normalised
    labels: Tensor  # [B, C] as in Batch
    first: Tensor  # [B]
    indices: Tensor  # [B]


@dataclass(frozen=True)
class DataSet:
    """The `data` section of a config: where the set is, and how its items are read. One field per key.

    Attributes:
        name: for run folders.
        root: holds WikiScenes/, from which the paths of the splits start.
        correspondence: correspondence.json; null = no image has matches.
        train, val, val_easy, dev: the split files; val = unseen landmarks, val_easy = seen ones, dev = other unseen
            ones for choices (null = none).
        segmentation: list files `picture mask` by name, for evaluation.
        cache: folder for the correspondences as arrays, made on first use; null = beside the file.
        variant: "landmarks" for the embedded data, made on first use; null = a real set.
        mini: settings of the embedded data (keyword arguments of mini.make).
        concepts: names of the classes, in the order of their ids.
        size, scale_from, scale_to, mirrored, coloured: see `Augmentation`.
        graph_threshold: images with so many common points are neighbours.
        multi_label: all labels of an image supervise, instead of its first.
        labelled: share of the training images whose label is used.
        shuffle_matches: a control: the points of the second image in random order.
        skip_missing: leave out images that are not there, instead of an error.
        max_items: use only the first so many rows of a split.
        picture_cache: MiB of decoded images that each data process keeps.
    """

    name: str
    root: str
    correspondence: str | None
    train: str
    val: str
    val_easy: str | None = None
    dev: str | None = None
    segmentation: dict[str, str] | None = None
    cache: str | None = None
    variant: str | None = None
    mini: dict[str, Any] | None = None
    concepts: Sequence[str] = CONCEPTS
    size: int = 224
    scale_from: float = 0.9
    scale_to: float = 1.0
    mirrored: float = 0.5
    coloured: float = 0.5
    graph_threshold: int = 10
    multi_label: bool = False
    labelled: float = 1.0
    shuffle_matches: bool = False
    skip_missing: bool = False
    max_items: int | None = None
    picture_cache: int = 256

    def prepare(self) -> None:
        """Make the embedded data on first use; InputError where a real set is not there."""
        if self.variant not in (None, "landmarks"):
            raise InputError(f"data.variant: expected landmarks or null, found {self.variant!r}")
        if self.variant is not None:
            from projects.babel import mini

            mini.make(Path(self.root), **(self.mini or {}))
        elif not Path(self.root).is_dir():
            raise InputError(f"{self.root}: no such folder; data.root must hold WikiScenes/")

    def split_file(self, split: str) -> str:
        """The file of a split; InputError with those that there are."""
        files = {name: getattr(self, name) for name in SPLITS if getattr(self, name) is not None}
        if split not in files:
            raise InputError(f"split: expected one of {', '.join(files)}, found {split!r}")
        return str(files[split])

    def open(self, split: str, *, seed: int = 0) -> "Split":
        """One of its splits, of SPLITS (see `open_split`); the draws of its items are those of `seed`."""
        file = self.split_file(split)
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("name", "variant", "mini", "segmentation", *SPLITS):
            del own[name]
        if split != "train":
            own |= {"labelled": 1.0, "shuffle_matches": False, "correspondence": None}
        return open_split(name=split, file=file, seed=seed, **own)


@dataclass(frozen=True)
class Matching:
    """Which images of a split share points, and where.

    Attributes:
        correspondence: of the whole set.
        places: [N] the images' positions in it, -1 for one that is not in it.
        neighbours: rows that share enough points.
        shuffled: see `DataSet`.
    """

    correspondence: Correspondence
    places: np.ndarray
    neighbours: Neighbours
    shuffled: bool = False

    def points(self, index: int, partner: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids [K] of the common points of two rows, and where they are: [K, 2] (row, column) twice."""
        i, j = int(self.places[index]), int(self.places[partner])
        if i < 0 or j < 0:
            return np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
        return self.correspondence.shared(i, j)


class Split:
    """The images of one split, in the order of its file.

    Attributes:
        name: of SPLITS.
        rows: what the file says of each image.
        labels: [N, C] float32, all concepts of each image; first: [N] int64, its first one.
        targets: [N, C] float32, the concepts that supervise; zeros where the label is withheld.
        missing: images left out because they are not there (`skip_missing`).
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        store: pictures.PictureStore,
        how: Augmentation,
        *,
        concepts: Sequence[str] = CONCEPTS,
        matching: Matching | None = None,
        multi_label: bool = False,
        labelled: float = 1.0,
        missing: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.name, self.rows, self.seed, self.missing = name, rows, seed, tuple(missing)
        self._store, self._how, self._matching = store, how, matching
        hot = multi_hot(rows, concepts)
        self.first = np.array([labels[0] for labels in hot], np.int64)
        self.labels = np.zeros((len(rows), len(concepts)), np.float32)
        for row, labels in zip(self.labels, hot, strict=True):
            row[list(labels)] = 1
        self.targets = self.labels if multi_label else np.eye(len(concepts), dtype=np.float32)[self.first]
        if labelled < 1:
            order = np.random.default_rng([seed, _WITHHELD]).permutation(len(rows))
            self._withhold(order[round(labelled * len(rows)) :])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_outside(self) -> int:
        """Keypoints of the whole set that lie outside their image and were left out."""
        return self._matching.correspondence.num_outside if self._matching else 0

    def fetch_train(self, plan: BatchPlan) -> Batch:
        """Pairs with drawn partners, crops and colours; each pair from its own generator (seed, epoch, index)."""
        firsts = np.asarray(plan.indices, np.int64)
        pairs, side = len(firsts), self._how.size
        images = np.empty((2 * pairs, 3, side, side), np.float32)
        indices = np.concatenate([firsts, firsts])
        points = []
        for p, index in enumerate(firsts.tolist()):
            rng = item_generator(self.seed, plan.epoch, index)
            pair = (index, self.draw_partner(rng, index))
            pixels = [self.picture(row) for row in pair]
            draws = [self._how.draw(rng, one.shape[1], one.shape[0]) for one in pixels]
            points.append(self.match(pair, [one.shape[:2] for one in pixels], draws))
            if self._matching and self._matching.shuffled:
                points[-1][:, 2:] = points[-1][rng.permutation(len(points[-1])), 2:]
            indices[pairs + p] = pair[1]
            for place, one, draw in zip((p, pairs + p), pixels, draws, strict=True):
                images[place] = augmentation.apply(one, draw, side)
        matches = Matches.of([torch.from_numpy(rowcol) for rowcol in points])
        return Batch(
            torch.from_numpy(images), *self._supervision(indices), matches, torch.from_numpy(indices)
        )

    def draw_partner(self, rng: np.random.Generator, index: int) -> int:
        """The row of the second image for the first one `index`."""
        neighbours = self._matching.neighbours.of(index) if self._matching else np.zeros(0, np.int64)
        return pair_sampling.draw_partner(rng, index, neighbours, len(self))

    def match(
        self, pair: tuple[int, int], sizes: Sequence[tuple[int, ...]], draws: Sequence[augmentation.Draw]
    ) -> np.ndarray:
        """The common points that both crops show, in the order of their ids.

        Args:
            pair: rows of the two images.
            sizes: (height, width) of each.
            draws: what happens to each.

        Returns:
            [K, 4] float64: row and column in the first crop, row and column in the second; fractions.
        """
        if self._matching is None:
            return np.zeros((0, 4))
        _, *places = self._matching.points(*pair)
        found = [
            augmentation.crop_points(rowcol, (size[0], size[1]), draw)
            for rowcol, size, draw in zip(places, sizes, draws, strict=True)
        ]
        inside = found[0][1] & found[1][1]
        return np.concatenate([points for points, _ in found], 1)[inside]

    def fetch_val(self, plan: BatchPlan, *, random_crops: bool = False) -> ImageBatch:
        """Whole images, stretched to the side; `random_crops`: augmented as in training (as released)."""
        indices, side = np.asarray(plan.indices, np.int64), self._how.size
        images = np.empty((len(indices), 3, side, side), np.float32)
        for b, index in enumerate(indices.tolist()):
            pixels = self.picture(index)
            if random_crops:
                rng = item_generator(self.seed, plan.epoch, index)
                draw = self._how.draw(rng, pixels.shape[1], pixels.shape[0])
                images[b] = augmentation.apply(pixels, draw, side)
            else:
                images[b] = augmentation.whole(pixels, side)
        return ImageBatch(torch.from_numpy(images), *self._supervision(indices), torch.from_numpy(indices))

    def picture(self, index: int) -> np.ndarray:
        """The image of a row, uint8 [H, W, 3]; InputError when it cannot be read."""
        return self._store.read(index)

    def path(self, index: int) -> Path:
        """The file of a row's image."""
        return self._store.paths[index]

    def _supervision(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        targets = self.targets[indices]
        first = np.where(targets.any(1), self.first[indices], NO_LABEL)
        return torch.from_numpy(targets), torch.from_numpy(first)

    def _withhold(self, rows: np.ndarray) -> None:
        self.targets = self.targets.copy()
        self.targets[rows] = 0


def open_split(
    *,
    name: str,
    file: str | Path,
    root: str | Path,
    correspondence: str | Path | None = None,
    cache: str | Path | None = None,
    concepts: Sequence[str] = CONCEPTS,
    size: int = 224,
    scale_from: float = 0.9,
    scale_to: float = 1.0,
    mirrored: float = 0.5,
    coloured: float = 0.5,
    graph_threshold: int = 10,
    multi_label: bool = False,
    labelled: float = 1.0,
    shuffle_matches: bool = False,
    skip_missing: bool = False,
    max_items: int | None = None,
    picture_cache: int = 256,
    seed: int = 0,
) -> Split:
    """Open a split; the arguments are fields of `DataSet`.

    Args:
        name, file: what it is called, its split file.
        seed: of all draws.

    Raises:
        InputError: a file that is missing or damaged, a setting that makes no sense, or no image at all.
    """
    how = Augmentation(size, scale_from, scale_to, mirrored, coloured)
    if not 0 < labelled <= 1:
        raise InputError(f"data.labelled: expected a share above 0, at most 1, found {labelled}")
    if graph_threshold < 1:
        raise InputError(f"data.graph_threshold: expected at least 1 common point, found {graph_threshold}")
    names = check_concepts(concepts)
    rows = read_split(file, names)
    rows, missing = pictures.present(rows, Path(root), skip=skip_missing, source=str(file))
    rows = rows[:max_items]
    matching = None
    if correspondence is not None:
        opened = Correspondence.open(correspondence, cache=cache)
        found = opened.indices_of([image_id(row.path) for row in rows])
        neighbours = image_graph(opened, found, threshold=graph_threshold)
        places = np.array([-1 if place is None else place for place in found], np.int64)
        matching = Matching(opened, places, neighbours, shuffle_matches)
    store = pictures.PictureStore([Path(root) / row.path for row in rows], picture_cache << 20)
    return Split(
        name, rows, store, how, concepts=names, matching=matching, multi_label=multi_label, labelled=labelled,
        missing=missing, seed=seed,
    )  # fmt: skip
