"""Index masks as files, and their colours on pictures."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shared.atomic import first_line
from shared.errors import InputError
from shared.files import atomic_write

_INTEGER_MODES = ("L", "P", "1", "I", "I;16")
RELEASED_COLOUR = (0, 128, 128)  # of every class but the background in the released pictures


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Labels of an index image (palette or gray, e.g. PNG), uint8 [H, W].

    InputError when the file is missing, damaged, has colours in place of labels, or a label above 255.
    """
    try:
        content = Path(path).read_bytes()
        known = ("PNG",) if content.startswith(b"\x89PNG") else None  # trying all formats takes longer
        with Image.open(io.BytesIO(content), formats=known) as image:
            if image.mode not in _INTEGER_MODES:
                raise InputError(
                    f"{path}: expected an index mask (palette or gray), found colours ({image.mode})"
                )
            labels = np.array(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such mask") from None
    except InputError:
        raise
    except Exception as error:  # decoders meet damaged data with errors of every class
        raise InputError(f"{path}: not a readable mask: {first_line(error)}") from None
    if labels.dtype != np.uint8 and labels.size and (labels.min() < 0 or labels.max() > 255):
        raise InputError(f"{path}: labels from {labels.min()} to {labels.max()}, expected 0 to 255")
    return labels.astype(np.uint8, copy=False)


def write_mask(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Write labels uint8 [H, W] as a gray PNG whose values are the labels."""
    write_picture(path, labels)


def write_picture(path: str | os.PathLike[str], pixels: np.ndarray, *, quality: int = 92) -> None:
    """Write uint8 pixels ([H, W] or RGB [H, W, 3]) atomically; the ending says PNG or JPEG."""
    content = io.BytesIO()
    if os.fspath(path).lower().endswith((".jpg", ".jpeg")):  # thin outlines need colours at full resolution
        Image.fromarray(pixels).save(content, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(pixels).save(content, "PNG")
    with atomic_write(path) as file:
        file.write(content.getvalue())


def released_colours(classes: int) -> np.ndarray:
    """uint8 [classes, 3]: black background, one colour for all else."""
    return np.array([(0, 0, 0), *[RELEASED_COLOUR] * (classes - 1)], np.uint8)


def voc_colours(classes: int) -> np.ndarray:
    """uint8 [classes, 3]: the palette of Pascal VOC, which spreads the bits of a label over the three channels."""
    labels = np.arange(classes)
    colours = np.zeros((classes, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (labels >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def blend(picture: np.ndarray, labels: np.ndarray, colours: np.ndarray, *, weight: float = 0.7) -> np.ndarray:
    """weight x colour of the label + (1 - weight) x picture everywhere, uint8 [H, W, 3] (released, .7)."""
    mixed = (1 - weight) * picture.astype(np.float32) + weight * colours[labels].astype(np.float32)
    return (mixed + 0.5).astype(np.uint8)  # halves up


def overlay(
    picture: np.ndarray,
    labels: np.ndarray,
    colours: Sequence[Sequence[int]] | np.ndarray,
    *,
    weight: float = 0.5,
) -> np.ndarray:
    """The picture with its concepts tinted and outlined; the background stays as it is. uint8 [H, W, 3]."""
    colours = np.asarray(colours, np.uint8)
    shown = picture.copy()
    concept = labels > 0
    shown[concept] = blend(picture[concept], labels[concept], colours, weight=weight)
    edge = np.zeros_like(concept)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    shown[edge & concept] = colours[labels[edge & concept]]
    return shown
