"""The test of a trained generator, as released: images to files, files to embeddings, embeddings to ranks.

N: recipes of the split   D: joint space   S: side of the image
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from projects.xmrs import decode, embeddings, gan_data, recipe1m, recipe_text, synthesis
from projects.xmrs.frozen_encoder import FrozenEncoder, features
from projects.xmrs.gan_data import GanSplit
from projects.xmrs.generator import Generator
from projects.xmrs.images import read_photo
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.tokens import LANGUAGES
from shared.errors import InputError
from shared.files import atomic_write
from shared.runtime import Runtime

COLLATED, ZERO_NOISE, EMBEDDED = "GAN_generated_collated", "GAN_zero_noise", "GAN_zero_noise_embeddings"
EMBEDDINGS_FILE = "img_embed.npz"


@dataclass(frozen=True)
class Subject:
    """A trained generator, what judges it, and the recipes it is tried on.

    Attributes:
        name: of the model, in file names.
        generator, encoder, split: as their classes say.
        recipes: texts by recipe id; empty where there is no layer1.json.
        runtime: device and precision.
        seed: of the noise.
        batch_size: images at a time.
        legacy_blue: save with the released code's deviation of blue.
    """

    name: str
    generator: Generator
    encoder: FrozenEncoder
    split: GanSplit
    recipes: dict[str, Recipe]
    runtime: Runtime
    seed: int
    batch_size: int
    legacy_blue: bool = False

    @property
    def ids(self) -> list[str]:
        """Recipe ids of the split."""
        return self.split.split.ids

    def stem(self, row: int) -> str:
        """File name of a recipe without its ending: `<id>-<title>`, or the id where no title is known."""
        name = self.ids[row]
        return recipe_text.file_stem(self.recipes[name]) if name in self.recipes else name

    def picture(self, image: Tensor) -> Image.Image:
        """An image as it is saved."""
        return decode.to_picture(image, legacy_blue=self.legacy_blue)

    def photo(self, row: int) -> Image.Image:
        """The real image of a recipe, as the GAN sees it."""
        return decode.to_picture(self.split.real_image(row), autocontrast=False)


def read_recipes(folder: str | Path | None, ids: Sequence[str], language: int = 0) -> dict[str, Recipe]:
    """The texts of recipes, from the layer1.json (of a language) in a folder; {} without that file."""
    if folder is None or not recipe1m.layer_path(Path(folder), LANGUAGES[language]).is_file():
        return {}
    return {recipe.id: recipe for recipe in recipe_text.find_recipes(Path(folder), ids, LANGUAGES[language])}


def write_collated(folder: Path, subject: Subject, rows: np.ndarray) -> None:
    """A folder per recipe with its synthesised image (random noise), its photo and its text.

    Args:
        folder: gets GAN_generated_collated/<stem>/{<model>.jpg,image.jpg,full_recipe.txt}.
        subject: the model and the recipes.
        rows: which of them.
    """
    made = synthesis.batches(
        subject.generator, subject.split.recipes, rows=rows, seed=subject.seed, batch_size=subject.batch_size
    )
    for chosen, images in made:
        for row, image in zip(chosen.tolist(), images, strict=True):
            place = folder / COLLATED / subject.stem(row)
            decode.save_jpeg(place / f"{subject.name}.jpg", subject.picture(image))
            decode.save_jpeg(place / "image.jpg", subject.photo(row))
            recipe = subject.recipes.get(subject.ids[row])
            if recipe is not None:
                with atomic_write(place / "full_recipe.txt", "w") as file:
                    file.write(recipe_text.as_text(recipe))


def write_zero_noise(folder: Path, subject: Subject) -> list[Path]:
    """The image of every recipe without noise (z = 0): GAN_zero_noise/<model>/<stem>.jpg; the files in order."""
    paths = [
        folder / ZERO_NOISE / subject.name / f"{subject.stem(row)}.jpg" for row in range(len(subject.ids))
    ]
    made = synthesis.batches(
        subject.generator,
        subject.split.recipes,
        seed=subject.seed,
        zero_noise=True,
        batch_size=subject.batch_size,
    )
    for rows, images in made:
        for row, image in zip(rows.tolist(), images, strict=True):
            decode.save_jpeg(paths[row], subject.picture(image))
    return paths


def embed_files(folder: Path, subject: Subject, paths: Sequence[Path]) -> np.ndarray:
    """E of saved images, in the order of the split: [N, D]; also written to GAN_zero_noise_embeddings/.

    As released, through the JPEG files: their compression and stretched contrast are part of what is judged.
    Which recipe a file belongs to is read off its name.
    """
    rows = {name: row for row, name in enumerate(subject.ids)}
    found = np.empty((len(rows), subject.generator.embed_dim), np.float32)
    for part in _chunks(paths, subject.batch_size):
        photos = []
        for path in part:
            photo, reason = read_photo(path)
            if reason is not None:
                raise InputError(reason)
            photos.append(photo)
        places = [rows[recipe_text.id_of_file(path.name)] for path in part]
        found[places] = embed_pictures(subject, photos)
    embeddings.save(folder / EMBEDDED / EMBEDDINGS_FILE, subject.ids, found)
    return found


def embed_pictures(subject: Subject, pictures: Sequence[Image.Image]) -> np.ndarray:
    """E of pictures of equal size, enlarged as the released test enlarges saved images: [n, D]."""
    pixels = torch.stack([gan_data.resized(picture, subject.encoder.side) for picture in pictures])
    with subject.runtime.autocast():
        found = features(subject.encoder, pixels.to(subject.runtime.device))
    embedded: np.ndarray = found.cpu().numpy()
    return embedded


def embed_recipes(subject: Subject, recipes: np.ndarray, *, jpeg: bool = True) -> np.ndarray:
    """E of images made from recipe embeddings [N, D] without noise, with JPEGs in memory: [N, D].

    jpeg: False embeds the generator's output itself.
    """
    made = synthesis.batches(
        subject.generator, recipes, seed=subject.seed, zero_noise=True, batch_size=subject.batch_size
    )
    return np.concatenate([embed_images(subject, images, jpeg=jpeg) for _, images in made])


def embed_images(subject: Subject, images: Tensor, *, jpeg: bool = True) -> np.ndarray:
    """E of normalised images [n, 3, S, S], as saved pictures or as they are: [n, D]."""
    if jpeg:
        return embed_pictures(subject, [through_jpeg(subject.picture(image)) for image in images])
    with subject.runtime.autocast():
        found = features(subject.encoder, images.to(subject.runtime.device))
    embedded: np.ndarray = found.cpu().numpy()
    return embedded


def through_jpeg(picture: Image.Image) -> Image.Image:
    """What is left of a picture after it was saved."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=decode.JPEG_QUALITY)
    content.seek(0)
    return Image.open(content).convert("RGB")


