"""Raw images: preprocessing against naive definitions, draws, the id mapping, and files that are wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.vseinfty import images
from projects.vseinfty.images import Draws, ImageFiles
from shared.data import item_generator
from shared.errors import InputError
from shared.files import write_json
from tests.vseinfty.sets import write_images


def naive_resize(image: np.ndarray, side: int) -> np.ndarray:
    """Bilinear, half-pixel centres, no antialiasing."""
    height, width = image.shape[:2]

    def weights(size: int) -> np.ndarray:
        matrix = np.zeros((side, size))
        for i in range(side):
            x = (i + 0.5) * size / side - 0.5
            low = int(np.floor(x))
            for index, share in ((low, 1 - (x - low)), (low + 1, x - low)):
                matrix[i, min(max(index, 0), size - 1)] += share
        return matrix

    return np.einsum("ih,hwc,jw->ijc", weights(height), image.astype(np.float64), weights(width))


@pytest.mark.parametrize("backbone", ["detector", "imagenet_res152", "wsl"])
def test_preprocess_like_the_definition(backbone: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    draws = Draws(crop=0.3, x=5, y=2, flip=0.7)
    height, width = int(45 * (0.6 + 0.4 * 0.3)), int(61 * (0.6 + 0.4 * 0.3))
    for given, part in ((None, image), (draws, image[2 : 2 + height, 5 : 5 + width])):
        wanted = naive_resize(part, 40)
        if given:
            wanted = wanted[:, ::-1]
        if backbone == "detector":
            wanted = wanted[:, :, ::-1] - [102.9801, 115.9465, 122.7717]
        else:
            wanted = (wanted / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        got = images.preprocess(image, 40, backbone=backbone, draws=given)
        assert got.shape == (3, 40, 40)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        np.testing.assert_allclose(
            got, wanted.transpose(2, 0, 1), atol=1e-2 if backbone == "detector" else 1e-4
        )


def test_gray_is_three_equal_channels() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    coloured = np.stack([gray] * 3, axis=2)
    np.testing.assert_array_equal(
        images.preprocess(gray, 16, backbone="wsl"), images.preprocess(coloured, 16, backbone="wsl")
    )


def test_draws_stay_in_the_image_and_come_in_order() -> None:
    for index in range(200):
        drawn = images.draw(item_generator(0, 0, index), 37, 53)
        height, width = images.crop_size(37, 53, drawn.crop)
        assert 22 <= height <= 37
        assert 31 <= width <= 53
        assert 0 <= drawn.y <= 37 - height
        assert 0 <= drawn.x <= 53 - width
    rng = item_generator(0, 0, 7)
    u = rng.random()
    height, width = int(37 * (0.6 + 0.4 * u)), int(53 * (0.6 + 0.4 * u))
    x, y = int(rng.integers(53 - width)), int(rng.integers(37 - height))
    assert images.draw(item_generator(0, 0, 7), 37, 53) == Draws(u, x, y, rng.random())


def test_images_of_one_pixel_can_be_cropped() -> None:
    drawn = images.draw(item_generator(0, 0, 0), 1, 1)
    assert (drawn.x, drawn.y) == (0, 0)
    image = np.full((1, 1, 3), 9, np.uint8)
    pixels = images.preprocess(image, 32, backbone="wsl", draws=drawn)
    np.testing.assert_array_equal(pixels, images.preprocess(image, 32, backbone="wsl"))


def test_orientation_tag_is_ignored_as_in_the_release(tmp_path: Path) -> None:
    image = np.zeros((40, 64, 3), np.uint8)
    image[:, :32] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    files = ImageFiles([tmp_path / "turned.png"], side=32, backbone="wsl")
    np.testing.assert_array_equal(files.fetch(np.array([0]))[0], images.preprocess(image, 32, backbone="wsl"))


def test_fetch_reads_rows_and_augments_each_by_its_own_generator(tmp_path: Path) -> None:
    originals = write_images(tmp_path, num_images=3)
    paths = [tmp_path / "images" / f"train{i}.png" for i in range(3)]
    files = ImageFiles(paths, side=32, backbone="detector")
    batch = files.fetch(np.array([2, 0]), [item_generator(0, 1, 5), item_generator(0, 1, 9)])
    for pixels, row, index in zip(batch, (2, 0), (5, 9), strict=True):
        height, width = originals[row].shape[:2]
        draws = images.draw(item_generator(0, 1, index), height, width)
        expected = images.preprocess(originals[row], 32, backbone="detector", draws=draws)
        np.testing.assert_array_equal(pixels, expected)


def test_image_folders() -> None:
    assert images.image_folder(Path("r"), "coco_precomp") == Path("r/images")
    assert images.image_folder(Path("r"), "f30k_precomp") == Path("r/flickr30k-images")
    assert images.image_folder(Path("r"), "mini") == Path("r/images")


def test_the_authors_f30k_mapping(author_data: Callable[[str], Path]) -> None:
    mapping = images.read_id_mapping(author_data("vseinfty/f30k_id_mapping.json"))
    assert len(mapping) == 31_014
    assert mapping["0"] == "1000092795.jpg"
    assert mapping["31013"] == "998845445.jpg"
    assert list(mapping) == [str(index) for index in range(31_014)]


# ---- bad input


def test_ids_absent_from_the_mapping(tmp_path: Path) -> None:
    write_images(tmp_path, num_images=2)
    with pytest.raises(
        InputError, match=r"id_mapping.json: no entry for id '7' \(.*ids.txt line 3; 2 ids absent"
    ):
        images.image_paths(
            ["0", "1", "7", "8"], root=tmp_path, name="coco", ids_path=tmp_path / "precomp" / "train_ids.txt"
        )
    (tmp_path / "id_mapping.json").unlink()
    with pytest.raises(InputError, match=r"id_mapping.json: no such file"):
        images.image_paths(["0"], root=tmp_path, name="coco", ids_path=tmp_path)


@pytest.mark.parametrize("value", [["a.jpg"], {"0": 3}, {"0": "/etc/passwd"}, {"0": "../secret.jpg"}])
def test_wrong_mapping(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "id_mapping.json", value)
    with pytest.raises(InputError, match=r"id_mapping\.json: (expected|id '0': expected)"):
        images.read_id_mapping(tmp_path / "id_mapping.json")


def test_missing_image_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "id_mapping.json", {"0": "a.jpg"})
    with pytest.raises(InputError, match="flickr30k-images: no such image folder"):
        images.image_paths(["0"], root=tmp_path, name="f30k", ids_path=tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", "cut", None], ids=["empty", "text", "cut", "missing"]
)
def test_unreadable_image_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "broken.jpg"
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:900]
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.jpg") as error:
        ImageFiles([path], side=32, backbone="wsl").fetch(np.array([0]))
    assert "\n" not in str(error.value)


def test_side_too_small() -> None:
    with pytest.raises(InputError, match="image_side: expected at least 32 pixels, found 16"):
        ImageFiles([], side=16, backbone="wsl")
