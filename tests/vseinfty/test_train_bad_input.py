"""What a user can get wrong with train.py: one clear line, exit code 2, nothing half-written. Real processes."""

import ctypes
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.vseinfty.checks import check_training
from shared import checkpoint, config
from shared.errors import InputError
from tests.vseinfty.training_runs import (
    PROJECT,
    assert_same_run,
    make_bert,
    make_set,
    metrics,
    settings,
    train,
    trained,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return trained(tmp_path_factory.mktemp("runs") / "plain", *settings(root, "optim.epochs=1"))


def refused(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr that holds all the words, and exit code 2."""
    lines = [line for line in finished.stderr.splitlines() if " items/s " not in line]
    assert finished.returncode == 2, finished.stderr[-3000:]
    assert len(lines) == 1, finished.stderr[-3000:]
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


def copy_of(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root, tmp_path / "set")
    return tmp_path / "set"


Spoil = Callable[[Path], tuple[str, ...]]


def no_features(root: Path) -> tuple[str, ...]:
    (root / "precomp/train_ims.npy").unlink()
    return "train_ims.npy", "no such"


def short_features(root: Path) -> tuple[str, ...]:
    path = root / "precomp/train_ims.npy"
    np.save(path, np.load(path)[:-1])
    path.with_name("train_lengths.npy").unlink()  # the released sets have none
    return "train_ims.npy", "expected 12 or 60 rows", "found 11"


def cut_features(root: Path) -> tuple[str, ...]:
    path = root / "precomp/train_ims.npy"
    path.write_bytes(path.read_bytes()[:-100])
    return ("train_ims.npy",)


def four_captions(root: Path) -> tuple[str, ...]:
    path = root / "precomp/dev_caps.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "dev_caps.txt", "5 captions for each image", "found 29"


def no_vocabulary(root: Path) -> tuple[str, ...]:
    (root / "vocab/mini_precomp_vocab.json").unlink()
    return ("mini_precomp_vocab.json",)


def vocabulary_of_another_kind(root: Path) -> tuple[str, ...]:
    (root / "vocab/mini_precomp_vocab.json").write_text('{"words": ["a", "b"]}')
    return "mini_precomp_vocab.json", "word2idx"


@pytest.mark.parametrize(
    "spoil",
    [
        no_features,
        short_features,
        cut_features,
        four_captions,
        no_vocabulary,
        vocabulary_of_another_kind,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_data_that_does_not_fit(spoil: Spoil, root: Path, tmp_path: Path) -> None:
    own = copy_of(root, tmp_path)
    words = spoil(own)
    refused(train(tmp_path / "run", *settings(own)), *words)
    assert not (tmp_path / "run").exists(), "a run that never began leaves no folder"


def test_no_data_at_all(tmp_path: Path) -> None:
    finished = train(
        tmp_path / "run", "experiment=f30k_region_bigru", env={"WORDSIGHT_DATA": str(tmp_path / "nowhere")}
    )
    refused(finished, str(tmp_path / "nowhere/f30k/precomp"))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "nowhere").exists()


def test_features_that_are_not_numbers(root: Path, tmp_path: Path) -> None:
    """They are met in training, after checkpoints were written: those stay whole, and hold good weights."""
    own = copy_of(root, tmp_path)
    path = own / "precomp/train_ims.npy"
    features = np.load(path)
    features[7, 0, 3] = np.nan
    np.save(path, features)
    refused(train(tmp_path / "run", *settings(own, "save_every=1")), "train_ims.npy", "row 7", "NaN")
    assert not (tmp_path / "run/results.json").exists()
    assert not list((tmp_path / "run").glob("*.tmp*"))
    if (tmp_path / "run/last.pt").exists():
        saved = checkpoint.load(tmp_path / "run/last.pt")["modules"]["model"]
        assert all(torch.isfinite(value).all() for value in saved.values())


def test_vocabulary_that_the_checkpoint_was_not_trained_with(run: Path, root: Path, tmp_path: Path) -> None:
    own = copy_of(root, tmp_path)
    path = own / "vocab/mini_precomp_vocab.json"
    words = json.loads(path.read_text())
    removed = words["idx2word"].pop(str(words["idx"] - 1))
    del words["word2idx"][removed]
    words["idx"] -= 1
    path.write_text(json.dumps(words))
    refused(train(tmp_path / "run", *settings(own, f"resume_from={run}")), "last.pt", "txt_enc.embed.weight")
    assert not (tmp_path / "run").exists()


def test_bert_whose_vocabulary_is_too_small(root: Path, tmp_path: Path) -> None:
    overrides = make_bert(tmp_path, root)
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("another\n")
    refused(train(tmp_path / "run", *settings(root, *overrides)), "model.bert", "data.vocab_path")


def test_checkpoint_of_another_architecture(run: Path, root: Path, tmp_path: Path) -> None:
    finished = train(tmp_path / "run", *settings(root, f"resume_from={run}", "model.embed_size=24"))
    refused(finished, str(run / "last.pt"), "does not fit", "img_enc.fc.weight", "expected [24, 64]")
    assert not (tmp_path / "run").exists()


def test_changed_settings_in_an_existing_run_folder(run: Path, root: Path) -> None:
    before = state_of(run)
    refused(
        train(run, *settings(root, "optim.epochs=1", "optim.learning_rate=1e-4")),
        "optim.learning_rate",
        "0.0001",
    )
    assert state_of(run) == before


def state_of(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}


def test_mistyped_setting_and_unknown_experiment(root: Path, tmp_path: Path) -> None:
    refused(
        train(tmp_path / "run", *settings(root, "optim.lerning_rate=1")), "optim.lerning_rate", "did you mean"
    )
    refused(train(tmp_path / "run", "experiment=coco_region_brt"), "coco_region_brt", "coco_region_bert")
    assert not (tmp_path / "run").exists()


def test_batch_larger_than_the_set(root: Path, tmp_path: Path) -> None:
    refused(train(tmp_path / "run", *settings(root, "optim.batch_size=61")), "60 training items", "61")
    assert not (tmp_path / "run").exists()


def test_data_root_that_is_read_only(tmp_path: Path) -> None:
    """The embedded data is made on first use."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    finished = train(
        tmp_path / "run", "runtime.device=cpu", env={"WORDSIGHT_DATA": str(locked)}, preexec_fn=obey_modes
    )
    refused(finished, str(locked), "ermission denied")
    assert not list(locked.iterdir())
    assert not (tmp_path / "run").exists()


def obey_modes() -> None:
    """Root's right to write everywhere (CAP_DAC_OVERRIDE) is taken from the program that is about to start."""
    if os.geteuid() == 0:
        drop_from_bounding_set, cap_dac_override = 24, 1
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, cap_dac_override, 0, 0, 0) == 0


