"""Splits on disk to batches: pairing, redundancy rule, augmentation, workers, and wrong files."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.vseinfty import augmentation, vocabulary
from projects.vseinfty.captions import BiGRUTokenizer
from projects.vseinfty.data import Batch, DataSet, Split, open_split
from shared import config
from shared.data import BatchPlan, eval_plans, item_generator, load
from shared.errors import InputError
from tests.vseinfty.sets import WORDS, write_captions, write_images, write_regions

PROJECT = Path(__file__).parents[2] / "projects" / "vseinfty"


@pytest.fixture
def tokenizer() -> BiGRUTokenizer:
    return BiGRUTokenizer(vocabulary.build([WORDS], min_count=1))


def plan(indices: list[int], epoch: int = 0) -> BatchPlan:
    return BatchPlan(epoch, 0, np.array(indices, np.int64))


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_evaluation_batches(tmp_path: Path, tokenizer: BiGRUTokenizer, repeated: bool, dtype: str) -> None:
    features, captions = write_regions(tmp_path, split="test", repeated=repeated, dtype=dtype)
    split = open_split(root=tmp_path, name="coco", split="test", tokenizer=tokenizer)
    assert (split.num_images, split.num_captions, len(split)) == (6, 30, 30)
    assert split.captions_per_row == (1 if repeated else 5)
    assert split.texts == captions
    assert split.image_ids == [str(100 + i) for i in range(6)]
    assert split.caption_lengths().tolist() == [len(tokenizer.encode(text)) for text in captions]

    images = split.fetch_images(plan([4, 0, 5]))
    np.testing.assert_array_equal(images.images.numpy(), features[[4, 0, 5]].astype(np.float32))
    assert images.images.dtype == torch.float32
    assert images.image_lengths is not None
    assert images.image_lengths.tolist() == [4, 4, 4]
    assert images.indices.tolist() == [4, 0, 5]

    batch = split.fetch_captions(plan([29, 3]))
    assert batch.indices.tolist() == [29, 3]
    for row, length, index in zip(batch.captions, batch.caption_lengths, (29, 3), strict=True):
        assert row[:length].tolist() == tokenizer.encode(captions[index])


@pytest.mark.parametrize("repeated", [False, True])
def test_training_pairs_without_augmentation(
    tmp_path: Path, tokenizer: BiGRUTokenizer, repeated: bool
) -> None:
    features, captions = write_regions(tmp_path, repeated=repeated)
    split = open_split(
        root=tmp_path, name="coco", split="train", tokenizer=tokenizer, size_augmentation=False
    )
    batch = split.fetch_train(plan([17, 3, 29, 16]))
    np.testing.assert_array_equal(batch.images.numpy(), features[[3, 0, 5, 3]])
    assert batch.image_indices.tolist() == [3, 0, 5, 3]
    assert batch.caption_indices.tolist() == [17, 3, 29, 16]
    assert batch.grid_draws is None
    for row, length, index in zip(batch.captions, batch.caption_lengths, (17, 3, 29, 16), strict=True):
        assert row[:length].tolist() == tokenizer.encode(captions[index])


def naive_train_item(
    split: Split, tokenizer: BiGRUTokenizer, features: np.ndarray, index: int, epoch: int, seed: int
) -> tuple[np.ndarray, list[int]]:
    rng = item_generator(seed, epoch, index)
    rows = features[index // 5]
    kept = rows[augmentation.kept_regions(rng.random(len(rows)))]
    return kept, tokenizer.encode_dropped(split.texts[index], rng)


def test_training_like_the_item_by_item_way(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    features, _ = write_regions(tmp_path, num_images=40, regions=5)
    split = open_split(root=tmp_path, name="coco", split="train", tokenizer=tokenizer, seed=11)
    dropped = 0
    for epoch in range(3):
        indices = np.random.default_rng(epoch).permutation(200)[:64].tolist()
        batch = split.fetch_train(plan(indices, epoch))
        assert batch.image_lengths is not None
        for b, index in enumerate(indices):
            rows, ids = naive_train_item(split, tokenizer, features, index, epoch, 11)
            assert batch.image_lengths[b] == len(rows)
            np.testing.assert_array_equal(batch.images[b, : len(rows)].numpy(), rows)
            assert not batch.images[b, len(rows) :].any()
            assert batch.captions[b, : batch.caption_lengths[b]].tolist() == ids
            dropped += 5 - len(rows)
        assert batch.images.shape[1] == batch.image_lengths.max()
    assert 0.1 < dropped / (3 * 64 * 5) < 0.3


def test_an_item_does_not_depend_on_its_batch(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    write_regions(tmp_path, num_images=8)
    split = open_split(root=tmp_path, name="coco", split="train", tokenizer=tokenizer)
    alone, together = split.fetch_train(plan([7])), split.fetch_train(plan([30, 7, 2]))
    assert alone.image_lengths is not None
    length = int(alone.image_lengths[0])
    assert torch.equal(alone.images[0, :length], together.images[1, :length])
    assert torch.equal(alone.captions[0], together.captions[1, : alone.captions.shape[1]])
    assert not same(alone, split.fetch_train(plan([7], epoch=1)))


def test_switches_leave_the_other_modality_as_it_is(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    features, captions = write_regions(tmp_path, num_images=8, regions=9)
    for visual, text in ((True, False), (False, True)):
        split = open_split(
            root=tmp_path, name="coco", split="train", tokenizer=tokenizer, drop_visual=visual, drop_text=text
        )
        batch = split.fetch_train(plan(list(range(40))))
        whole_images = torch.equal(batch.images, torch.from_numpy(np.repeat(features, 5, axis=0)))
        rows = [row[:n].tolist() for row, n in zip(batch.captions, batch.caption_lengths, strict=True)]
        whole_texts = rows == [tokenizer.encode(caption) for caption in captions]
        assert (whole_images, whole_texts) == (not visual, not text)


def test_sets_of_different_sizes(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    features, _ = write_regions(tmp_path, num_images=6, regions=5)
    lengths = np.array([1, 5, 2, 3, 4, 1])
    np.save(tmp_path / "precomp" / "train_lengths.npy", lengths)
    split = open_split(root=tmp_path, name="mini", split="train", tokenizer=tokenizer)
    batch = split.fetch_images(plan([2, 3]))
    assert batch.images.shape == (2, 3, 8)
    np.testing.assert_array_equal(batch.images[0, :2].numpy(), features[2, :2])
    assert not batch.images[0, 2:].any()
    for epoch in range(5):
        training = split.fetch_train(plan(list(range(30)), epoch))
        assert training.image_lengths is not None
        own = torch.from_numpy(np.repeat(lengths, 5))
        assert bool((training.image_lengths >= 1).all())
        assert bool((training.image_lengths <= own).all())
        assert bool((training.image_lengths[own == 1] == 1).all())


def test_workers_give_the_same_batches_and_send_no_features(
    tmp_path: Path, tokenizer: BiGRUTokenizer
) -> None:
    write_regions(tmp_path, num_images=50, regions=8, dim=64)
    split = open_split(root=tmp_path, name="coco", split="train", tokenizer=tokenizer)
    plans = [plan(list(range(start, start + 20))) for start in range(0, 100, 20)]
    inline = list(load(split.fetch_train, plans, workers=0))
    forked = list(load(split.fetch_train, plans, workers=2))
    assert all(same(a, b) for a, b in zip(inline, forked, strict=True))
    pickled = pickle.dumps(split)
    assert len(pickled) < 50 * 8 * 64 * 4  # a spawned worker opens the map again
    again = pickle.loads(pickled)
    assert same(again.fetch_train(plans[0]), inline[0])


def test_every_image_and_caption_once(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    features, captions = write_regions(tmp_path, split="test", num_images=7, repeated=True)
    split = open_split(root=tmp_path, name="f30k", split="test", tokenizer=tokenizer)
    found = [
        (b.indices, b.images)
        for rank in range(2)
        for b in load(split.fetch_images, eval_plans(split.num_images, 3, rank=rank, world_size=2), workers=0)
    ]
    assert torch.cat([i for i, _ in found]).tolist() == list(range(7))
    np.testing.assert_array_equal(torch.cat([x for _, x in found]).numpy(), features)
    rows = [i for b in load(split.fetch_captions, eval_plans(35, 4), workers=0) for i in b.indices.tolist()]
    assert rows == list(range(len(captions)))


def test_dev_ends_after_5000_captions(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    """Flickr30K dev: 1,014 images, their rows repeated (5,070); the first 1,000 images count (spec 3, 8)."""
    for split, num_images, wanted in (("dev", 1014, 1000), ("dev", 8, 8), ("test", 1014, 1014)):
        features, captions = write_regions(
            tmp_path, split=split, num_images=num_images, regions=1, dim=2, repeated=True
        )
        opened = open_split(root=tmp_path, name="f30k", split=split, tokenizer=tokenizer)
        assert (opened.num_images, opened.num_captions) == (wanted, 5 * wanted)
        assert opened.texts == captions[: 5 * wanted]
        assert len(opened.image_ids) == wanted
        assert opened.image_ids[-1] == str(100 + wanted - 1)
        last = opened.fetch_images(plan([wanted - 1])).images[0].numpy()
        np.testing.assert_array_equal(last, features[wanted - 1])


def test_max_captions_takes_whole_images(tmp_path: Path) -> None:
    write_regions(tmp_path)
    split = open_split(root=tmp_path, name="coco", split="train", max_captions=13)
    assert (split.num_images, split.num_captions) == (2, 10)
    with pytest.raises(InputError, match="max_captions: expected at least 5, found 4"):
        open_split(root=tmp_path, name="coco", split="train", max_captions=4)


def test_blank_lines_are_empty_captions(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    write_regions(tmp_path, num_images=2)
    texts = ["a dog", "", "  a cat \t", "x", "y", "", "", "", "", ""]
    write_captions(tmp_path / "precomp", "train", texts)
    split = open_split(root=tmp_path, name="coco", split="train", tokenizer=tokenizer)
    assert split.texts == ["a dog", "", "a cat", "x", "y", "", "", "", "", ""]
    assert split.caption_lengths()[1] == 2


def test_captions_are_utf8_and_only_newlines_end_them(tmp_path: Path) -> None:
    write_regions(tmp_path, num_images=1)
    path = tmp_path / "precomp" / "train_caps.txt"
    path.write_bytes("un café\na\u2028b\r\nc\nd\ne\n".encode())
    texts = open_split(root=tmp_path, name="coco", split="train").texts
    assert texts == ["un café", "a\u2028b", "c", "d", "e"]
    path.write_bytes(b"a\nb\ncaf\xe9\nd\ne\n")
    with pytest.raises(InputError, match="3: not UTF-8"):
        open_split(root=tmp_path, name="coco", split="train")


def test_pixels(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    write_images(tmp_path, num_images=4)
    split = open_split(
        root=tmp_path, name="coco", split="train", kind="pixels", tokenizer=tokenizer,
        image_side=64, backbone="imagenet_res50", num_grids=4,
    )  # fmt: skip
    images = split.fetch_images(plan([3, 1]))
    assert images.images.shape == (2, 3, 64, 64)
    assert images.image_lengths is None
    batch = split.fetch_train(plan([0, 1, 19]))
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.image_lengths is None
    assert batch.grid_draws is not None
    rows, samples = batch.grid_draws
    assert rows.shape == (3, 4)
    assert samples.shape == (3,)
    assert not torch.equal(batch.images[0], batch.images[1])  # two captions of an image: two crops
    assert batch.image_indices.tolist() == [0, 0, 3]
    again = split.fetch_train(plan([19]))
    assert again.grid_draws is not None
    assert torch.equal(again.images[0], batch.images[2])
    assert torch.equal(again.grid_draws[0][0], rows[2])


def test_pixels_of_a_file_with_repeated_ids(tmp_path: Path) -> None:
    write_images(tmp_path, num_images=3)
    options = {"root": tmp_path, "name": "coco", "split": "train", "kind": "pixels", "num_grids": 4}
    once = open_split(**options).fetch_images(plan([0, 1, 2])).images
    (tmp_path / "precomp" / "train_ids.txt").write_text("".join(f"{i}\n" for i in np.repeat(range(3), 5)))
    split = open_split(**options)
    assert (split.num_images, split.captions_per_row) == (3, 1)
    assert torch.equal(split.fetch_images(plan([0, 1, 2])).images, once)
    assert split.image_ids == ["0", "1", "2"]


def test_grid_draws_fit_the_cnn(tmp_path: Path) -> None:
    write_images(tmp_path, num_images=1)
    tokens = BiGRUTokenizer(vocabulary.build([WORDS], min_count=1))
    opened = open_split(
        root=tmp_path, name="coco", split="train", kind="pixels", image_side=256, tokenizer=tokens
    )
    draws = opened.fetch_train(plan([0])).grid_draws
    assert draws is not None
    assert draws[0].shape == (1, 64)
    without = open_split(
        root=tmp_path,
        name="coco",
        split="train",
        kind="pixels",
        image_side=64,
        tokenizer=tokens,
        drop_visual=False,
    )
    assert without.fetch_train(plan([0])).grid_draws is None


# ---- bad input: each one clear line


def replace_array(array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "train_ims.npy", array)


def cut_array(folder: Path) -> None:
    path = folder / "train_ims.npy"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_array(folder: Path) -> None:
    np.save(folder / "train_ims.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def write_text(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def save_lengths(lengths: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "train_lengths.npy", lengths)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("train_caps.txt"), "train_caps.txt: no such captions file"),
        (remove("train_ims.npy"), "train_ims.npy: no such file"),
        (cut_array, "train_ims.npy: cut short"),
        (pickle_array, "train_ims.npy: holds pickled Python objects"),
        (write_text("train_ims.npy", "text"), "train_ims.npy: not an .npy array"),
        (
            replace_array(np.zeros((5, 4, 8), np.float32)),
            "train_ims.npy: expected 6 or 30 rows for the 30 captions",
        ),
        (replace_array(np.zeros((7, 4, 8), np.float32)), "found 7"),
        (
            replace_array(np.zeros((6, 32), np.float32)),
            "train_ims.npy: expected 3 dimensions, found shape [6, 32]",
        ),
        (
            replace_array(np.zeros((6, 4, 9), np.float32)),
            "train_ims.npy: expected 8 dimensions (image_dim), found 9",
        ),
        (replace_array(np.zeros((6, 4, 8), np.int32)), "expected float32 or float16 features, found int32"),
        (replace_array(np.zeros((6, 0, 8), np.float32)), "found [6, 0, 8]"),
        (write_text("train_caps.txt", ""), "train_caps.txt: expected captions, found an empty file"),
        (
            write_text("train_caps.txt", "a\n" * 29),
            "train_caps.txt: expected 5 captions for each image, found 29",
        ),
        (
            write_text("train_caps.txt", "a\n" * 35),
            "train_ims.npy: expected 7 or 35 rows for the 35 captions",
        ),
        (save_lengths(np.array([1, 2, 3])), "train_lengths.npy: expected 6 integers, found 3 int64"),
        (save_lengths(np.array([1, 2, 3, 4, 5, 1])), "train_lengths.npy: expected sizes 1..4, found 1..5"),
        (save_lengths(np.array([1, 2, 3, 4, 0, 1])), "train_lengths.npy: expected sizes 1..4, found 0..4"),
        (save_lengths(np.ones(6)), "train_lengths.npy: expected 6 integers, found 6 float64"),
    ],
)
def test_wrong_files(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_regions(tmp_path)
    open_split(root=tmp_path, name="coco", split="train", image_dim=8)  # right before
    damage(tmp_path / "precomp")
    with pytest.raises(InputError) as error:
        open_split(root=tmp_path, name="coco", split="train", image_dim=8)
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_not_finite(
    tmp_path: Path, tokenizer: BiGRUTokenizer, value: float, dtype: str
) -> None:
    features, _ = write_regions(tmp_path, dtype=dtype)
    features[4, 2, 3] = value
    np.save(tmp_path / "precomp" / "train_ims.npy", features)
    split = open_split(root=tmp_path, name="coco", split="train", tokenizer=tokenizer, drop_visual=False)
    split.fetch_images(plan([0, 1, 2, 3, 5]))
    for fetch, index in ((split.fetch_images, 4), (split.fetch_train, 22)):
        with pytest.raises(
            InputError, match=r"train_ims\.npy: row 4: expected finite values, found NaN or infinity"
        ):
            fetch(plan([0, index]))


def test_large_finite_features_are_no_error(tmp_path: Path) -> None:
    features, _ = write_regions(tmp_path)
    np.save(tmp_path / "precomp" / "train_ims.npy", np.full_like(features, 1e30))  # their squares overflow
    split = open_split(root=tmp_path, name="coco", split="train")
    assert split.fetch_images(plan([0])).images[0, 0, 0] == np.float32(1e30)


def test_wrong_ids(tmp_path: Path) -> None:
    write_images(tmp_path)
    ids = tmp_path / "precomp" / "train_ids.txt"
    options = {"root": tmp_path, "name": "coco", "split": "train", "kind": "pixels", "num_grids": 4}
    for text, message in (
        ("0\n1\n2\n9\n", r"id_mapping\.json: no entry for id '9' \(.*train_ids\.txt line 4"),
        ("0\n1\nx\n3\n", r"train_ids\.txt: line 3: expected an integer image id, found 'x'"),
        ("0\n1\n2\n", r"train_ids\.txt: expected 4 or 20 rows for the 20 captions"),
    ):
        ids.write_text(text)
        with pytest.raises(InputError, match=message):
            open_split(**options)
    ids.unlink()
    with pytest.raises(InputError, match=r"train_ids\.txt: no such image id file"):
        open_split(**options)


def test_too_few_ids_of_a_region_set(tmp_path: Path) -> None:
    write_regions(tmp_path)
    (tmp_path / "precomp" / "train_ids.txt").write_text("1\n2\n")
    with pytest.raises(InputError, match=r"train_ids\.txt: expected 6 ids or 5 times as many, found 2"):
        _ = open_split(root=tmp_path, name="coco", split="train").image_ids


def test_unknown_kind(tmp_path: Path) -> None:
    write_regions(tmp_path)
    with pytest.raises(InputError, match=r"data\.kind: expected 'regions' or 'pixels', found 'voxels'"):
        open_split(root=tmp_path, name="coco", split="train", kind="voxels")


def test_missing_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"precomp: no such folder; data\.root must hold the set coco"):
        DataSet(name="coco", root=str(tmp_path)).prepare()


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT / "configs" / "data").glob("*.yaml")))
def test_each_data_config_names_every_field(name: str) -> None:
    keys = config.section(config.compose(PROJECT, "build_vocab", [f"data={name}"]).data)
    assert set(keys) == {field.name for field in dataclasses.fields(DataSet)}
    data_set = DataSet(**keys)
    assert data_set.kind in ("regions", "pixels")
    assert data_set.folds == (5 if data_set.name == "coco" else 1)


def test_data_set_opens_its_splits(tmp_path: Path, tokenizer: BiGRUTokenizer) -> None:
    write_regions(tmp_path)
    data_set = DataSet(name="coco", root=str(tmp_path), size_augmentation=False, max_captions=10)
    data_set.prepare()
    split = data_set.open("train", tokenizer=tokenizer, image_dim=8)
    assert split.num_captions == 10
    assert split.fetch_train(plan([0])).images.shape == (1, 4, 8)
    with pytest.raises(InputError, match="expected 2048 dimensions"):
        data_set.open("train", image_dim=2048)
