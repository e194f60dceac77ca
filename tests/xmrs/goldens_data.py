"""Golden calls of reading data: what `call` names in cases.yaml -> a function of ours."""

import io
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from PIL import Image

from projects.xmrs import images, text_draws
from projects.xmrs.data import Split, open_split
from projects.xmrs.recipe1m import image_path
from shared.data import BatchPlan, item_generator
from tests.goldens.case import Case


def pad_to_square(case: Case) -> None:
    """Padding by each of the four modes, then the resize."""
    photo_id, (rows, columns) = case.data["photo"], case.data["subsample"]
    for key, expected in case.npz().items():
        _, mode, size = key.split("_")
        height, width = (int(side) for side in size.split("x"))
        photo = Image.fromarray(golden_photo(case, photo_id, height, width))
        side = case.data["resize"]
        padded = images.pad_to_square(photo, mode).resize((side, side), Image.Resampling.BILINEAR)
        assert padded.size == (side, side)
        case.close(np.asarray(padded).astype(int)[::rows, ::columns], expected.astype(int), what=key)


def loader_images(case: Case) -> None:
    """Evaluation images of the test split through the image tree, unreadable ones included."""
    expected, (rows, columns) = case.npz(case.data["arrays"]), case.data["subsample"]
    with tempfile.TemporaryDirectory() as folder:
        split = released_split(case, Path(folder))
        wanted = case.json()["ids"]
        batch = split.fetch_images(BatchPlan(0, 0, np.array([split.ids.index(name) for name in wanted])))
        for name, pixels in zip(wanted, batch.images.numpy(), strict=True):
            case.close(pixels[:, ::rows, ::columns], expected[f"img_{name}"], what=name)
            case.close(
                pixels.mean((1, 2), dtype=np.float64), expected[f"imgmean_{name}"], what=f"mean of {name}"
            )
        assert split.unreadable == sum(size == "unreadable" for size in sizes_of_first_images(case, wanted))


def sizes_of_first_images(case: Case, ids: list[str]) -> list[Any]:
    """Size, or "unreadable", of the first image of each recipe."""
    samples = case.json(case.data["recipes"])["expected"]["test"]["samples"]
    return [case.json()["image_sizes_hw"][samples[name]["imgs"][0]["id"]] for name in ids]


def loader_tokens(case: Case) -> None:
    """Token ids at evaluation for parts, languages and recipes; each alone and all as one padded batch."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        released_split(case, root)
        groups: dict[tuple[str, int], dict[str, list[int]]] = {}
        for key, ids in case.json()["eval_tokens"].items():
            parts, language, name = key.split("|")
            groups.setdefault((parts, int(language)), {})[name] = ids
        for (parts, language), expected in groups.items():
            split = opened(root, text_inputs=parts, language=language)
            places = np.array([split.ids.index(name) for name in expected])
            batch = split.fetch_recipes(BatchPlan(0, 0, places))
            for name, row, length in zip(expected, batch.tokens.numpy(), batch.lengths.tolist(), strict=True):
                assert row[:length].tolist() == expected[name], (parts, language, name)
                assert not row[length:].any()
            assert split.recipe_lengths()[places].tolist() == batch.lengths.tolist()


def train_draws(case: Case) -> None:
    """Image and language of training reads: the released NumPy order exactly, and how often each row comes."""
    expected = case.json()
    for sources, draws in expected["train_draws_numpy_seed3"]["draws"].items():
        random = np.random.RandomState(case.data["numpy_seed"])
        augmentation = text_draws.parse_augmentation(sources)
        found = [list(text_draws.legacy_draws(random, case.data["images"], 5, augmentation)) for _ in draws]
        assert found == draws, sources
    augmentation = text_draws.parse_augmentation("english,de,ru,fr")
    rows = [
        text_draws.draw_row(text_draws.chooser(item_generator(0, epoch, 7)), augmentation)
        for epoch in range(case.data["reads"])
    ]
    share = np.bincount(rows, minlength=6) / len(rows)
    case.close(
        share, expected["train_row_frequency_24000"], atol=case.data["frequency_atol"], what="frequency"
    )


def golden_photo(case: Case, image_id: str, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: floor(255 u), every cell of u repeated 8 x 8."""
    cells = case.input(f"xmrs.photo.{image_id}", (-(-height // 8), -(-width // 8), 3), kind="uniform")
    photo = np.floor(255 * cells).astype(np.uint8)
    return photo.repeat(8, 0).repeat(8, 1)[:height, :width]


def released_split(case: Case, root: Path) -> Split:
    """The test split as the released code leaves it on disk: pickled LMDB values and keys, and the photos."""
    samples = case.json(case.data["recipes"])["expected"]["test"]["samples"]
    data_root = root / "loader_data"
    data_root.mkdir()
    (data_root / "test_keys.pkl").write_bytes(pickle.dumps(list(samples), protocol=4))
    with (
        lmdb.open(str(data_root / "test_lmdb"), map_size=1 << 26) as env,
        env.begin(write=True) as transaction,
    ):
        for name, sample in samples.items():
            rows = {
                key: [row + [0] * (512 - len(row)) for row in sample[key]]
                for key in ("recipe", "part_of_recipe")
            }
            value = {**rows, "classes": sample["classes"], "imgs": sample["imgs"]}
            transaction.put(name.encode(), pickle.dumps(value, protocol=4))
    for sample in samples.values():
        for image in sample["imgs"]:
            path = image_path(root / "images", "test", image["id"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo_bytes(case, image["id"]))
    return opened(root)


def photo_bytes(case: Case, image_id: str) -> bytes:
    """The photo's file: PNG bytes under a .jpg name, or bytes that no decoder takes."""
    size = case.json()["image_sizes_hw"][image_id]
    if size == "unreadable":
        return b"not an image"
    buffer = io.BytesIO()
    Image.fromarray(golden_photo(case, image_id, *size)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(root: Path, **settings: Any) -> Split:
    """The split of `released_split`, read in another way."""
    return open_split(image_root=root / "images", data_root=root / "loader_data", split="test", **settings)


CALLS: dict[str, Callable[[Case], None]] = {
    "pad_to_square": pad_to_square,
    "loader_images": loader_images,
    "loader_tokens": loader_tokens,
    "train_draws": train_draws,
}
