"""What synthesis trains on: photos with the embeddings of their pairs, classes, and noise.

B: batch   S: side of the generator's image   D: joint space   Z: noise   C: condition
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from projects.xmrs import embeddings, encoding
from projects.xmrs.data import Split
from projects.xmrs.embeddings import Embedded
from projects.xmrs.images import normalized
from projects.xmrs.model import FoodSpaceNet
from shared.data import BatchPlan, item_generator
from shared.errors import InputError
from shared.runtime import Runtime, barrier, gather_objects


@dataclass
class GanBatch:
    """A training batch; row i of everything belongs to one recipe."""

    images: Tensor  # [B, 3, S, S] float32, normalised
    image_embeddings: Tensor  # [B, D] of the recipe's first photo, whichever photo was drawn
    recipe_embeddings: Tensor  # [B, D]
    classes: Tensor  # [B] int64; 0 = background
    noise: Tensor  # [B, Z] standard normal
    draws: Tensor  # [B, C] standard normal, of the conditioning augmentation
    indices: Tensor  # [B] int64, in the split


class GanSplit:
    """The pairs of one split for the GAN, in the order of its keys file.

    Args:
        split: photos and classes; its `reading` gives the crop and the resized side.
        embedded: embeddings of (at least) its recipes, in any order.
        side: S.
        noise_dim, condition_dim: Z and C.
        seed: of all draws.
        num_classes: classes of training must be below it.

    Raises:
        InputError: a recipe of the split without an embedding.
    """

    def __init__(
        self,
        split: Split,
        embedded: Embedded,
        *,
        side: int,
        noise_dim: int,
        condition_dim: int,
        seed: int,
        num_classes: int | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.split, self.side, self.seed = split, side, seed
        self.sizes = noise_dim, condition_dim
        self.images, self.recipes = rows_of(embedded, split)

    def __len__(self) -> int:
        return len(self.split)

    def fetch_train(self, plan: BatchPlan) -> GanBatch:
        """Photos with drawn crop, and noise; every pair from its own generator (seed, epoch, index)."""
        indices = np.asarray(plan.indices, np.int64)
        how = self.split.reading
        pixels = torch.empty(len(indices), 3, self.side, self.side)
        drawn = np.empty((len(indices), sum(self.sizes)), np.float32)
        classes = np.empty(len(indices), np.int64)
        for b, index in enumerate(indices.tolist()):
            rng, entry = item_generator(self.seed, plan.epoch, index), self.split.store.entry(index)
            choices = min(how.max_images, len(entry.images))
            photo = self.split.photo(index, int(rng.integers(choices)) if choices else 0)
            cropped = training_crop(photo, rng, side=how.side, resize=how.resize)
            pixels[b] = to_side(cropped, self.side)
            rng.standard_normal(out=drawn[b], dtype=np.float32)
            classes[b] = self._class_of(index, entry.class_index)
        noise, draws = torch.from_numpy(drawn).split(self.sizes, 1)
        return GanBatch(
            pixels,
            torch.from_numpy(self.images[indices]),
            torch.from_numpy(self.recipes[indices]),
            torch.from_numpy(classes),
            noise.contiguous(),
            draws.contiguous(),
            torch.from_numpy(indices),
        )

    def _class_of(self, index: int, found: int) -> int:
        if self.num_classes is not None and found >= self.num_classes:
            name = self.split.ids[index]
            raise InputError(
                f"num_classes: recipe {name} is of class {found}, expected less than {self.num_classes}"
            )
        return found

    def real_image(self, index: int) -> Tensor:
        """The first photo as the GAN sees it at evaluation: centre crop, float32 [3, S, S]."""
        how = self.split.reading
        return to_side(evaluation_crop(self.split.photo(index), side=how.side, resize=how.resize), self.side)


def rows_of(embedded: Embedded, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Image and recipe embeddings [N, D] in the order of the split."""
    if embedded.recipes is None:
        raise InputError("the embeddings hold no recipes (rec_embeds)")
    if list(embedded.ids) == list(split.ids):
        return embedded.images, embedded.recipes
    at = {name: row for row, name in enumerate(embedded.ids)}
    missing = [name for name in split.ids if name not in at]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(split)} recipes of the {split.name} split have no embedding "
            f"(the first is {missing[0]}): they were made of other data"
        )
    rows = np.array([at[name] for name in split.ids], np.int64)
    return np.ascontiguousarray(embedded.images[rows]), np.ascontiguousarray(embedded.recipes[rows])


