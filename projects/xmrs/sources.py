"""What is searched and asked: pictures of a folder, recipes of files, or the pairs of a split.

S: image side
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from projects.xmrs import images, text_draws, user_recipes, words
from projects.xmrs.data import NO_IMAGE, Split
from projects.xmrs.recipe1m import Recipe
from projects.xmrs.tokens import PARTS, Tokenizer, encode_recipes
from shared.data import BatchPlan
from shared.errors import InputError
from shared.files import read_image
from shared.index import Item

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_AT_ONCE = 512  # recipes that go to the tokenizer together


@dataclass
class PictureChunk:
    """Pictures that could be read, and those that could not."""

    images: Tensor  # [B, 3, S, S] float32
    positions: Tensor  # [B] int64
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class Texts:
    """How recipes become token ids at evaluation: see `data.DataSet`."""

    parts: tuple[str, ...]
    max_tokens: int


class Pictures:
    """Image files, read upright as a viewer shows them."""

    def __init__(self, folder: Path, names: Sequence[str], *, side: int, resize: int) -> None:
        self.side, self.resize = side, resize
        self.files = [folder / name for name in names]
        self.names = [printable(name) for name in names]

    @cached_property
    def items(self) -> list[Item]:
        """For an index: a file changes when its size or time does."""
        return [Item(name, _mark(file)) for name, file in zip(self.names, self.files, strict=True)]

    def file(self, position: int) -> Path | None:
        """The file to show."""
        return self.files[position]

    def note(self, position: int) -> str:
        """A line to show with a picture."""
        return ""

    def fetch(self, plan: BatchPlan) -> PictureChunk:
        """The pictures `plan.indices`, prepared as in evaluation."""
        return _fetch(plan, self._photo, self.side, self.resize)

    def _photo(self, position: int) -> Image.Image:
        return Image.fromarray(read_image(self.files[position]))


class SplitPictures:
    """The first picture of each recipe of a split."""

    def __init__(self, split: Split, pieces: Sequence[str]) -> None:
        self.split, self.pieces = split, pieces
        self.side, self.resize = split.reading.side, split.reading.resize
        self.names = split.ids

    @cached_property
    def items(self) -> list[Item]:
        """For an index: a picture changes when its file does."""
        return [Item(name, _mark(self.split.picture(i))) for i, name in enumerate(self.names)]

    def file(self, position: int) -> Path | None:
        """The file to show, where the recipe has one."""
        return self.split.picture(position)

    def note(self, position: int) -> str:
        """The title of the picture's own recipe."""
        return stored_recipe(self.split, position, self.pieces).title

    def fetch(self, plan: BatchPlan) -> PictureChunk:
        """The pictures `plan.indices`, as in evaluation."""
        return _fetch(plan, self._photo, self.side, self.resize)

    def _photo(self, position: int) -> Image.Image:
        path = self.split.picture(position)
        if path is None:
            raise InputError(f"recipe {self.split.ids[position]}: {NO_IMAGE}")
        photo, reason = images.read_photo(path)
        if reason is not None:
            raise InputError(reason)
        return photo


class UserRecipes:
    """Recipes of files."""

    def __init__(self, recipes: Iterable[Recipe], tokenizer: Tokenizer, texts: Texts) -> None:
        self.recipes = list(recipes)
        self.texts, self.tokenizer = texts, tokenizer
        self.names = [printable(one.id) for one in self.recipes]

    @cached_property
    def items(self) -> list[Item]:
        """For an index: a recipe changes when its text does."""
        return [Item(name, _text_mark(one)) for name, one in zip(self.names, self.recipes, strict=True)]

    def recipe(self, position: int) -> Recipe:
        """What to show."""
        return self.recipes[position]

    def tokens(self, positions: Sequence[int]) -> tuple[list[np.ndarray], list[tuple[int, str]]]:
        """Token ids [n] of those that have a text, in order; and (position, why) of the others."""
        found: list[np.ndarray] = []
        failures: list[tuple[int, str]] = []
        for start in range(0, len(positions), _AT_ONCE):
            part = [int(position) for position in positions[start : start + _AT_ONCE]]
            stored = encode_recipes(self.tokenizer, [self.recipes[position] for position in part])
            for position, (row, lengths) in zip(part, stored, strict=True):
                recipe = self.recipes[position]
                if not user_recipes.has_text(recipe) or not _read(lengths, self.texts.parts):
                    failures.append(
                        (position, f"recipe {printable(recipe.id)!r}: no text in {self._parts()}")
                    )
                    continue
                found.append(
                    text_draws.evaluation_ids(
                        row, lengths, self.texts.parts, max_tokens=self.texts.max_tokens
                    )
                )
        return found, failures

    def _parts(self) -> str:
        return ", ".join(self.texts.parts)


