"""Small sets in the released on-disk layout, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shared.files import write_json

_TEXT = "a man woman dog cat rides holds red blue big small ball horse street two people"
WORDS = _TEXT.split()


def write_captions(folder: Path, split: str, captions: Sequence[str]) -> Path:
    path = folder / f"{split}_caps.txt"
    path.write_text("".join(caption + "\n" for caption in captions), encoding="utf-8")
    return path


def make_captions(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(count)]


def write_regions(
    root: Path,
    *,
    split: str = "train",
    num_images: int = 6,
    regions: int = 4,
    dim: int = 8,
    repeated: bool = False,
    dtype: str = "float32",
    seed: int = 0,
) -> tuple[np.ndarray, list[str]]:
    """`precomp/` of a set with region features; returns the unique images' features and the captions."""
    folder = root / "precomp"
    folder.mkdir(parents=True, exist_ok=True)
    features = np.random.default_rng(seed).standard_normal((num_images, regions, dim)).astype(dtype)
    np.save(folder / f"{split}_ims.npy", np.repeat(features, 5, axis=0) if repeated else features)
    captions = make_captions(5 * num_images, seed)
    write_captions(folder, split, captions)
    ids = np.repeat(np.arange(100, 100 + num_images), 5 if repeated else 1)
    (folder / f"{split}_ids.txt").write_text("".join(f"{i}\n" for i in ids))
    return features, captions


def write_images(
    root: Path, *, split: str = "train", num_images: int = 4, seed: int = 0, folder: str = "images"
) -> list[np.ndarray]:
    """A raw-image set of PNG files (lossless: what is read is what was written) of different sizes."""
    (root / "precomp").mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    images = []
    for index in range(num_images):
        image = rng.integers(0, 256, (40 + 3 * index, 50 - 2 * index, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / folder / f"{split}{index}.png")
        images.append(image)
    write_captions(root / "precomp", split, make_captions(5 * num_images, seed))
    (root / "precomp" / f"{split}_ids.txt").write_text("".join(f"{index}\n" for index in range(num_images)))
    write_json(root / "id_mapping.json", {str(index): f"{split}{index}.png" for index in range(num_images)})
    return images
