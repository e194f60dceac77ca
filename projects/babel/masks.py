"""Index masks as files, and their colours on pictures."""

import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from shared.atomic import first_line
from shared.errors import InputError
from shared.files import atomic_write

_INTEGER_MODES = ("L", "P", "1", "I", "I;16")
_PNG = b"\x89PNG\r\n\x1a\n"
_GRAY_BYTES = bytes(
    [8, 0, 0, 0, 0]
)  # of a PNG's header: 8 bits, gray, deflate, usual filters, not interlaced
RELEASED_COLOUR = (0, 128, 128)  # of every class but the background in the released pictures


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Labels of an index image (palette or gray, e.g. PNG), uint8 [H, W].

    InputError when the file is missing, damaged, has colours in place of labels, or a label above 255.
    """
    try:
        content = Path(path).read_bytes()
        labels = _gray_png(content)
        if labels is not None:
            return labels
        known = ("PNG",) if content.startswith(_PNG) else None  # trying all formats takes longer
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


def _gray_png(content: bytes) -> np.ndarray | None:
    """Labels uint8 [H, W] of an undamaged PNG of gray bytes, three times as fast as Pillow; None for other content."""
    if not (content.startswith(_PNG) and content[24:29] == _GRAY_BYTES and _checksums_hold(content)):
        return None  # Pillow reads it, or says what is wrong
    labels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return labels if labels is not None and labels.ndim == 2 and labels.dtype == np.uint8 else None


def _checksums_hold(png: bytes) -> bool:
    """Whether the chunks of a PNG are whole, up to its end: OpenCV would complain on stderr."""
    start = len(_PNG)
    while start + 12 <= len(png):
        end = start + 8 + int.from_bytes(png[start : start + 4], "big")
        if zlib.crc32(png[start + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            return False
        if png[start + 4 : start + 8] == b"IEND":
            return True
        start = end + 4
    return False


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
