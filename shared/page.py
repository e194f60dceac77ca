"""HTML pages that need nothing from outside: the style sheet and pictures are inline, and values are escaped."""

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.images import read_image


def data_uri(content: bytes, media_type: str) -> str:
    """A data: address that holds `content`."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def render_page(template: Path, **values: Any) -> str:
    """A jinja2 template as HTML: values escaped, unknown names an error, `style` the shared style sheet."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(style=markupsafe.Markup(style), **values)


def thumbnail(path: str | os.PathLike[str] | None, side: int = 176) -> str | None:
    """A small JPEG, at most `side` pixels high and wide, as a data: address; None without a readable picture."""
    if path is None:
        return None
    try:
        return thumbnail_of(read_image(path), side)
    except InputError:
        return None


def thumbnail_of(image: np.ndarray, side: int = 176) -> str:
    """`thumbnail` of uint8 RGB pixels [H, W, 3]."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return data_uri(encoded.tobytes(), "image/jpeg")
