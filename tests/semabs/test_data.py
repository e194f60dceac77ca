"""Batches depend on seed, epoch and scene alone: not on workers, on what they are batched with, or on ranks."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from projects.semabs import data, splits, vocabulary
from projects.semabs.data import Batch, Split, open_split
from shared.data import BatchPlan, TrainSampler, eval_plans, load
from shared.errors import InputError

ITEMS: dict[str, Any] = {"num_patches": 3, "num_descs": 3, "num_input_pts": 100, "num_output_pts": 60}


def opened(root: Path, task: str = "ovssc", split: str = "train", **how: Any) -> Split:
    return open_split(root=root, split=split, task=task, items=ITEMS, **how)


def plan(*indices: int, epoch: int = 0) -> BatchPlan:
    return BatchPlan(epoch, 0, np.array(indices))


def assert_same(first: Batch, second: Batch) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name]


@pytest.mark.parametrize("task", ["ovssc", "vool"])
def test_an_item_is_the_same_alone_and_in_a_batch(rooms_root: Path, task: str) -> None:
    split = opened(rooms_root, task)
    batch = split.fetch_train(plan(2, 0, epoch=3))
    for row, index in enumerate((2, 0)):
        alone = split.fetch_train(plan(index, epoch=3))
        assert_same(alone, {name: value[row : row + 1] for name, value in batch.items()})
    assert batch["scene_id"] == [split.paths[2].stem, split.paths[0].stem]
    assert batch["output_xyz_pts"].shape == (2, 3, 60, 3)
    for other in (
        split.fetch_train(plan(2, epoch=4)),
        opened(rooms_root, task, seed=1).fetch_train(plan(2, epoch=3)),
    ):
        assert not torch.equal(other["input_xyz_pts"], batch["input_xyz_pts"][:1])


def test_workers_and_ranks_change_nothing(rooms_root: Path) -> None:
    split = opened(rooms_root, "vool")
    plans = list(TrainSampler(len(split), 2, seed=0).plans(1))
    inline = list(load(split.fetch_train, plans, workers=0))
    for first, second in zip(inline, load(split.fetch_train, plans, workers=2), strict=True):
        assert_same(first, second)
    for rank in range(2):
        of_rank = list(TrainSampler(len(split), 2, seed=0, rank=rank, world_size=2).plans(1))
        for share, whole in zip(of_rank, inline, strict=True):
            own = {name: value[rank : rank + 1] for name, value in whole.items()}
            assert_same(split.fetch_train(share), own)


@pytest.mark.parametrize("task", ["ovssc", "vool"])
def test_evaluation_sees_each_scene_whole(rooms_root: Path, task: str) -> None:
    split = opened(rooms_root, task, splits.NOVEL_ROOMS)
    seen = []
    for batch in load(split.fetch_eval, eval_plans(len(split), 1), workers=1):
        seen += batch["scene_id"]
        key = "patch_labels" if task == "ovssc" else "target_obj_name"
        assert batch["output_xyz_pts"].shape[:2] == (1, len(batch[key][0]))
        assert batch["output_label_pts"].any()
    assert seen == [path.stem for path in split.paths]


def test_splits_show_other_pictures_and_names(rooms_root: Path) -> None:
    plain = opened(rooms_root, split=splits.NOVEL_ROOMS, network_inputs=["rgb"])
    other = opened(rooms_root, split=splits.NOVEL_VISUAL, network_inputs=["rgb"])
    assert plain.paths == other.paths
    colours = [split.item(0)["input_feature_pts"] for split in (plain, other)]
    assert not torch.equal(*colours)
    renamed = opened(rooms_root, split=splits.NOVEL_VOCABULARY)
    names = {name for index in range(len(renamed)) for name in renamed.item(index)["patch_labels"]}
    assert names & set(vocabulary.CLASS_OF_SYNONYM)
    assert not names & set(vocabulary.SYNONYMS)


def test_only_the_first_scenes(rooms_root: Path) -> None:
    assert len(opened(rooms_root, max_items=2)) == 2
    assert opened(rooms_root, max_items=2).paths == opened(rooms_root).paths[:2]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"task": "depth"}, "task: expected one of ovssc, vool, found 'depth'"),
        ({"network_inputs": ["normals"]}, "network_inputs: expected some of patch_masks"),
        ({"network_inputs": ["tsdf"]}, "network_inputs: expected some of patch_masks"),
        ({"split": "test"}, "no split 'test'"),
    ],
)
def test_what_cannot_be_opened_is_one_line(rooms_root: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(rooms_root, **how)


def test_a_room_upside_down_is_refused(rooms_root: Path, tmp_path: Path) -> None:
    name = "00000|FloorPlan1_physics.hdf5"
    path = Path(shutil.copy(rooms_root / name, tmp_path))
    splits.write_splits(tmp_path / "ssc_split.pkl", {"train": [name]})
    with h5py.File(path, "r+") as file:
        names, ids = file["data/objid_to_class"][()], file["full_objid_pts"][0]
        number = max(set(ids.tolist()))
        names[number] = f"floor[{number}]".encode()
        file["data/objid_to_class"][...] = names
        file["full_xyz_pts"][0, ids == number] = np.zeros(((ids == number).sum(), 3))
    assert len(opened(tmp_path)) == 1
    with h5py.File(path, "r+") as file:
        file["full_xyz_pts"][0, ids == number] = np.full(((ids == number).sum(), 3), 1.8)
    with pytest.raises(
        InputError, match=r"expected z up, found the floor at 1.80 above .*check_upright=false"
    ):
        opened(tmp_path)
    assert len(open_split(root=tmp_path, split="train", task="ovssc", items={"check_upright": False})) == 1


def test_scenes_of_unequal_shape_cannot_be_one_batch() -> None:
    items = [{"scene_id": name, "a": torch.zeros(size)} for name, size in (("x", 2), ("y", 3))]
    with pytest.raises(InputError, match=r"a: scenes x, y differ in shape .*: use batches of one"):
        data.collate(items)


def test_a_worker_passes_an_error_on(rooms_root: Path, mini_root: Path) -> None:
    """Scenes without relevancies."""
    split = opened(mini_root)
    with pytest.raises(InputError, match=r"no such field \(run generate_relevancy.py\)"):
        list(load(split.fetch_train, [plan(0)], workers=1))
