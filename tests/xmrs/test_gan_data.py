"""Photos and embeddings for the GAN: draws of an item, crops, what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from projects.xmrs import embeddings, gan_data
from projects.xmrs.data import Split, open_split
from projects.xmrs.embeddings import Embedded
from projects.xmrs.gan_data import GanSplit
from shared.data import BatchPlan, load
from shared.errors import InputError
from tests.xmrs.gan_runs import CPU
from tests.xmrs.sets import make_set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny", train=14, val=4, test=4)


def opened(root: Path, name: str = "train") -> Split:
    return open_split(
        image_root=str(root / "images"),
        data_root=str(root / "loader_data"),
        split=name,
        side=32,
        resize=36,
        seed=0,
    )


def embedded(ids: list[str]) -> Embedded:
    rng = np.random.default_rng(0)
    images, recipes = rng.standard_normal((2, len(ids), 6)).astype(np.float32)
    return Embedded(images, recipes, list(ids))


def split_of(root: Path, found: Embedded | None = None, **options: int) -> GanSplit:
    split = opened(root)
    sizes = {"side": 16, "noise_dim": 5, "condition_dim": 3, "seed": 1, **options}
    return GanSplit(split, found or embedded(split.ids), **sizes)


def test_a_batch_holds_what_belongs_together(root: Path) -> None:
    split = split_of(root)
    plan = BatchPlan(2, 0, np.array([4, 11, 0]))
    batch = split.fetch_train(plan)
    assert batch.images.shape == (3, 3, 16, 16)
    assert torch.equal(batch.image_embeddings, torch.from_numpy(split.images[[4, 11, 0]]))
    assert torch.equal(batch.recipe_embeddings, torch.from_numpy(split.recipes[[4, 11, 0]]))
    assert batch.classes.tolist() == [4, 1, 0], "classes of the set count 0 to 4"
    assert batch.noise.shape == (3, 5)
    assert batch.draws.shape == (3, 3)
    assert abs(float(torch.cat([batch.noise, batch.draws], 1).mean())) < 1.5


def test_draws_belong_to_seed_epoch_and_item(root: Path) -> None:
    split = split_of(root)
    first = split.fetch_train(BatchPlan(0, 0, np.array([3, 5])))
    swapped = split.fetch_train(BatchPlan(0, 7, np.array([5, 3])))
    later = split.fetch_train(BatchPlan(1, 0, np.array([3, 5])))
    other = split_of(root, seed=2).fetch_train(BatchPlan(0, 0, np.array([3, 5])))
    by_worker = next(iter(load(split.fetch_train, [BatchPlan(0, 0, np.array([3, 5]))], workers=1)))
    for field in ("images", "noise", "draws"):
        assert torch.equal(getattr(first, field), getattr(swapped, field).flip(0)), field
        assert torch.equal(getattr(first, field), getattr(by_worker, field)), field
        assert not torch.equal(getattr(first, field), getattr(later, field)), field
        assert not torch.equal(getattr(first, field), getattr(other, field)), field


def test_embeddings_are_found_by_id(root: Path) -> None:
    ids = opened(root).ids
    found = embedded(ids)
    turned = Embedded(found.images[::-1], None if found.recipes is None else found.recipes[::-1], ids[::-1])
    assert np.array_equal(split_of(root, turned).recipes, split_of(root, found).recipes)
    with pytest.raises(InputError, match=f"2 of 14 recipes of the train split have no embedding .*{ids[3]}"):
        split_of(root, embedded([name for name in ids if name not in ids[3:5]]))
    with pytest.raises(InputError, match="no recipes"):
        split_of(root, Embedded(found.images, None, ids))


def test_a_class_beyond_the_classes_is_refused(root: Path) -> None:
    assert gan_data.num_classes(opened(root)) == 5
    split = split_of(root, num_classes=4)
    split.fetch_train(BatchPlan(0, 0, np.array([0, 1])))
    with pytest.raises(
        InputError, match=f"num_classes: recipe {split.split.ids[4]} is of class 4, expected less than 4"
    ):
        split.fetch_train(BatchPlan(0, 0, np.array([0, 4])))


def test_unreadable_photo_is_white_and_counted(root: Path, tmp_path: Path) -> None:
    own = make_set(tmp_path / "own", train=6, val=3, test=3)
    split = split_of(own)
    path = split.split.picture(0)
    assert path is not None
    path.write_bytes(b"no image")
    batch = split.fetch_train(BatchPlan(0, 0, np.array([0])))
    assert float(batch.images.std(dim=(2, 3)).max()) == 0
    assert split.split.unreadable == 1
    assert str(path) in split.split.newly_unreadable()[0]


@pytest.mark.parametrize(("width", "height"), [(60, 40), (30, 90), (36, 36)])
def test_crops(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    photo = Image.fromarray(pixels)
    middle = gan_data.evaluation_crop(photo, side=32, resize=36)
    assert middle.size == (32, 32)
    if (width, height) == (36, 36):  # nothing to resize: the middle is the middle
        assert np.array_equal(np.asarray(middle), pixels[2:34, 2:34])
        seen = {
            gan_data.training_crop(photo, np.random.default_rng(seed), side=32, resize=36).tobytes()
            for seed in range(300)
        }
        places = {(top, left, flip) for top in range(5) for left in range(5) for flip in (1, -1)}
        assert seen == {
            pixels[top : top + 32, left : left + 32][:, ::flip].tobytes() for top, left, flip in places
        }, "every place and both directions, and nothing else"
    assert gan_data.to_side(middle, 16).shape == (3, 16, 16)
    longer = 48 * max(width, height) // min(width, height)
    expected = (3, 48, longer) if width >= height else (3, longer, 48)
    assert gan_data.resized(photo, 48).shape == expected


def test_embedding_files_are_taken_where_they_are(root: Path, tmp_path: Path) -> None:
    split = opened(root)
    found = embedded(split.ids)
    path = tmp_path / embeddings.file_name(tmp_path / "run", "best.pt", "train", 0)
    embeddings.save(path, found.ids, found.images, found.recipes)
    how: dict[str, Any] = {"dim": 6, "batch_size": 4, "workers": 0}
    loaded = gan_data.load_or_make([tmp_path], split, None, "best.pt", CPU, **how)
    assert np.array_equal(loaded.images, found.images)
    with pytest.raises(InputError, match="expected 7 dimensions, found 6"):
        gan_data.load_or_make([tmp_path], split, None, "best.pt", CPU, **{**how, "dim": 7})
    with pytest.raises(InputError, match="no embeddings foodSpace"):
        gan_data.load_or_make([tmp_path / "empty"], split, None, "best.pt", CPU, **how)
