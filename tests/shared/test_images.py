"""Real odd image files, made with Pillow: each is RGB as a viewer shows it, or one line that says why not."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import InputError
from shared.files import decode_image, read_image


@pytest.fixture
def picture() -> np.ndarray:
    """RGB [30, 40, 3], smooth (so that JPEG keeps it) and different in every corner."""
    y, x = np.mgrid[0:30, 0:40]
    return np.stack([x * 6, y * 8, 255 - (x + y) * 3], axis=-1).astype(np.uint8)


def save(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def test_plain_jpeg_is_as_pillow_reads_it(tmp_path: Path, picture: np.ndarray) -> None:
    path = save(tmp_path / "a.jpg", picture, quality=90)
    with Image.open(path) as image:
        expected = np.asarray(image)
    for exif in (True, False):
        found = read_image(path, exif=exif)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8
        assert found.flags.writeable
        assert found.flags.c_contiguous
    np.testing.assert_array_equal(decode_image(path.read_bytes(), "record 7"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, picture: np.ndarray, orientation: int) -> None:
    turned = [
        picture, picture[:, ::-1], picture[::-1, ::-1], picture[::-1], picture.transpose(1, 0, 2),
        np.rot90(picture, -1), picture[::-1, ::-1].transpose(1, 0, 2), np.rot90(picture, 1),
    ][orientation - 1]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", picture, exif=exif)
    np.testing.assert_array_equal(read_image(path), turned)
    np.testing.assert_array_equal(read_image(path, exif=False), picture)


def test_broken_exif_is_no_orientation(tmp_path: Path, picture: np.ndarray) -> None:
    path = save(tmp_path / "a.png", picture, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    np.testing.assert_array_equal(read_image(path), picture)


def test_gray_and_bilevel(tmp_path: Path, picture: np.ndarray) -> None:
    gray = picture[..., 0]
    found = read_image(save(tmp_path / "a.png", gray))
    np.testing.assert_array_equal(found, np.repeat(gray[..., None], 3, axis=2))
    found = read_image(save(tmp_path / "b.png", Image.fromarray(gray > 100)))
    np.testing.assert_array_equal(found[..., 1], np.where(gray > 100, 255, 0))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_their_brightness(tmp_path: Path, picture: np.ndarray, name: str) -> None:
    gray = picture[..., 0].astype(np.uint16)
    found = read_image(save(tmp_path / name, Image.fromarray(gray * 257)))
    np.testing.assert_array_equal(found, np.repeat(picture[..., :1], 3, axis=2))


def test_other_depths_are_refused(tmp_path: Path, picture: np.ndarray) -> None:
    floats = save(tmp_path / "f.tif", Image.fromarray(picture[..., 0].astype(np.float32)))
    with pytest.raises(InputError, match=r"f\.tif: floating-point pixels"):
        read_image(floats)
    integers = save(tmp_path / "i.tif", Image.fromarray(picture[..., 0].astype(np.int32) * 1000))
    with pytest.raises(InputError, match=r"i\.tif: pixels from 0 to 234000"):
        read_image(integers)


def test_cmyk_jpeg(tmp_path: Path, picture: np.ndarray) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture).convert("CMYK"), quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(read_image(path).astype(int) - picture).mean() < 5


def test_transparency_is_laid_on_white(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[:, 10:20] = 128
    alpha[:, 20:] = 255
    weight = alpha[..., None] / 255
    expected = picture * weight + 255 * (1 - weight)
    found = read_image(save(tmp_path / "rgba.png", np.dstack([picture, alpha])))
    assert np.abs(found - expected).max() <= 1
    found = read_image(save(tmp_path / "la.png", Image.fromarray(np.dstack([picture[..., 0], alpha]), "LA")))
    assert np.abs(found - expected[..., :1]).max() <= 1


def test_palettes(tmp_path: Path, picture: np.ndarray) -> None:
    few = (picture // 128 * 127).astype(np.uint8)
    palette = Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    for name in ("a.png", "a.gif"):
        np.testing.assert_array_equal(read_image(save(tmp_path / name, palette)), few)
    index = int(np.asarray(palette)[0, 0])
    found = read_image(save(tmp_path / "t.png", palette, transparency=index))
    hidden = np.asarray(palette) == index
    assert (found[hidden] == 255).all()
    np.testing.assert_array_equal(found[~hidden], few[~hidden])


def test_rgb_png_with_a_transparent_colour(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = (10, 20, 30)
    found = read_image(save(tmp_path / "a.png", image, transparency=(10, 20, 30)))
    assert (found[:2] == 255).all()
    assert (found[2:] == 0).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_file_cut_anywhere_is_one_line(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    whole = save(tmp_path / f"whole.{suffix}", picture).read_bytes()
    rgb = read_image(tmp_path / f"whole.{suffix}")
    for end in range(1, len(whole), max(1, len(whole) // 60)):
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(whole[:end])
        try:
            found = read_image(path)
        except InputError as error:
            message = str(error)
        else:  # only what follows the pixels was missing
            np.testing.assert_array_equal(found, rgb)
            assert end > len(whole) // 2
            continue
        assert str(path) in message
        assert "\n" not in message


def test_no_image_at_all(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("<html>404 Not Found</html>")
    with pytest.raises(InputError, match=r"empty\.jpg: empty file, expected an image"):
        read_image(empty)
    with pytest.raises(InputError, match=r"text\.jpg: not an image that Pillow can read"):
        read_image(text)
    with pytest.raises(InputError, match=r"missing\.jpg: no such image"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="record 7: empty"):
        decode_image(b"", "record 7")
    with pytest.raises(InputError, match="record 7: not an image"):
        decode_image(b"hello", "record 7")


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that claims a size, with 8-bit gray pixels that are never needed to refuse it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(60000, 60000), (14000, 14000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, b"\0" * 1000))
    with pytest.raises(InputError, match=r"bomb\.png: .*pixels"):
        read_image(path)


def test_bombs_in_text_and_by_limit(tmp_path: Path, picture: np.ndarray) -> None:
    path = save(tmp_path / "a.png", picture)
    with pytest.raises(InputError, match=r"a\.png: 40 x 30 pixels, at most 1000 are read"):
        read_image(path, max_pixels=1000)
    path.write_bytes(png(0, 10, b""))
    with pytest.raises(InputError, match=r"a\.png: "):
        read_image(path)


def test_no_warning_for_large_images(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # Pillow warns from here, refuses from twice as many
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "png")
    assert decode_image(buffer.getvalue(), "large").shape == (30, 40, 3)
    assert not recwarn.list
