"""Reading images of any kind as RGB, and refusing damaged ones in one line."""

import io
import os
import warnings
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from shared.errors import InputError

PathLike = str | os.PathLike[str]
MAX_PIXELS = 178_956_970  # where Pillow itself refuses; 537 MB as RGB
_BACKGROUND = 255  # transparent pixels show white


def read_image(path: PathLike, *, exif: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image as uint8 RGB [H, W, 3], a new writable array.

    exif: turn the picture as its EXIF orientation says (what a viewer shows); False gives the stored rows, as
    imageio does, which the released preprocessing used. Gray, palette, CMYK and 16-bit images are converted,
    transparency is laid on white, of an animation the first frame is taken. InputError when the file is
    missing, empty, damaged, not an image, or has more than `max_pixels` pixels.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise InputError(f"{path}: empty file, expected an image")
            return _decode(file, os.fspath(path), exif, max_pixels)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def decode_image(data: bytes, source: str, *, exif: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_image` for the bytes of an image file (a record of a store); `source` names it in errors."""
    if not data:
        raise InputError(f"{source}: empty, expected an image")
    return _decode(io.BytesIO(data), source, exif, max_pixels)


def _decode(file: IO[bytes], source: str, exif: bool, max_pixels: int) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and of damaged metadata
            with Image.open(file) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise InputError(f"{source}: {width} x {height} pixels, at most {max_pixels} are read")
                image.load()
                return np.array(_to_rgb(_upright(image) if exif else image, source))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{source}: too many pixels: {error}") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{source}: not an image that Pillow can read") from None
    except MemoryError:
        raise InputError(f"{source}: not enough memory to decode this image") from None
    except Exception as error:  # decoders meet damaged data with errors of every class
        raise InputError(
            f"{source}: damaged image: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be parsed says nothing about the orientation
        return image


def _to_rgb(image: Image.Image, source: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_integers(image, source).convert("RGB")
    if image.mode == "F":
        raise InputError(f"{source}: floating-point pixels have no defined range, expected 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        flat = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", flat.size, (_BACKGROUND,) * 3 + (255,)), flat).convert(
            "RGB"
        )
    return image.convert("RGB")


def _from_integers(image: Image.Image, source: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"{source}: pixels from {low} to {high}, expected 8 or 16 bits without a sign")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
