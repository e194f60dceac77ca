"""What a user can get wrong with train.py: one clear line, exit code 2, nothing half-written. Real processes."""

import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
import torch

from projects.xmrs.checks import check_split_sizes, check_training
from projects.xmrs.recipe1m import read_keys, write_keys
from shared import config
from shared.errors import InputError
from tests.xmrs.sets import make_set, write_store
from tests.xmrs.training_runs import PROJECT, assert_same_run, metrics, results, settings, train, trained


class Malicious:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return trained(tmp_path_factory.mktemp("runs") / "plain", *settings(root, "optim.epochs=1"))


def refused(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr that holds all the words, and exit code 2."""
    lines = [line for line in finished.stderr.splitlines() if line.strip() and " items/s " not in line]
    assert finished.returncode == 2, finished.stderr[-3000:]
    assert len(lines) == 1, finished.stderr[-3000:]
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


Spoil = Callable[[Path], tuple[str, ...]]


def no_store(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root / "loader_data/train_lmdb")
    return "train_lmdb", "no such"


def no_keys(root: Path) -> tuple[str, ...]:
    (root / "loader_data/val_keys.pkl").unlink()
    return ("val_keys.pkl",)


def malicious_keys(root: Path) -> tuple[str, ...]:
    path = root / "loader_data/train_keys.pkl"
    path.write_bytes(pickle.dumps([Malicious(root / "mark")]))
    return "train_keys.pkl", "pathlib"


def store_of_another_layout(root: Path) -> tuple[str, ...]:
    keys = read_keys(root / "loader_data/val_keys.pkl")
    shutil.rmtree(root / "loader_data/val_lmdb")
    write_store(root / "loader_data", "val", dict.fromkeys(keys, b"\x00\x01features"))
    return "val_lmdb", "another layout"


def malicious_value(root: Path) -> tuple[str, ...]:
    path = str(root / "loader_data/train_lmdb")
    first = read_keys(root / "loader_data/train_keys.pkl")[0]
    with lmdb.open(path, map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        transaction.put(first.encode(), pickle.dumps(Malicious(root / "mark")))
    return "train_lmdb", "pathlib"


def key_without_recipe(root: Path) -> tuple[str, ...]:
    path = root / "loader_data/val_keys.pkl"
    write_keys(path, [*read_keys(path), "ffffffffff"])
    return ("val_keys.pkl",)


def no_images(root: Path) -> tuple[str, ...]:
    shutil.rmtree(root / "images")
    return "images", "data.image_root"


def no_vocabulary(root: Path) -> tuple[str, ...]:
    (root / "vocab.txt").unlink()
    return ("vocab.txt",)


def vocabulary_too_small(root: Path) -> tuple[str, ...]:
    path = root / "vocab.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:200]) + "\n")
    return "corpus_tokens.npy", "200 entries"


SPOILS = [
    no_store,
    no_keys,
    malicious_keys,
    store_of_another_layout,
    malicious_value,
    key_without_recipe,
    no_images,
    no_vocabulary,
    vocabulary_too_small,
]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_data_that_does_not_fit(spoil: Spoil, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    words = spoil(tmp_path / "set")
    refused(train(tmp_path / "run", *settings(tmp_path / "set")), *words)
    assert not (tmp_path / "run").exists(), "a run that never began leaves no folder"
    assert not (tmp_path / "set/mark").exists(), "nothing in a pickle was executed"


def test_no_data_at_all(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    finished = train(tmp_path / "run", "experiment=x_mrs", env={"WORDSIGHT_DATA": str(nowhere)})
    refused(finished, str(nowhere / "Recipe1M/loader_data"), "create_lmdb.py")
    assert not (tmp_path / "run").exists()
    assert not nowhere.exists()


def test_unreadable_photos_are_counted_and_reported(root: Path, tmp_path: Path) -> None:
    """Empty, damaged and missing photos: white ones stand in, and the result says how many there were."""
    shutil.copytree(root, tmp_path / "set")
    photos = sorted((tmp_path / "set/images/val").rglob("*.jpg"))
    from projects.xmrs.data import open_split

    split = open_split(
        image_root=tmp_path / "set/images", data_root=tmp_path / "set/loader_data", split="val"
    )
    firsts = [split.picture(index) for index in range(3)]
    for photo, content in zip(firsts, (b"", b"\xff\xd8\xff damaged", None), strict=True):
        assert photo in photos
        assert photo is not None
        if content is None:
            photo.unlink()
        else:
            photo.write_bytes(content)
    finished = train(tmp_path / "run", *settings(tmp_path / "set"))
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("warning: unreadable image") == 3
    assert str(firsts[0]) in finished.stdout
    assert results(tmp_path / "run")["warnings"] == {"unreadable image": 3}, "not once for each epoch"


def test_fewer_pairs_than_the_subsets_hold(root: Path, tmp_path: Path) -> None:
    refused(
        train(tmp_path / "run", *settings(root, "validation.medr=21")), "validation.medr", "21", "val has 20"
    )
    with pytest.raises(InputError, match="subsets of 30 pairs asked for, but the split test has 20"):
        check_split_sizes({"val": 40, "test": 20}, 30)


def test_batch_larger_than_the_set(root: Path, tmp_path: Path) -> None:
    refused(train(tmp_path / "run", *settings(root, "optim.batch_size=61")), "60 training items", "61")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_before_the_step(root: Path, tmp_path: Path) -> None:
    refused(
        train(tmp_path / "run", *settings(root, "optim.learning_rate=1e30", "save_every=1")),
        "epoch 1, step 2",
        "learning_rate",
    )
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    assert saved["progress"]["step"] == 1
    assert not (tmp_path / "run/results.json").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("init_from=/nowhere",), ("init_from", "/nowhere")),
        (("resume_from=/nowhere",), ("resume_from", "/nowhere")),
        (("resume_from={run}",), ("optim.epochs", "last.pt has done", "found 1")),
        (("init_from={run}", "model.embed_dim=8"), ("best.pt", "align_img.0.weight")),
        (("init_from={run}", "resume_from={run}"), ("init_from", "found both")),
        (("optim.learning_rate=0",), ("optim:", "nothing would train")),
        (("optim.lerning_rate=1",), ("optim.lerning_rate", "did you mean")),
        (("model.text.layer=1",), ("model.text.layer", "did you mean")),
        (("model.image.backbone=resnet19",), ("resnet19", "resnet18")),
        (("data.max_tokens=33",), ("data.max_tokens", "model.text.max_tokens = 32", "33")),
        (("model.text.vocab_size=399",), ("model.text.vocab_size", "at least 400", "399")),
        (("model.text.heads=3",), ("heads", "16", "3")),
        (("data.text_inputs=[titel]",), ("text_inputs", "titel")),
        (("data.language=7",), ("data.language", "7")),
        (("final_splits=[testing]",), ("testing",)),
    ],
    ids=lambda value: "",
)
def test_settings_that_do_not_fit(
    overrides: tuple[str, ...], words: tuple[str, ...], root: Path, run: Path, tmp_path: Path
) -> None:
    given = [text.replace("{run}", str(run)) for text in overrides]
    refused(train(tmp_path / "run", *settings(root, "optim.epochs=1", *given)), *words)
    assert not (tmp_path / "run").exists()


def test_an_experiment_that_is_not_there(tmp_path: Path) -> None:
    refused(train(tmp_path / "run", "experiment=x_mrss"), "x_mrss", "x_mrs_awe")


def test_malicious_checkpoint(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pth.tar"
    torch.save({"epoch": 1, "state_dict": {}, "optimizer": Malicious(tmp_path / "mark")}, file)
    refused(train(tmp_path / "run", *settings(root, f"init_from={file}")), "model.pth.tar", "refused")
    assert not (tmp_path / "mark").exists()


def test_other_settings_in_the_same_folder(run: Path, root: Path) -> None:
    before = metrics(run)
    finished = train(run, *settings(root, "optim.epochs=1", "loss.margin=0.2"))
    refused(finished, "loss.margin: 0.3, now 0.2")
    assert metrics(run) == before


def test_folder_that_is_read_only(tmp_path: Path) -> None:
    """The embedded data is made on first use."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    finished = train(
        tmp_path / "run", "runtime.device=cpu", env={"WORDSIGHT_DATA": str(locked)}, obey_modes=True
    )
    refused(finished, str(locked), "ermission denied")
    assert not list(locked.iterdir())
    assert not (tmp_path / "run").exists()


