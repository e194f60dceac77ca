"""What a user searches in: a folder of pictures, a file of region features, or a split of a data set.

B: batch   N: regions   D: feature dimensions   S: image side
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from projects.vseinfty.data import Split
from projects.vseinfty.images import ImageFiles, preprocess
from projects.vseinfty.precomp import RegionFile
from shared.data import BatchPlan
from shared.errors import InputError
from shared.files import read_image, read_lines
from shared.index import Item

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass
class Chunk:
    """A batch of what could be read, and what could not."""

    images: Tensor  # [B, N, D] float32 regions | [B, 3, S, S] float32 pixels
    lengths: Tensor | None  # [B] int64 for regions
    positions: Tensor  # [B] int64
    failures: list[tuple[int, str]]


class Pictures:
    """Image files, read upright as a viewer shows them (released preprocessing otherwise)."""

    def __init__(self, folder: Path, names: Sequence[str], *, side: int, backbone: str) -> None:
        self.side, self.backbone = side, backbone
        self.files = [folder / name for name in names]
        self.items = [Item(printable_name(name), _mark(folder / name)) for name in names]

    def picture(self, position: int) -> Path | None:
        """The file to show for an item."""
        return self.files[position]

    def note(self, position: int) -> str:
        """A line to show with an item."""
        return ""

    def fetch(self, plan: BatchPlan) -> Chunk:
        """Read and preprocess the pictures `plan.indices`; damaged ones come back as failures."""
        pixels, read, failures = [], [], []
        for position in plan.indices.tolist():
            try:
                image = read_image(self.files[position])
                pixels.append(preprocess(image, self.side, backbone=self.backbone))
                read.append(position)
            except InputError as error:
                failures.append((position, printable_name(str(error))))
        shape = (0, 3, self.side, self.side)
        images = torch.from_numpy(np.stack(pixels) if pixels else np.empty(shape, np.float32))
        return Chunk(images, None, torch.tensor(read, dtype=torch.int64), failures)


class Features:
    """Rows of a file of region features [n, N, D], each with a name, perhaps that of a picture."""

    def __init__(
        self,
        file: RegionFile,
        names: Sequence[str],
        *,
        pictures: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.file, self.pictures, self.notes = file, pictures, notes
        mark = _mark(file.path)
        # the row is part of the mark: equal names are different items
        self.items = [Item(name, f"{mark}:{row}") for row, name in enumerate(names)]

    def picture(self, position: int) -> Path | None:
        """The picture that belongs to a row, where there is one."""
        if self.pictures is None:
            return None
        path = self.pictures / self.items[position].name
        return path if path.is_file() else None

    def note(self, position: int) -> str:
        """A line to show with a row."""
        return self.notes[position] if self.notes else ""

    def fetch(self, plan: BatchPlan) -> Chunk:
        """Rows `plan.indices`, zero-padded."""
        features, lengths = self.file.fetch(plan.indices)
        positions = torch.from_numpy(plan.indices.astype(np.int64))
        return Chunk(torch.from_numpy(features), torch.from_numpy(lengths), positions, [])


class SplitImages:
    """The unique images of a split; a caption of each is shown with it."""

    def __init__(self, split: Split, name: str) -> None:
        self.split, self.source = split, split.source
        rows = split.image_rows(np.arange(split.num_images)).tolist()
        if isinstance(self.source, ImageFiles):
            self.files: list[Path] | None = [self.source.paths[row] for row in rows]
            marks = [_mark(path) for path in self.files]
        else:
            self.files = None
            marks = [f"{_mark(self.source.path)}:{row}" for row in rows]
        self.items = [Item(f"{name} image {i}", mark) for i, mark in enumerate(marks)]

    def picture(self, position: int) -> Path | None:
        """The image file, for splits of raw images."""
        return self.files[position] if self.files else None

    def note(self, position: int) -> str:
        """The first caption of an image."""
        return self.split.texts[position * (self.split.num_captions // self.split.num_images)]

    def fetch(self, plan: BatchPlan) -> Chunk:
        """Images `plan.indices` as in evaluation."""
        batch = self.split.fetch_images(plan)
        return Chunk(batch.images, batch.image_lengths, batch.indices, [])


Source = Pictures | Features | SplitImages


def open_pictures(folder: Path, *, side: int, backbone: str) -> Pictures:
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
    return Pictures(folder, sorted(names), side=side, backbone=backbone)


def picture_list(paths: Sequence[Path], *, side: int, backbone: str) -> Pictures:
    """Single pictures, each with its own path. InputError when one is not there."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"query_image: {path}: no such picture")
    return Pictures(Path("/"), [str(path.absolute()) for path in paths], side=side, backbone=backbone)


def open_features(
    path: Path, names: Path | None, *, image_dim: int, pictures: Path | None = None
) -> Features:
    """Region features, a line of `names` per row (default: row numbers). InputError when they do not fit."""
    file = RegionFile(path, image_dim=image_dim)
    if pictures is not None and not pictures.is_dir():
        raise InputError(f"pictures: {pictures}: no such folder")
    listed = [line.strip() for line in read_lines(names)] if names else [f"row {i}" for i in range(len(file))]
    if len(listed) != len(file):
        raise InputError(
            f"names: {names}: expected {len(file)} lines, one per row of {path}, found {len(listed)}"
        )
    return Features(file, listed, pictures=pictures)


def read_texts(path: Path, field: str) -> list[str]:
    """The lines of a text file that are not blank. InputError when there is none."""
    texts = [line.strip() for line in read_lines(path) if line.strip()]
    if not texts:
        raise InputError(f"{field}: {path}: expected a line of text, found none")
    return texts


def printable_name(name: str) -> str:
    """A file's name that can be written as UTF-8 (its bytes may be anything)."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _mark(path: Path) -> str:
    """Size and time of change of a file."""
    try:
        found = path.stat()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{found.st_size}-{found.st_mtime_ns}"
