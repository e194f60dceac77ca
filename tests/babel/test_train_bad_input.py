"""What a user can get wrong with train.py: one clear line, exit code 2, nothing half-written. Real processes."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from projects.babel.checks import check_training
from projects.babel.snapshots import OPTIMIZER
from projects.babel.splits import read_split
from shared import config
from shared.errors import InputError
from tests.babel.tiny_wikiscenes import make_set
from tests.babel.training_runs import PROJECT, assert_same_run, metrics, results, settings, train, trained


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


def picture(root: Path) -> Path:
    return root / read_split(root / "train.txt", None)[0].path


def edited(path: Path, before: str, after: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    return path


def no_split(root: Path) -> tuple[str, ...]:
    (root / "train.txt").unlink()
    return ("train.txt", "no such")


def empty_split(root: Path) -> tuple[str, ...]:
    (root / "val.txt").write_text("\n")
    return "val.txt", "found none"


def caption_with_a_colon(root: Path) -> tuple[str, ...]:
    edited(root / "train.txt", "photo 1, of", "photo 1: of")
    return "train.txt:2", "3 colons", "found 4"


def unknown_concept(root: Path) -> tuple[str, ...]:
    edited(root / "train.txt", "'window'", "'widnow'")
    return "train.txt:2", "widnow", "facade"


def picture_twice(root: Path) -> tuple[str, ...]:
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\n".join([*lines, lines[3]]) + "\n")
    return "train.txt:16", "twice", "line 4"


def missing_picture(root: Path) -> tuple[str, ...]:
    gone = picture(root)
    gone.unlink()
    return "train.txt", "1 of its 15", gone.name, "skip_missing"


def no_correspondences(root: Path) -> tuple[str, ...]:
    (root / "correspondence.json").unlink()
    return "correspondence.json", "no such file"


def truncated_correspondences(root: Path) -> tuple[str, ...]:
    path = root / "correspondence.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return ("correspondence.json",)


def image_twice_in_the_correspondences(root: Path) -> tuple[str, ...]:
    path = root / "correspondence.json"
    text = path.read_text(encoding="utf-8").strip()
    name = text.split('"')[1]
    path.write_text(f'{{"{name}": {{}}, {text[1:]}', encoding="utf-8")
    return "correspondence.json", "twice"


SPOILS = [
    no_split,
    empty_split,
    caption_with_a_colon,
    unknown_concept,
    picture_twice,
    missing_picture,
    no_correspondences,
    truncated_correspondences,
    image_twice_in_the_correspondences,
]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_data_that_do_not_fit(spoil: Spoil, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set", ignore=shutil.ignore_patterns("cache"))
    words = spoil(tmp_path / "set")
    refused(train(tmp_path / "run", *settings(tmp_path / "set")), *words)
    assert not (tmp_path / "run").exists(), "a run that never began leaves no folder"


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff damaged"], ids=["empty", "damaged"])
def test_a_picture_that_cannot_be_read(content: bytes, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "set")
    picture(tmp_path / "set").write_bytes(content)
    refused(train(tmp_path / "run", *settings(tmp_path / "set")), picture(tmp_path / "set").name)


def test_what_is_left_out_is_counted(root: Path, tmp_path: Path) -> None:
    """Missing pictures by wish, keypoints outside their picture always."""
    shutil.copytree(root, tmp_path / "set", ignore=shutil.ignore_patterns("cache"))
    edited(tmp_path / "set/correspondence.json", '"0_', '"x": [1.5, 0.5], "0_')
    for row in read_split(tmp_path / "set/train.txt", None)[4:8]:
        (tmp_path / "set" / row.path).unlink()
    finished = train(tmp_path / "run", *settings(tmp_path / "set", "data.skip_missing=true"))
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert results(tmp_path / "run")["warnings"] == {"keypoint outside its image": 1, "missing image": 4}
    assert finished.stdout.count("warning: missing image") == 3, "the first ones are named"


def test_no_data_at_all(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    given = ("experiment=wiki_resnet50", "model.weights=null")
    finished = train(tmp_path / "run", *given, env={"WORDSIGHT_DATA": str(nowhere)})
    refused(finished, str(nowhere / "wikiscenes"), "no such folder")
    assert not (tmp_path / "run").exists()
    assert not nowhere.exists()


def test_a_batch_larger_than_the_set(root: Path, tmp_path: Path) -> None:
    refused(train(tmp_path / "run", *settings(root, "optim.batch_size=16")), "15 training items", "16")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_before_the_step(root: Path, tmp_path: Path) -> None:
    refused(
        train(tmp_path / "run", *settings(root, "optim.lr=1e30", "save_every=1")),
        "epoch 0, step 2",
        "optim.lr",
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
        (("init_from={run}", "model.head_width=16"), ("last.pt", "aspp.")),
        (("init_from={run}", "resume_from={run}"), ("init_from", "found both")),
        (("model.weights=/nowhere",), ("model.weights", "/nowhere")),
        (("optim.lerning_rate=1",), ("optim.lerning_rate", "no such setting")),
        (("loss.correspondence.wieght=1",), ("wieght", "did you mean")),
        (("model.backbone=resnet19",), ("resnet19", "resnet18")),
        (("model.kind=unet",), ("model.kind", "unet")),
        (("loss.correspondence.layer=fc9",), ("loss.correspondence.layer", "fc9", "decoder")),
        (("data.variant=cathedrals",), ("data.variant", "cathedrals")),
        (("data.concepts=[facade,facade]",), ("concepts", "twice")),
    ],
    ids=lambda value: "",
)
def test_settings_that_do_not_fit(
    overrides: tuple[str, ...], words: tuple[str, ...], root: Path, run: Path, tmp_path: Path
) -> None:
    given = [text.replace("{run}", str(run)) for text in overrides]
    refused(train(tmp_path / "run", *settings(root, "optim.epochs=1", *given)), *words)
    assert not (tmp_path / "run").exists()


def test_snapshots_that_cannot_be_gone_on_from(root: Path, run: Path, tmp_path: Path) -> None:
    (snapshot,) = (run / "snapshots").glob("model_enc_*")
    alone = shutil.copy(snapshot, tmp_path)
    given = settings(root, "optim.epochs=2")
    refused(train(tmp_path / "run", *given, f"resume_from={alone}"), OPTIMIZER, "init_from")
    renamed = shutil.copy(snapshot, tmp_path / "mine.pth")
    refused(train(tmp_path / "run", *given, f"resume_from={renamed}"), "mine.pth", "does not say its epochs")
    (tmp_path / f"{OPTIMIZER}{Path(alone).name.removeprefix('model_enc_')}").write_bytes(b"PK\x03\x04 cut")
    refused(train(tmp_path / "run", *given, f"resume_from={alone}"), OPTIMIZER)
    harm = tmp_path / "harm.pth"
    torch.save({"layer": Malicious(tmp_path / "mark")}, harm)
    refused(train(tmp_path / "run", *given, f"init_from={harm}"), "harm.pth")
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "run").exists()


def test_an_experiment_that_is_not_there(tmp_path: Path) -> None:
    refused(train(tmp_path / "run", "experiment=wiki_resnet5"), "wiki_resnet5", "wiki_resnet50_cls")


def test_other_settings_in_the_same_folder(run: Path, root: Path) -> None:
    before = metrics(run)
    finished = train(run, *settings(root, "optim.epochs=1", "loss.correspondence.tau=0.2"))
    refused(finished, "loss.correspondence.tau: 0.07, now 0.2")
    assert metrics(run) == before


def test_full_disk_while_saving(root: Path, run: Path, tmp_path: Path) -> None:
    """A disk that takes no file of a checkpoint's size: one line, and the run continues when there is room."""
    small = (run / "last.pt").stat().st_size // 2
    overrides = settings(root, "optim.epochs=1")
    refused(train(tmp_path / "run", *overrides, max_file_bytes=small), "last.pt")
    assert not list((tmp_path / "run").rglob("*.tmp*")), "nothing half-written"
    before = torch.load(tmp_path / "run/last.pt", weights_only=True)["progress"]["step"]
    assert before == 0, "the checkpoint before the first step, without moments, is smaller"
    trained(tmp_path / "run", *overrides)
    assert_same_run(tmp_path / "run", run)


