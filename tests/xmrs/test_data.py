"""Batches of pairs: what is in them, that draws depend on (seed, epoch, index) alone, and wrong settings."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from projects.xmrs import images, text_draws
from projects.xmrs.data import Batch, DataSet, Split, open_split
from shared import data
from shared.data import BatchPlan, item_generator
from shared.errors import InputError
from tests.xmrs.sets import make_set, write_store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


def opened(root: Path, split: str = "train", **settings: Any) -> Split:
    own = {"side": 32, "resize": 36, **settings}
    return open_split(image_root=root / "images", data_root=root / "loader_data", split=split, **own)


def plan(*indices: int, epoch: int = 0) -> BatchPlan:
    return BatchPlan(epoch, 0, np.array(indices, np.int64))


def assert_equal(ours: Batch, theirs: Batch) -> None:
    for name in ("images", "tokens", "lengths", "classes", "indices"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_training_batch_is_trimmed_to_its_longest_text(root: Path) -> None:
    split = opened(root)
    batch = split.fetch_train(plan(3, 0, 41, 7))
    assert batch.images.shape == (4, 3, 32, 32)
    assert (batch.images.dtype, batch.tokens.dtype, batch.lengths.dtype) == (
        torch.float32,
        torch.int64,
        torch.int64,
    )
    assert batch.tokens.shape == (4, int(batch.lengths.max()))
    assert batch.indices.tolist() == [3, 0, 41, 7]
    assert batch.classes.tolist() == [3, 0, 1, 2]
    for row, length in zip(batch.tokens, batch.lengths.tolist(), strict=True):
        assert row[0] == 101
        assert (row[:length] > 0).all()
        assert not row[length:].any()
        assert 102 not in row, "training texts have no [SEP]"


def test_a_training_pair_is_the_released_recipe_of_its_draws(root: Path) -> None:
    """Item by item with the functions that the tests of images and texts pin, in the order of the draws."""
    split = opened(root, max_images=2)
    for epoch in (0, 5):
        batch = split.fetch_train(plan(*range(12), epoch=epoch))
        for index in range(12):
            rng, entry = item_generator(0, epoch, index), split.store.entry(index)
            chosen = int(rng.integers(min(2, len(entry.images))))
            row = text_draws.draw_row(text_draws.chooser(rng), split.reading.augmentation)
            path = split.picture(index, chosen)
            assert path is not None
            pixels = images.training_image(images.read_photo(path)[0], rng, side=32, resize=36)
            assert torch.equal(batch.images[index], pixels)
            assert batch.tokens[index, : batch.lengths[index]].tolist() == entry.rows[row].tolist()


def test_draws_depend_on_seed_epoch_and_index_alone(root: Path) -> None:
    split = opened(root, seed=4)
    whole = split.fetch_train(plan(*range(20)))
    part = split.fetch_train(plan(11, 2))
    assert torch.equal(part.images, whole.images[[11, 2]])
    assert_equal(opened(root, seed=4).fetch_train(plan(11, 2)), part)
    for other in (opened(root, seed=5).fetch_train(plan(11, 2)), split.fetch_train(plan(11, 2, epoch=1))):
        assert not torch.equal(other.images, part.images)


def test_workers_change_nothing(root: Path) -> None:
    plans = [plan(*range(start, start + 6)) for start in (0, 6, 12)]
    inline = list(data.load(opened(root).fetch_train, plans, workers=0))
    for ours, theirs in zip(data.load(opened(root).fetch_train, plans, workers=2), inline, strict=True):
        assert_equal(ours, theirs)


def test_training_reads_all_languages_and_photos(root: Path) -> None:
    split = opened(root)
    first_words, photos = set(), set()
    for epoch in range(60):
        batch = split.fetch_train(plan(2, epoch=epoch))
        first_words.add(int(batch.tokens[0, 1]))
    assert first_words == {110 + 40 * language + 39 for language in range(6)}
    for epoch in range(60):
        rng = item_generator(0, epoch, 2)
        photos.add(int(rng.integers(len(split.store.entry(2).images))))
    assert photos == {0, 1, 2}


@pytest.mark.parametrize("language", range(6))
def test_evaluation_reads_one_row_and_the_first_photo(language: int, root: Path) -> None:
    split = opened(root, "test", language=language)
    batch = split.fetch_recipes(plan(5, 1))
    for row, length, index in zip(batch.tokens, batch.lengths.tolist(), (5, 1), strict=True):
        assert row[:length].tolist() == [*split.store.entry(index).rows[language], 102]
        assert split.tokens(index).tolist() == row[:length].tolist()
    again = split.fetch_recipes(plan(5, 1))
    assert torch.equal(again.tokens, batch.tokens)
    pictures = split.fetch_images(plan(5, 1))
    assert pictures.indices.tolist() == [5, 1]
    path = split.picture(5)
    assert path is not None
    expected = images.evaluation_image(images.read_photo(path)[0], side=32, resize=36)
    assert torch.equal(pictures.images[0], expected)


def test_lengths_are_those_of_the_fetched_texts(root: Path) -> None:
    split = opened(root, "val", text_inputs=["title", "inst"], language=3)
    before = split.fetch_recipes(plan(*range(20)))
    lengths = split.recipe_lengths()
    assert lengths.tolist() == before.lengths.tolist()
    after = split.fetch_recipes(plan(*range(20)))
    assert torch.equal(after.tokens, before.tokens)


def test_texts_are_cut(root: Path) -> None:
    split = opened(root, max_tokens=6, separator_in_training=True)
    trained, tested = split.fetch_train(plan(0, 1)), split.fetch_recipes(plan(0, 1))
    for batch in (trained, tested):
        assert batch.tokens.shape[1] == 6
        assert batch.tokens[:, 5].tolist() == [102, 102]
    assert 102 not in opened(root, max_tokens=6).fetch_train(plan(0, 1)).tokens


def test_without_augmentation_training_reads_the_sets_language(root: Path) -> None:
    split = opened(root, text_augmentation=[], language=4)
    for epoch in range(5):
        batch = split.fetch_train(plan(7, epoch=epoch))
        assert batch.tokens[0].tolist() == split.store.entry(7).rows[4].tolist()


def test_unreadable_photos_are_white_and_counted_once(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    split = opened(tmp_path / "set")
    broken, missing = split.picture(0), split.picture(3)
    assert broken is not None
    assert missing is not None
    broken.write_bytes(b"")
    missing.unlink()
    plans = [plan(0, 1, epoch=epoch) for epoch in range(3)] + [plan(2, 3), plan(4, 5)]
    batches = list(data.load(split.fetch_train, plans, workers=2))
    assert split.unreadable == 2, "marks of the worker processes arrive here"
    lines = split.newly_unreadable()
    assert [str(broken) in lines[0], str(missing) in lines[1]] == [True, True]
    assert not split.newly_unreadable(), "each is told of once"
    white = split.fetch_images(plan(0)).images[0]
    assert torch.equal(white, images.normalized(np.full((32, 32, 3), 255, np.uint8)))
    assert batches[0].images.isfinite().all()
    again = opened(tmp_path / "set")
    again.load_state_dict(split.state_dict())
    assert again.unreadable == 2
    assert not again.newly_unreadable(), "nor after a resume"


def test_max_items_takes_the_first_pairs(root: Path) -> None:
    split = opened(root, max_items=7)
    assert len(split) == 7
    assert split.ids == opened(root).ids[:7]
    assert len(opened(root, max_items=1000)) == 60


def data_set(root: Path, **settings: Any) -> DataSet:
    own = {"name": "tiny", "root": str(root), "vocab": str(root / "vocab.txt"), **settings}
    own = {"image_root": str(root / "images"), "data_root": str(root / "loader_data"), **own}
    return DataSet(**own)


def test_the_data_section_opens_splits(root: Path) -> None:
    dataset = data_set(root, side=32, resize=36, language=2, max_tokens=9)
    dataset.prepare()
    split = dataset.open("val", seed=3)
    assert (split.reading.language, split.reading.seed, split.reading.max_tokens) == (2, 3, 9)
    assert dataset.open("val", language=5).reading.language == 5
    assert dataset.vocab_size() == 400
    tokens = dataset.corpus_tokens()
    assert tokens is not None
    occurring = np.concatenate([row for i in range(20) for row in split.store.entry(i).rows])
    assert np.isin(occurring, tokens).all()
    assert data_set(root, vocab=None).vocab_size() == 119_547


def test_a_store_of_another_vocabulary_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(f"w{i}" for i in range(150)) + "\n")
    with pytest.raises(InputError, match=r"corpus_tokens.npy: token ids up to \d+, but .* 150 entries"):
        data_set(root, vocab=str(tmp_path / "vocab.txt")).corpus_tokens()


def test_folders_that_are_not_there(root: Path, tmp_path: Path) -> None:
    for key in ("data_root", "image_root"):
        with pytest.raises(InputError, match=f"nowhere: no such folder; data.{key}"):
            data_set(root, **{key: str(tmp_path / "nowhere")}).prepare()
    with pytest.raises(InputError, match=r"data.variant: expected kitchen or null, found 'garden'"):
        data_set(root, variant="garden").prepare()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, "split: expected one of train, val, test, found 'dev'"),
        ({"language": 6}, "data.language: expected a row of the recipe texts .*5 fr.*, found 6"),
        ({"side": 40}, "data.side: expected 32 to data.resize = 36 pixels, found 40"),
        ({"side": 16}, "data.side: .*found 16"),
        ({"max_images": 0}, "data.max_images: expected at least 1, found 0"),
        ({"max_tokens": 1}, "data.max_tokens: expected at least 2, found 1"),
        ({"max_items": 0}, "expected at least one pair"),
        ({"text_inputs": ["sauce"]}, "text_inputs: .*'sauce'"),
        ({"text_augmentation": ["ko"]}, "text_augmentation: .*'ko'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(InputError, match=message):
        opened(root, **{"split": "train", **settings})


def test_a_key_without_a_recipe_is_named(root: Path, tmp_path: Path) -> None:
    """The keys file lists what the store does not hold."""
    from projects.xmrs.recipe1m import read_keys, write_keys

    shutil.copytree(root, tmp_path / "set")
    keys = tmp_path / "set/loader_data/val_keys.pkl"
    write_keys(keys, [*read_keys(keys)[:-1], "ffffffffff"])
    with pytest.raises(InputError, match="ffffffffff"):
        opened(tmp_path / "set", "val").fetch_recipes(plan(19))


def test_a_recipe_without_photo_or_text_is_still_a_pair(root: Path, tmp_path: Path) -> None:
    """The released databases may hold them: a white photo that is counted, and [CLS] alone."""
    from projects.xmrs import lmdb_store

    shutil.copytree(root / "loader_data", tmp_path / "loader_data")
    shutil.rmtree(tmp_path / "loader_data/val_lmdb")
    empty = lmdb_store.pack([b""] * 6, np.zeros((6, 3), np.int32), 0, b"[]")
    write_store(tmp_path / "loader_data", "val", {"0123456789": empty})
    split = open_split(
        image_root=tmp_path, data_root=tmp_path / "loader_data", split="val", side=32, resize=36
    )
    batch = split.fetch_train(plan(0))
    assert (batch.tokens.tolist(), batch.lengths.tolist()) == ([[101]], [1])
    assert split.fetch_recipes(plan(0)).tokens.tolist() == [[101, 102]]
    assert split.picture(0) is None
    assert split.unreadable == 1
    assert split.newly_unreadable() == ["recipe 0123456789: the recipe has no image"]
