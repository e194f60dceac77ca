"""The sets on disk (spec section 3) as batches for training and evaluation.

B: batch   N: regions   D: feature dimensions   S: image side   L: tokens   G: grids
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from projects.vseinfty import augmentation, backbones, images
from projects.vseinfty.captions import Tokenizer, TokenTable
from projects.vseinfty.images import ImageFiles
from projects.vseinfty.precomp import (
    CAPTIONS_PER_IMAGE,
    RegionFile,
    captions_per_row,
    ids_per_image,
    read_captions,
    read_ids,
)
from shared.data import BatchPlan, item_generator
from shared.errors import InputError

LONGEST_DEV = 5000  # captions; the released `dev` split ends there whatever the file holds (F30K has 5,070)


@dataclass
class Batch:
    """A training batch of image-caption pairs."""

    images: Tensor  # [B, N, D] float32 regions, zero padded | [B, 3, S, S] float32 pixels
    image_lengths: Tensor | None  # [B] int64 regions kept; None for pixels
    captions: Tensor  # [B, L] int64, right-padded with 0
    caption_lengths: Tensor  # [B] int64
    grid_draws: tuple[Tensor, Tensor] | None  # r1 [B, G], r2 [B] for drop_grids; pixels only
    image_indices: Tensor  # [B] int64, among the split's unique images
    caption_indices: Tensor  # [B] int64


@dataclass
class ImageBatch:
    """Unique images for evaluation."""

    images: Tensor  # as in Batch
    image_lengths: Tensor | None
    indices: Tensor  # [B] int64


@dataclass
class CaptionBatch:
    """Captions for evaluation."""

    captions: Tensor  # [B, L] int64, right-padded with 0
    caption_lengths: Tensor  # [B] int64
    indices: Tensor  # [B] int64


@dataclass(frozen=True)
class DataSet:
    """A set as the `data` section of a config describes it: one field per key."""

    name: str
    root: str
    kind: str = "regions"
    vocab_path: str | None = None
    variant: str | None = None  # of the embedded data; None = a real set
    train_split: str = "train"
    dev_split: str = "dev"
    test_split: str = "test"
    folds: int = 1  # COCO reports its 5,000 test images whole and in 5 folds
    image_side: int = 256
    size_augmentation: bool = True
    drop_visual: bool = True
    drop_text: bool = True
    max_captions: int | None = None

    def prepare(self) -> None:
        """Make the embedded data on first use; InputError where a real set is not there."""
        if self.variant == "pictures":
            from projects.vseinfty import mini_pictures

            mini_pictures.ensure(self.root)
        elif self.variant is not None:
            from projects.vseinfty import mini

            mini.ensure(self.root, variant=self.variant)
        elif not (Path(self.root) / "precomp").is_dir():
            raise InputError(f"{self.root}/precomp: no such folder; data.root must hold the set {self.name}")

    def open(
        self,
        split: str,
        *,
        tokenizer: Tokenizer | None = None,
        backbone: str = "detector",
        image_dim: int | None = None,
        seed: int = 0,
    ) -> "Split":
        """Open one of its splits (see `open_split`)."""
        return open_split(
            root=self.root, name=self.name, split=split, kind=self.kind, tokenizer=tokenizer,
            image_dim=image_dim, image_side=self.image_side, backbone=backbone,
            size_augmentation=self.size_augmentation, drop_visual=self.drop_visual, drop_text=self.drop_text,
            seed=seed, max_captions=self.max_captions,
        )  # fmt: skip


class Split:
    """One split: captions, and the images that every five consecutive captions describe.

    Attributes:
        num_images, num_captions: unique images, captions.
        captions_per_row: captions that share a row of the feature file (the released `im_div`): 5, or 1 where
            the file repeats each image's row five times.
        texts: the captions as written.
    """

    def __init__(
        self,
        source: RegionFile | ImageFiles,
        texts: list[str],
        *,
        captions_per_row: int,
        table: TokenTable | None,
        ids_path: Path,
        num_grids: int | None,
        drop_visual: bool,
        drop_text: bool,
        seed: int,
    ):
        self.source, self.texts, self.captions_per_row = source, texts, captions_per_row
        self.num_captions, self.num_images = len(texts), len(texts) // CAPTIONS_PER_IMAGE
        self._table, self._ids_path, self._num_grids = table, ids_path, num_grids
        self._drop_visual, self._drop_text, self._seed = drop_visual, drop_text, seed

    def __len__(self) -> int:
        return self.num_captions

    @property
    def table(self) -> TokenTable:
        """Token ids of the captions."""
        if self._table is None:
            raise ValueError("the split was opened without a tokenizer")
        return self._table

    @property
    def image_ids(self) -> list[str]:
        """Ids of the unique images; InputError when the ids file is missing or does not fit."""
        ids = read_ids(self._ids_path)
        step = ids_per_image(len(ids), self.num_images, self._ids_path)
        return ids[: self.num_images * step : step]

    def caption_lengths(self) -> np.ndarray:
        """[n] tokens of each caption, without dropping."""
        return self.table.lengths

    def image_rows(self, image_indices: np.ndarray) -> np.ndarray:
        """Row of the file of each unique image."""
        return image_indices * (CAPTIONS_PER_IMAGE // self.captions_per_row)

    def fetch_train(self, plan: BatchPlan) -> Batch:
        """Pairs of caption i and its image, augmented; every pair from its own generator (seed, epoch, i)."""
        indices = np.asarray(plan.indices, np.int64)
        generators = [item_generator(self._seed, plan.epoch, int(index)) for index in indices]
        images, lengths, grid_draws = self._train_images(indices // self.captions_per_row, generators)
        if self._drop_text:
            captions, caption_lengths = self.table.dropped(indices, generators)
        else:
            captions, caption_lengths = self.table.padded(indices)
        return Batch(
            images=torch.from_numpy(images),
            image_lengths=lengths,
            captions=torch.from_numpy(captions),
            caption_lengths=torch.from_numpy(caption_lengths),
            grid_draws=grid_draws,
            image_indices=torch.from_numpy(indices // CAPTIONS_PER_IMAGE),
            caption_indices=torch.from_numpy(indices),
        )

    def fetch_images(self, plan: BatchPlan) -> ImageBatch:
        """Unique images as they are; `plan.indices` in [0, num_images)."""
        indices = np.asarray(plan.indices, np.int64)
        rows = self.image_rows(indices)
        if isinstance(self.source, ImageFiles):
            return ImageBatch(torch.from_numpy(self.source.fetch(rows)), None, torch.from_numpy(indices))
        features, lengths = self.source.fetch(rows)
        return ImageBatch(torch.from_numpy(features), torch.from_numpy(lengths), torch.from_numpy(indices))

    def fetch_captions(self, plan: BatchPlan) -> CaptionBatch:
        """Captions as they are; `plan.indices` in [0, num_captions)."""
        indices = np.asarray(plan.indices, np.int64)
        captions, lengths = self.table.padded(indices)
        return CaptionBatch(torch.from_numpy(captions), torch.from_numpy(lengths), torch.from_numpy(indices))

    def _train_images(
        self, rows: np.ndarray, generators: list[np.random.Generator]
    ) -> tuple[np.ndarray, Tensor | None, tuple[Tensor, Tensor] | None]:
        if isinstance(self.source, ImageFiles):
            pixels = self.source.fetch(rows, generators)
            draws = None if self._num_grids is None else _grid_draws(generators, self._num_grids)
            return pixels, None, draws
        kept = None
        if self._drop_visual:
            uniforms = np.full((len(rows), self.source.max_regions), -1.0)  # -1: the set has no such row
            for b, (rng, length) in enumerate(zip(generators, self.source.lengths[rows], strict=True)):
                rng.random(out=uniforms[b, :length])
            kept = augmentation.kept_regions(uniforms)
        features, lengths = self.source.fetch(rows, kept)
        return features, torch.from_numpy(lengths), None


def open_split(
    *,
    root: str | Path,
    name: str,
    split: str,
    kind: str = "regions",
    tokenizer: Tokenizer | None = None,
    image_dim: int | None = None,
    image_side: int = 256,
    backbone: str = "detector",
    num_grids: int | None = None,
    size_augmentation: bool = True,
    drop_visual: bool = True,
    drop_text: bool = True,
    seed: int = 0,
    max_captions: int | None = None,
) -> Split:
    """Open a split of a set in the released layout.

    Args:
        root: folder that holds `precomp/` (and `id_mapping.json` and the image folder for pixels).
        name: name of the set; with "f30k" in it the images are in `flickr30k-images/`, else in `images/`.
        split: prefix of the files in `precomp/`; "dev" ends after 5,000 captions as in the release.
        kind: "regions" (precomputed features) or "pixels" (image files through a CNN).
        tokenizer: None when only images are wanted.
        image_dim: dimensions that the features must have; None = any.
        image_side, backbone: size and normalisation of pixels.
        num_grids: G of the CNN, for the grid-dropping draws (default: computed from backbone and image_side).
        size_augmentation: master switch of `drop_visual` (regions, grids) and `drop_text` (words).
        seed: of all augmentation.
        max_captions: use only so many (rounded down to whole images).

    Raises:
        InputError: a file is missing or malformed, or the numbers of rows and captions do not fit.
    """
    folder = Path(root) / "precomp"
    caps_path, ids_path = folder / f"{split}_caps.txt", folder / f"{split}_ids.txt"
    texts = read_captions(caps_path)
    source: RegionFile | ImageFiles
    if kind == "regions":
        source = RegionFile(folder / f"{split}_ims.npy", image_dim=image_dim)
        where = source.path
    elif kind == "pixels":
        paths = images.image_paths(read_ids(ids_path), root=Path(root), name=name, ids_path=ids_path)
        source, where = ImageFiles(paths, side=image_side, backbone=backbone), ids_path
    else:
        raise InputError(f"data.kind: expected 'regions' or 'pixels', found {kind!r}")
    per_row = captions_per_row(len(source), len(texts), where, caps_path)

    texts = texts[: _limit(len(texts), split, max_captions)]
    drop_visual, drop_text = size_augmentation and drop_visual, size_augmentation and drop_text
    if kind != "pixels" or not drop_visual:
        num_grids = None
    elif num_grids is None:
        num_grids = backbones.num_grids(backbone, image_side)
    return Split(
        source,
        texts,
        captions_per_row=per_row,
        table=None if tokenizer is None else TokenTable.build(tokenizer, texts),
        ids_path=ids_path,
        num_grids=num_grids,
        drop_visual=drop_visual,
        drop_text=drop_text,
        seed=seed,
    )


def _limit(captions: int, split: str, max_captions: int | None) -> int:
    """Number of captions to use: whole images, at most 5,000 of `dev`."""
    limit = min(captions, LONGEST_DEV) if split == "dev" else captions
    if max_captions is not None:
        limit = min(limit, max_captions)
    if limit < CAPTIONS_PER_IMAGE:
        raise InputError(f"max_captions: expected at least {CAPTIONS_PER_IMAGE}, found {max_captions}")
    return limit // CAPTIONS_PER_IMAGE * CAPTIONS_PER_IMAGE


def _grid_draws(generators: list[np.random.Generator], num_grids: int) -> tuple[Tensor, Tensor]:
    draws = np.empty((len(generators), num_grids + 1))
    for b, rng in enumerate(generators):
        rng.random(out=draws[b])
    return torch.from_numpy(draws[:, :num_grids].copy()), torch.from_numpy(draws[:, num_grids].copy())
