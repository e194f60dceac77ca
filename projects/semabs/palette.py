"""Colours of labels, and the legend that names them on a picture."""

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_FIRST = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988", "#bbbbbb", "#882255",
    "#44aa99", "#999933", "#cc6677", "#332288", "#ddaa33", "#6699cc",
)  # fmt: skip
_GOLDEN = 0.618034  # of the circle of hues: neighbours in the list are far apart


def colours(count: int) -> np.ndarray:
    """`count` colours that differ, uint8 [count, 3]."""
    found = [tuple(bytes.fromhex(text[1:])) for text in _FIRST[:count]]
    for number in range(len(found), count):
        value = 0.55 + 0.35 * ((number // 7) % 2)
        rgb = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.45 + 0.2 * (number % 3), value)
        found.append(tuple(round(255 * part) for part in rgb))
    return np.array(found, np.uint8).reshape(-1, 3)


def css(colour: Sequence[int] | np.ndarray) -> str:
    """A colour as CSS has it."""
    return "#" + bytes(int(part) for part in colour).hex()


def with_legend(rgb: np.ndarray, names: Sequence[str], of_names: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] with a swatch and a name for each colour [n, 3] in its upper left corner."""
    if not names:
        return rgb
    overlay, mask = _legend(tuple(names), of_names.tobytes(), rgb.shape[0], rgb.shape[1])
    return np.where(mask, overlay, rgb)


@cache
def _legend(names: tuple[str, ...], packed: bytes, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the legend [H, W, 3], and which they are [H, W, 1]."""
    from PIL import Image, ImageDraw

    of_names = np.frombuffer(packed, np.uint8).reshape(-1, 3)
    unit = max(8, min(height // 44, height // (2 * len(names) + 2)))
    image, drawn = Image.new("RGB", (width, height), "white"), Image.new("L", (width, height), 0)
    picture, shape = ImageDraw.Draw(image), ImageDraw.Draw(drawn)
    font = _font(unit)
    for row, name in enumerate(names):
        top = unit + round(row * 1.7 * unit)
        corner = (unit, top, 2 * unit, top + unit)
        picture.rectangle(corner, fill=tuple(of_names[row].tolist()))
        shape.rectangle(corner, fill=255)
        text = (round(2.6 * unit), top + unit // 2)
        picture.text(text, name, font=font, fill="#222222", anchor="lm")
        shape.rectangle(shape.textbbox(text, name, font=font, anchor="lm"), fill=255)
    return np.asarray(image), np.asarray(drawn)[..., None] > 0


def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )
