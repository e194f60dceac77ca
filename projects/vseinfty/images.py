"""Raw images -> pixels for the grid encoders (spec section 4), and the list of a split's image files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from shared.errors import InputError
from shared.files import read_image, read_json

DETECTOR_MEANS = np.array([102.9801, 115.9465, 122.7717], np.float32)  # B, G, R of 0-255; no deviation
IMAGENET_MEANS = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATIONS = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class Draws:
    """The training draws of one image: crop size, corner, and flip."""

    crop: float  # uniform; the crop has 0.6 + 0.4 * crop of either side
    x: int
    y: int
    flip: float  # uniform; > 0.5 mirrors


def crop_size(height: int, width: int, crop: float) -> tuple[int, int]:
    """Height and width of the training crop, at least one pixel."""
    ratio = 0.6 + 0.4 * crop
    return max(1, int(height * ratio)), max(1, int(width * ratio))


def draw(rng: np.random.Generator, height: int, width: int) -> Draws:
    """The draws in the released order: size, x, y (upper bounds exclusive; no draw without slack), flip."""
    crop = rng.random()
    crop_height, crop_width = crop_size(height, width, crop)
    x = int(rng.integers(width - crop_width)) if width > crop_width else 0
    y = int(rng.integers(height - crop_height)) if height > crop_height else 0
    return Draws(crop, x, y, rng.random())


def preprocess(image: np.ndarray, side: int, *, backbone: str, draws: Draws | None = None) -> np.ndarray:
    """One image stretched to a square and normalised as its CNN expects.

    Args:
        image: uint8 [H, W, 3] RGB, or [H, W] gray.
        side: S in pixels; the aspect ratio is not kept.
        backbone: "detector" gives BGR of 0-255 minus means, every other CNN the ImageNet normalisation.
        draws: training crop and flip; None = the whole image.

    Returns:
        float32 [3, S, S].
    """
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if draws is not None:
        height, width = crop_size(image.shape[0], image.shape[1], draws.crop)
        image = image[draws.y : draws.y + height, draws.x : draws.x + width]
    # Float before resizing, no antialiasing, half-pixel centres: what the released weights were trained on.
    pixels = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    if draws is not None and draws.flip > 0.5:
        pixels = pixels[:, ::-1]
    out = np.empty((3, side, side), np.float32)
    for channel, plane in enumerate(
        out
    ):  # plane by plane: several times as fast as all at once and transposed
        if backbone == "detector":
            np.subtract(pixels[:, :, 2 - channel], DETECTOR_MEANS[channel], out=plane)
        else:
            np.divide(pixels[:, :, channel], np.float32(255), out=plane)
            plane -= IMAGENET_MEANS[channel]
            plane /= IMAGENET_DEVIATIONS[channel]
    return out


class ImageFiles:
    """The image files of a split, read and preprocessed on request."""

    def __init__(self, paths: Sequence[Path], *, side: int, backbone: str):
        if side < 32:
            raise InputError(f"image_side: expected at least 32 pixels, found {side}")
        self.paths = list(paths)
        self.side, self.backbone = side, backbone

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, rows: np.ndarray, generators: Sequence[np.random.Generator] | None = None) -> np.ndarray:
        """Pixels [B, 3, S, S] float32; with generators each image is cropped and flipped by its own one."""
        out = np.empty((len(rows), 3, self.side, self.side), np.float32)
        for b, row in enumerate(rows):
            image = read_image(self.paths[row], exif=False)  # the released reader ignores the orientation tag
            draws = None if generators is None else draw(generators[b], image.shape[0], image.shape[1])
            out[b] = preprocess(image, self.side, backbone=self.backbone, draws=draws)
        return out


def image_folder(root: Path, name: str) -> Path:
    """Where a set keeps its images: `images/` (coco and others) or `flickr30k-images/` (f30k)."""
    flickr = "coco" not in name and ("f30k" in name or "flickr" in name)
    return root / ("flickr30k-images" if flickr else "images")


def read_id_mapping(path: Path) -> dict[str, str]:
    """`id_mapping.json`: image id as a string -> path relative to the image folder.

    Raises:
        InputError: the file is missing or malformed, or a path leaves the image folder.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; raw images need it (image id -> path in the image folder)")
    mapping = read_json(path)
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise InputError(f"{path}: expected an object of image id -> relative path, found something else")
    for image_id, relative in mapping.items():
        if Path(relative).is_absolute() or ".." in Path(relative).parts:
            raise InputError(
                f"{path}: id {image_id!r}: expected a path in the image folder, found {relative!r}"
            )
    return mapping


def image_paths(ids: Sequence[str], *, root: Path, name: str, ids_path: Path) -> list[Path]:
    """Files of image ids; InputError names the first id without an entry in the mapping."""
    mapping_path = root / "id_mapping.json"
    mapping = read_id_mapping(mapping_path)
    absent = [(line, image_id) for line, image_id in enumerate(ids, start=1) if image_id not in mapping]
    if absent:
        line, image_id = absent[0]
        raise InputError(
            f"{mapping_path}: no entry for id {image_id!r} ({ids_path} line {line}; {len(absent)} ids absent)"
        )
    folder = image_folder(root, name)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such image folder")
    return [folder / mapping[image_id] for image_id in ids]