def load_or_make(
    folders: list[Path],
    split: Split,
    model: FoodSpaceNet | None,
    checkpoint: str,
    runtime: Runtime,
    *,
    dim: int,
    batch_size: int,
    workers: int | None,
) -> Embedded:
    """The embeddings of a split.

    Args:
        folders: where `eval.py` may have written them; made and kept in the last one where there are none.
        split: the pairs; its language is that of the texts.
        model, checkpoint: the retrieval model (None: cannot be made), and the file name of its weights.
        dim: D.
        batch_size, workers: for encoding.

    Raises:
        InputError: a file that is damaged or has embeddings of another D; no file and no model.
    """
    language = split.reading.language
    found = gather_objects(_newest(folders, split.name, language))[0]
    if found is None:
        if model is None:
            embeddings.find(folders[0], split.name, language)  # tells what is missing
        assert model is not None
        how = {"batch_size": batch_size, "workers": workers}
        images = encoding.encode_images(model, split, runtime, label=f"images of {split.name}", **how)  # type: ignore[arg-type]
        recipes = encoding.encode_recipes(model, split, runtime, label=f"recipes of {split.name}", **how)  # type: ignore[arg-type]
        found = folders[-1] / embeddings.file_name(folders[0], checkpoint, split.name, language)
        if runtime.is_main:
            embeddings.save(found, split.ids, images, recipes)
        barrier()
    return embeddings.load(found, dim=dim)


def _newest(folders: list[Path], partition: str, language: int) -> Path | None:
    for folder in folders:
        try:
            return embeddings.find(folder, partition, language)
        except InputError:
            continue
    return None


def training_crop(
    photo: Image.Image, rng: np.random.Generator, *, side: int = 224, resize: int = 256
) -> Image.Image:
    """The shorter side resized, a random crop, mirrored half of the time."""
    photo = _shorter_side(photo, resize)
    left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
    photo = photo.crop((left, top, left + side, top + side))
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else photo


def evaluation_crop(photo: Image.Image, *, side: int = 224, resize: int = 256) -> Image.Image:
    """The shorter side resized, and the middle of the photo."""
    photo = _shorter_side(photo, resize)
    left, top = (round((length - side) / 2) for length in photo.size)
    return photo.crop((left, top, left + side, top + side))


def to_side(photo: Image.Image, side: int) -> Tensor:
    """Normalised pixels [3, side, side] of a square photo."""
    if photo.size != (side, side):
        photo = photo.resize((side, side), Image.Resampling.BILINEAR)
    return normalized(np.asarray(photo))


def resized(photo: Image.Image, side: int) -> Tensor:
    """A saved picture at the image encoder's side, without a crop: [3, ...], shorter side = `side`."""
    return normalized(np.asarray(_shorter_side(photo, side)))


def _shorter_side(photo: Image.Image, length: int) -> Image.Image:
    width, height = photo.size
    short = min(width, height)
    if short == length:
        return photo
    size = tuple(length if one == short else int(length * one / short) for one in (width, height))
    return photo.resize((size[0], size[1]), Image.Resampling.BILINEAR)


def num_classes(split: Split) -> int:
    """One more than the largest class of a split; reads every recipe of it."""
    return 1 + max(split.store.entry(index).class_index for index in range(len(split)))
