"""HTML pages: escaped, complete in themselves, with small pictures inside."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from shared import page


def decoded(address: str | None) -> Image.Image:
    assert address is not None
    head, _, content = address.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize(
    ("size", "expected"), [((400, 200), (100, 50)), ((30, 3000), (1, 100)), ((8, 6), (8, 6))]
)
def test_a_thumbnail_keeps_the_shape_and_never_grows(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    Image.new("RGB", size, (200, 30, 60)).save(tmp_path / "a.png")
    found = decoded(page.thumbnail(tmp_path / "a.png", 100))
    assert found.size == expected
    assert np.abs(np.asarray(found, int).mean((0, 1)) - (200, 30, 60)).max() < 6  # RGB, not BGR


def test_pixels_become_a_thumbnail() -> None:
    pixels = np.zeros((20, 10, 3), np.uint8)
    pixels[..., 2] = 255
    found = np.asarray(decoded(page.thumbnail_of(pixels)), int)
    assert found.shape == (20, 10, 3)
    assert found[..., 2].min() > 240
    assert found[..., 0].max() < 15


def test_no_thumbnail_of_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert page.thumbnail(tmp_path / "a.png") is None
    assert page.thumbnail(tmp_path / "absent.png") is None
    assert page.thumbnail(None) is None


def test_values_are_escaped_and_names_must_be_known(tmp_path: Path) -> None:
    template = tmp_path / "a.html.j2"
    template.write_text("<style>{{ style }}</style><p title='{{ text }}'>{{ text }}</p>")
    html = page.render_page(template, text="<script>'\"&")
    assert "<script>" not in html
    assert html.count("&lt;script&gt;&#39;&#34;&amp;") == 2
    assert "font-family" in html or "font:" in html  # the style sheet is inside, as it is
    with pytest.raises(UndefinedError):
        page.render_page(template)