def check(*overrides: str) -> None:
    check_training(config.section(config.compose(PROJECT, "train", overrides)))


@pytest.mark.parametrize(
    "override",
    [
        "data.size=large",
        "data.mirrored=often",
        "model.dropout=1",
        "model.gate_alpha=2",
        "model.dilations=3",
        "model.pamr.iterations=-1",
        "model.width=wide",
        "workers=-1",
        "optim.epochs=0",
        "optim.epochs=1.5",
        "optim.batch_size=many",
        "optim.lr=-1",
        "optim.lr=fast",
        "optim.weight_decay=null",
        "optim.kind=Adagrad",
        "optim.milestones=6",
        "optim.milestones=[1.5]",
        "optim.betas=[0.9]",
        "optim.momentum=1",
        "optim.pretrain=-1",
        "optim.inclusive_epochs=1",
        "loss.classification=BCE",
        "loss.mask_weight=-1",
        "loss.correspondence.weight=nan",
        "loss.correspondence.kind=infonce",
        "loss.correspondence.negatives=1",
        "loss.correspondence.tau=0",
        "loss.correspondence.until_epoch=soon",
        "validation.every=0",
        "validation.initial=maybe",
        "snapshots=-1",
        "log_every=0",
        "save_every=-5",
        "seed=-1",
    ],
)
def test_values_that_no_run_can_have(override: str) -> None:
    with pytest.raises(InputError, match=f"^{override.split('=')[0]}: expected "):
        check(override)


def test_the_settings_as_they_stand_pass() -> None:
    check()


def test_the_pickle_of_these_tests_would_do_harm(tmp_path: Path) -> None:
    import pickle

    pickle.loads(pickle.dumps(Malicious(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
