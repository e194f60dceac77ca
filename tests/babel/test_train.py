"""The entry train.py: what a run leaves behind, its options, and the settings of the released runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.babel import snapshots
from projects.babel import trained as trained_models
from projects.babel.starting_point import starting_point
from shared import checkpoint, config
from tests.babel.tiny_wikiscenes import CONCEPTS, make_set
from tests.babel.training_runs import PROJECT, TRAIN, metrics, results, settings, trained, weights

EXPERIMENTS = sorted(path.stem for path in (PROJECT / "configs/experiment").glob("wiki_*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run started as a user does; its snapshots are all kept."""
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    options = settings(root, "optim.inclusive_epochs=true", "optim.epochs=1", "snapshots=null")
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={run_dir}", *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=run_dir.parent)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("epochs done") == 3
    assert "trained for 2 epochs" in finished.stdout
    return run_dir


def test_a_run_leaves_checkpoint_snapshots_numbers_and_a_result(run: Path) -> None:
    result, lines = results(run), metrics(run)
    steps = [line for line in lines if "data/loss" in line]
    validations = [line for line in lines if "val/all/loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in steps] == [0, 0, 0, 1, 1, 1]
    assert [line["data/loss_mask"] > 0 for line in steps] == [False] * 3 + [True] * 3, (
        "from optim.pretrain on"
    )
    assert all(line["data/loss_3d"] > 0 for line in steps if line["data/kp number"] > 10)
    assert [line["lr/enc_group_02"] for line in steps] == pytest.approx([5e-3] * 3 + [5e-4] * 3)
    assert [line["step"] for line in validations] == [0, 3, 6]
    found = result["metrics"]
    assert found["epoch"] == 2
    assert found["val"]["mAP"] == validations[-1]["val/all_wo_BG/mAP"]
    assert found["val_easy"]["loss"] == validations[-1]["val_easy/all/loss"]
    assert found["score"] == 1 - found["val"]["loss"] == validations[-1]["val/all/checkpoint_score"]
    assert set(found["val"]["AP"]) == set(CONCEPTS)
    assert checkpoint.load(run / "last.pt")["progress"]["epoch"] == 2
    names = sorted(path.name for path in (run / "snapshots").iterdir())
    expected = [
        f"{start}{snapshots.suffix(epoch, line['val/all/checkpoint_score'])}.pth"
        for start in (snapshots.MODEL, snapshots.OPTIMIZER)
        for epoch, line in enumerate(validations)
    ]
    assert names == expected
    assert not list(run.rglob("*tmp*"))


def test_tensorboard_has_the_released_names(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    released = {
        f"data/{name}" for name in ("loss", "loss_cls", "loss_fg", "loss_mask", "loss_3d", "kp number")
    }
    released |= {f"lr/enc_group_{group:02d}" for group in range(4)}
    for split in ("val", "val_easy"):
        released |= {f"{split}/all_wo_BG/{name}" for name in ("mAP", "acc", "easy_acc")}
        released |= {f"{split}/all/{name}" for name in ("loss", "loss_cls", "loss_fg", "loss_mask")}
    assert tags >= released | {"val/all/checkpoint_score", "val/01_facade/AP", "val/01_facade/acc"}
    assert {"val/confusion_matrix", "val_easy/confusion_matrix"} <= set(events.Tags()["images"])


def test_a_run_and_its_snapshot_are_loaded_by_the_one_way_in(run: Path) -> None:
    last = trained_models.load(run)
    newest = max((run / "snapshots").glob("model_enc_*"), key=lambda path: path.name)
    snapshot = trained_models.load(newest)
    state = checkpoint.load(run / "last.pt")["modules"]["model"]
    for loaded in (last, snapshot):
        assert tuple(loaded.concepts) == CONCEPTS
        assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
        assert not loaded.model.training


def test_a_finished_run_can_be_gone_on_from(run: Path, root: Path, tmp_path: Path) -> None:
    """From our checkpoint, and from a snapshot under its released name: the same epochs, the same numbers."""
    newest = max((run / "snapshots").glob("model_enc_*"), key=lambda path: path.name)
    options = settings(root, "optim.epochs=3", "validation.initial=false")
    onward = trained(tmp_path / "on", *options, f"resume_from={run}")
    released = trained(tmp_path / "released", *options, f"resume_from={newest}")
    assert [line["step"] for line in metrics(onward) if "data/loss" in line] == [7, 8, 9]
    ours, theirs = weights(onward), weights(released)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "rng" not in name)
    assert results(onward)["metrics"]["epoch"] == 3
    assert starting_point(None, str(newest)).progress.epoch == 0


def test_weights_alone_start_a_new_run(run: Path, root: Path, tmp_path: Path) -> None:
    still = settings(root, f"init_from={run}", "optim.epochs=1", "optim.lr=1e-30", "validation.initial=false")
    anew = trained(tmp_path / "anew", *still)
    before, found = weights(run), weights(anew)
    assert [line["step"] for line in metrics(anew) if "data/loss" in line] == [1, 2, 3]
    moved = [
        name for name in found if name.startswith("model.") and not torch.equal(found[name], before[name])
    ]
    assert all("running_" in name or "num_batches" in name for name in moved), "its rate is next to nothing"


def test_settings_that_do_not_matter_may_change_in_between(run: Path, root: Path) -> None:
    before = metrics(run), (run / "last.pt").stat().st_mtime_ns
    same = ("optim.inclusive_epochs=true", "optim.epochs=1")
    trained(run, *settings(root, *same, "workers=1", "log_every=7", "snapshots=1"))
    assert (metrics(run), (run / "last.pt").stat().st_mtime_ns) == before, "it was finished"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            ("data.multi_label=true", "loss.classification=SoftMargin", "loss.correspondence.kind=triplet",
             "optim.kind=SGD", "validation.random_crops=true", "data.val_easy=null"),
            id="other losses",
        ),
        pytest.param(
            ("model.kind=bsl", "loss.correspondence.layer=backbone", "loss.correspondence.kind=contrastive",
             "loss.classification=Separate", "validation.every=2", "validation.initial=false", "snapshots=0"),
            id="bsl",
        ),
        pytest.param(
            ("data.labelled=0.4", "data.shuffle_matches=true", "loss.correspondence.layer=fc8",
             "loss.correspondence.until_epoch=1", "runtime.precision=bf16", "snapshots=1"),
            id="few labels, bf16",
        ),
    ],
)  # fmt: skip
def test_options_train(overrides: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    run_dir = trained(tmp_path / "run", *settings(root, *overrides))
    lines = metrics(run_dir)
    assert sum("data/loss" in line for line in lines) == 6
    assert [line["step"] for line in lines if "val/all/loss" in line] == (
        [6] if "validation.every=2" in overrides else [0, 3, 6]
    )
    kept = len(list(run_dir.glob("snapshots/model_enc_*")))
    assert kept == (0 if "snapshots=0" in overrides else 1)
    if "loss.correspondence.until_epoch=1" in overrides:
        assert [line["data/loss_3d"] for line in lines if "data/loss" in line][3:] == [0, 0, 0]
    if "data.val_easy=null" in overrides:
        assert "val_easy" not in results(run_dir)["metrics"]


def test_the_embedded_data_train(mini_root: Path, tmp_path: Path) -> None:
    """The set that the bare command makes: its files are where data/mini.yaml says, its concepts those of the masks."""
    from projects.babel import mini

    given = [text for text in settings(mini_root, "optim.epochs=1") if not text.startswith("data.concepts")]
    run_dir = trained(tmp_path / "run", *given, "data.val=${data.dev}")
    result = results(run_dir)
    assert tuple(result["config"]["data"]["concepts"]) == mini.CONCEPTS
    assert result["metrics"]["val"]["images"] == 8, "the landmark for choices"
    assert sum(line.get("data/kp number", 0) for line in metrics(run_dir)) > 100
    for listed in result["config"]["data"]["segmentation"].values():
        assert Path(listed).is_file()


def composed(name: str) -> dict[str, Any]:
    return config.section(config.compose(PROJECT, "train", [f"experiment={name}"]))


def flat(given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


# what an ablation differs in, by a word of its name
DIFFERENCES = {
    "no_3d": {"loss.correspondence.weight"},
    "weight": {"loss.correspondence.weight"},
    "contrastive": {"loss.correspondence.kind"},
    "triplet": {"loss.correspondence.kind"},
    "mse": {"loss.correspondence.kind"},
    "layer": {"loss.correspondence.layer"},
    "negatives": {"loss.correspondence.negatives"},
    "tau": {"loss.correspondence.tau"},
    "unnormalized": {"loss.correspondence.normalize"},
    "3d_until": {"loss.correspondence.until_epoch"},
    "multi_label": {"data.multi_label", "loss.classification"},
    "soft_margin": {"loss.classification"},
    "hinge": {"loss.classification"},
    "separate": {"loss.classification"},
    "no_mask_loss": {"loss.mask_weight"},
}
NETS = {"model.backbone", "model.weights"}
CLASSIFIERS = {
    "optim.epochs",
    "optim.batch_size",
    "optim.milestones",
    "model.kind",
    "loss.correspondence.layer",
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_ablations_differ_in_what_their_name_says_and_in_nothing_else(name: str) -> None:
    own, released = composed(name), composed("wiki_resnet50")
    assert own["name"] == name
    allowed: set[str] = set()
    for word, keys in DIFFERENCES.items():
        if f"_{word}" in name:
            allowed |= keys
    if "_resnet50" not in name:
        allowed |= NETS
    if "_cls" in name:
        allowed |= CLASSIFIERS
    if "_bsl" in name:
        allowed |= {"model.kind", "loss.correspondence.layer"}
    sections = ("data", "model", "loss", "optim", "validation")
    ours, theirs = (flat({key: given[key] for key in sections}) for given in (own, released))
    assert {key for key in ours if ours[key] != theirs[key]} == allowed


def test_every_axis_of_the_ablations_has_an_experiment() -> None:
    for word in DIFFERENCES:
        assert any(f"_{word}" in name for name in EXPERIMENTS), word
    nets = {"wiki_resnet50", "wiki_resnet101", "wiki_resnet38", "wiki_vgg16", "wiki_bsl_resnet50"}
    nets |= {f"wiki_{name}_cls" for name in ("resnet50", "mobilenetv2", "resnet18", "squeezenet")}
    assert nets <= set(EXPERIMENTS)
