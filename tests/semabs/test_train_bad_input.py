"""What a user can get wrong in training: one clear line, exit code 2, nothing half-written."""

import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from projects.semabs.checks import check_training
from projects.semabs.scene_file import remove_saliencies
from projects.semabs.splits import SPLIT_FILES, read_splits, write_splits
from shared import config
from shared.errors import InputError
from tests.semabs.training_runs import PROJECT, settings, train, trained


class Malicious:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


def refused(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr that holds all the words, and exit code 2."""
    lines = [line for line in finished.stderr.splitlines() if line.strip() and " items/s " not in line]
    assert finished.returncode == 2, finished.stderr[-3000:]
    assert len(lines) == 1, finished.stderr[-3000:]
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


Spoil = Callable[[Path], tuple[str, ...]]


def scene(root: Path) -> Path:
    """The first scene of the training split."""
    return root / read_splits(root / SPLIT_FILES["ovssc"])["train"][0]


def no_splits(root: Path) -> tuple[str, ...]:
    (root / SPLIT_FILES["ovssc"]).unlink()
    return SPLIT_FILES["ovssc"], "no such file"


def malicious_splits(root: Path) -> tuple[str, ...]:
    mark = root / "mark"
    (root / SPLIT_FILES["ovssc"]).write_bytes(pickle.dumps({"train": Malicious(mark)}))
    return SPLIT_FILES["ovssc"], "refused"


def empty_split(root: Path) -> tuple[str, ...]:
    path = root / SPLIT_FILES["ovssc"]
    write_splits(path, {**read_splits(path), "val": []})
    return SPLIT_FILES["ovssc"], "val", "found none"


def no_such_split(root: Path) -> tuple[str, ...]:
    path = root / SPLIT_FILES["ovssc"]
    write_splits(path, {name: files for name, files in read_splits(path).items() if name != "train"})
    return SPLIT_FILES["ovssc"], "train"


def missing_scene(root: Path) -> tuple[str, ...]:
    scene(root).unlink()
    return scene(root).name, "no such"


def truncated_scene(root: Path) -> tuple[str, ...]:
    path = scene(root)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return (path.name,)


def no_relevancies(root: Path) -> tuple[str, ...]:
    remove_saliencies(scene(root))
    return scene(root).name, "saliencies", "generate_relevancy.py"


def relevancies_that_are_not_numbers(root: Path) -> tuple[str, ...]:
    with h5py.File(scene(root), "r+") as file:
        file["saliencies"][:] = np.nan
    return ("epoch 1", "input_feature_pts", scene(root).stem)


SPOILS = [
    no_splits,
    malicious_splits,
    empty_split,
    no_such_split,
    missing_scene,
    truncated_scene,
    no_relevancies,
    relevancies_that_are_not_numbers,
]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_bad_data_are_refused_in_a_line(spoil: Spoil, rooms_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(rooms_root, tmp_path / "rooms")
    words = spoil(root)
    run_dir = tmp_path / "run"
    refused(train(run_dir, *settings(root)), *words)
    assert not (run_dir / "last.pt").exists()
    assert not list(run_dir.glob("*.pth"))
    assert not (root / "mark").exists()
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("task", "override", "words"),
    [
        ("ovssc", "model.approach=clip_spatial", ("model.approach", "semantic_aware", "clip_spatial")),
        ("ovssc", "model.network_inputs=[depth]", ("model.network_inputs", "patch_masks", "depth")),
        ("ovssc", "model.network_inputs=[]", ("model.network_inputs",)),
        ("ovssc", "model.voxel_shape=[32,32]", ("model.voxel_shape", "three")),
        ("ovssc", "items.scene_bounds=[[0,0,0],[1,1,0]]", ("items.scene_bounds", "corners")),
        ("ovssc", "items.saliency_config=theirs", ("items.saliency_config", "chefer_et_al", "theirs")),
        ("ovssc", "items.num_output_pts=0", ("items.num_output_pts", "at least 1", "0")),
        ("ovssc", "items.eval_input_pts=0", ("items.eval_input_pts", "-1")),
        ("ovssc", "items.augmentation=flip", ("items.augmentation", "rooms", "flip")),
        ("ovssc", "items.subtract_mean_relevancy=2", ("items.subtract_mean_relevancy", "true or false")),
        ("ovssc", "items.relevancy_scale=0", ("items.relevancy_scale", "above 0")),
        ("ovssc", "loss.mean_over=rooms", ("loss.mean_over", "points, scenes", "rooms")),
        ("ovssc", "optim.kind=sgd", ("optim.kind", "lamb, adamw", "sgd")),
        ("ovssc", "optim.schedule=step", ("optim.schedule", "cosine_with_restarts", "step")),
        ("ovssc", "optim.lr=-1", ("optim.lr", "above 0", "-1")),
        ("ovssc", "optim.clip=0", ("optim.clip", "or null")),
        ("ovssc", "optim.steps=0", ("optim.steps", "at least 1")),
        ("ovssc", "validation.cutoffs.step=0", ("validation.cutoffs.step", "above 0")),
        ("ovssc", "validation.cutoffs.stop=-9", ("validation.cutoffs.stop",)),
        ("vool", "items.num_descs=none", ("items.num_descs", "none")),
        ("vool", "model.approach=oracle", ("model.approach", "clip_spatial", "oracle")),
    ],
)
def test_bad_settings_are_named_before_anything_is_read(
    task: str, override: str, words: tuple[str, ...]
) -> None:
    given = config.section(config.compose(PROJECT, f"train_{task}", [override]))
    with pytest.raises(InputError) as refusal:
        check_training(task, given)
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value), f"{word!r} is not in {refusal.value}"


def test_two_starting_points_are_one_too_many() -> None:
    given = config.section(config.compose(PROJECT, "train_ovssc", ["resume_from=a", "init_from=b"]))
    with pytest.raises(InputError, match="resume_from and init_from"):
        check_training("ovssc", given)


def test_a_folder_made_with_other_settings_is_left_alone(rooms_root: Path, tmp_path: Path) -> None:
    run_dir = trained(
        tmp_path / "run", *settings(rooms_root, "optim.steps=1", "validation.every=0", "snapshots.keep=0")
    )
    before = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name != ".lock"}
    refused(
        train(run_dir, *settings(rooms_root, "optim.steps=2", "validation.every=0")), "optim.steps: 1, now 2"
    )
    after = {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name != ".lock"}
    assert after == before


def test_a_typo_is_named(tmp_path: Path) -> None:
    refused(train(tmp_path / "run", "items.num_patch=3"), "items.num_patch", "num_patches")