def class_means(train: GanSplit, classes: Iterable[int]) -> dict[int, Tensor]:
    """The mean training photo [3, S, S] of each class; of a class without photos the mean of all."""
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for row in range(len(train)):
        label = train.split.store.entry(row).class_index
        image = train.real_image(row)
        sums[label] = sums[label] + image if label in sums else image
        counts[label] = counts.get(label, 0) + 1
    everything = torch.stack(list(sums.values())).sum(0) / sum(counts.values())
    return {label: sums[label] / counts[label] if label in sums else everything for label in set(classes)}


def embed_class_means(subject: Subject, train: GanSplit, *, jpeg: bool = True) -> np.ndarray:
    """E of the mean training photo of each recipe's class, [N, D]: what needs no generator."""
    store = subject.split.split.store
    labels = [store.entry(row).class_index for row in range(len(subject.ids))]
    means = class_means(train, labels)
    at = {label: place for place, label in enumerate(means)}
    found = np.concatenate([embed_images(subject, mean[None], jpeg=jpeg) for mean in means.values()])
    return found[[at[label] for label in labels]]


def fake_batches(subject: Subject) -> Iterator[Tensor]:
    """uint8 [B, 3, S, S] of every recipe, with random noise, as they are (no contrast, no JPEG)."""
    made = synthesis.batches(
        subject.generator, subject.split.recipes, seed=subject.seed, batch_size=subject.batch_size
    )
    for _, images in made:
        yield torch.from_numpy(decode.to_pixels(images)).movedim(-1, 1)


def real_batches(subject: Subject) -> Iterator[Tensor]:
    """uint8 [B, 3, S, S] of the real image of every recipe."""
    for rows in _chunks(range(len(subject.ids)), subject.batch_size):
        images = torch.stack([subject.split.real_image(row) for row in rows])
        yield torch.from_numpy(decode.to_pixels(images)).movedim(-1, 1)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