def test_full_disk_while_saving(root: Path, run: Path, tmp_path: Path) -> None:
    """A disk that takes no file of a checkpoint's size: the run ends in one line, and continues when there is room."""
    small = (run / "last.pt").stat().st_size // 2
    overrides = settings(root)
    expected = trained(tmp_path / "whole", *overrides)
    refused(train(tmp_path / "run", *overrides, max_file_bytes=small), "last.pt")
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
        ("optim.batch_size=1", "optim.batch_size"),
        ("optim.learning_rate=-1", "optim.learning_rate"),
        ("optim.learning_rate=fast", "optim.learning_rate"),
        ("optim.weight_decay=null", "optim.weight_decay"),
        ("optim.warmup=1", "optim.warmup"),
        ("optim.decay_lr=[0]", "optim.decay_lr"),
        ("optim.decay_lr=[1.5]", "optim.decay_lr"),
        ("loss.margin=nan", "loss.margin"),
        ("validation.medr=0", "validation.medr"),
        ("validation.every=0", "validation.every"),
        ("validation.query=text", "validation.query"),
        ("log_every=0", "log_every"),
        ("save_every=-5", "save_every"),
        ("seed=-1", "seed"),
    ],
)
def test_values_that_no_run_can_have(override: str, key: str) -> None:
    check()
    with pytest.raises(InputError, match=f"^{key}: expected "):
        check(override)


def test_the_pickle_of_these_tests_would_do_harm(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