class SplitRecipes:
    """The recipes of a split, in its language."""

    def __init__(self, split: Split, pieces: Sequence[str]) -> None:
        self.split, self.pieces = split, pieces
        self.names = split.ids

    @cached_property
    def items(self) -> list[Item]:
        """For an index: a recipe changes when its tokens do."""
        self.split.recipe_lengths()  # reads all texts once
        return [Item(name, _digest(self.split.tokens(i).tobytes())) for i, name in enumerate(self.names)]

    def recipe(self, position: int) -> Recipe:
        """What to show: the words that the stored tokens tell."""
        return stored_recipe(self.split, position, self.pieces)

    def tokens(self, positions: Sequence[int]) -> tuple[list[np.ndarray], list[tuple[int, str]]]:
        """Token ids [n] of each."""
        return [self.split.tokens(int(position)) for position in positions], []


PictureSource = Pictures | SplitPictures
RecipeSource = UserRecipes | SplitRecipes


def open_pictures(folder: Path, *, side: int, resize: int) -> Pictures:
    """All pictures below `folder`. InputError when there is no folder or no picture."""
    if not folder.is_dir():
        raise InputError(f"images: {folder}: no such folder")
    names = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        names += [
            os.path.relpath(os.path.join(place, f), folder) for f in files if f.lower().endswith(SUFFIXES)
        ]
    if not names:
        raise InputError(f"images: {folder}: no pictures found (looked for {' '.join(SUFFIXES)})")
    return Pictures(folder, sorted(names), side=side, resize=resize)


def picture_list(paths: Sequence[Path], *, side: int, resize: int) -> Pictures:
    """Single pictures, each with its own path. InputError when one is not there."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"picture: {path}: no such picture")
    return Pictures(Path("/"), [str(path.absolute()) for path in paths], side=side, resize=resize)


def stored_recipe(split: Split, position: int, pieces: Sequence[str]) -> Recipe:
    """A recipe of a split in the split's language, put together from its tokens."""
    entry, language = split.store.entry(position), split.reading.language
    row, lengths = entry.rows[language], entry.lengths[language]
    return words.recipe_of(row, lengths, pieces, name=split.ids[position], partition=split.name)


def printable(name: str) -> str:
    """A name that can be written as UTF-8 and to a terminal (the bytes of a file's name may be anything)."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _fetch(plan: BatchPlan, photo: Callable[[int], Image.Image], side: int, resize: int) -> PictureChunk:
    pixels, read, failures = [], [], []
    for position in plan.indices.tolist():
        try:
            pixels.append(images.evaluation_image(photo(position), side=side, resize=resize))
            read.append(position)
        except InputError as error:
            failures.append((position, printable(str(error))))
    stacked = torch.stack(pixels) if pixels else torch.empty(0, 3, side, side)
    return PictureChunk(stacked, torch.tensor(read, dtype=torch.int64), failures)


def _read(lengths: np.ndarray, parts: Sequence[str]) -> bool:
    """Whether one of the parts has tokens."""
    return any(lengths[PARTS.index(part)] > 0 for part in parts)


def _mark(path: Path | None) -> str:
    """Size and time of change of a file."""
    if path is None:
        return NO_IMAGE
    try:
        found = path.stat()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{found.st_size}-{found.st_mtime_ns}"


def _text_mark(recipe: Recipe) -> str:
    return _digest(repr((recipe.title, recipe.ingredients, recipe.instructions)).encode("utf-8", "replace"))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