def test_full_disk_while_saving(root: Path, run: Path, tmp_path: Path) -> None:
    """A disk that takes no file of a checkpoint's size: the run ends in one line, and continues when there is room."""
    small = (run / "last.pt").stat().st_size // 2
    overrides = settings(root)
    expected = trained(tmp_path / "whole", *overrides)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))

    refused(train(tmp_path / "run", *overrides, preexec_fn=limit), "last.pt")
    assert not list((tmp_path / "run").glob("*.pt*")), "nothing half-written"
    assert metrics(tmp_path / "run")
    trained(tmp_path / "run", *overrides)
    assert_same_run(tmp_path / "run", expected)


def check(*overrides: str) -> None:
    check_training(config.section(config.compose(PROJECT, "train", overrides)))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optim.epochs=0", "optim.epochs"),
        ("optim.epochs=1.5", "optim.epochs"),
        ("optim.batch_size=many", "optim.batch_size"),
        ("optim.learning_rate=-1", "optim.learning_rate"),
        ("optim.learning_rate=fast", "optim.learning_rate"),
        ("optim.lr_update=null", "optim.lr_update"),
        ("loss.margin=nan", "loss.margin"),
        ("loss.vse_mean_warmup_epochs=true", "loss.vse_mean_warmup_epochs"),
        ("micro_batch=0", "micro_batch"),
        ("log_every=0", "log_every"),
        ("save_every=-5", "save_every"),
        ("seed=-1", "seed"),
    ],
)
def test_numbers_that_no_run_can_have(override: str, key: str) -> None:
    with pytest.raises(InputError, match=f"^{key}: expected a .*number"):
        check(override)


def test_synchronised_batch_norm_needs_the_whole_batch() -> None:
    check("sync_batchnorm=true")
    check("micro_batch=8")
    with pytest.raises(InputError, match=r"sync_batchnorm: .*micro_batch=null"):
        check("sync_batchnorm=true", "micro_batch=8")
