"""The entry train.py: what a run leaves behind, its options, and the settings of the paper's runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.vseinfty import trained as trained_models
from shared import checkpoint, config
from tests.vseinfty.training_runs import (
    PROJECT,
    make_bert,
    make_set,
    metrics,
    results,
    settings,
    trained,
    weights,
)

EXPERIMENTS = sorted(path.stem for path in (PROJECT / "configs/experiment").glob("*.yaml"))
PAPER = [name for name in EXPERIMENTS if name.startswith(("coco_", "f30k_", "vsepp_"))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "plain", *settings(root))


def test_a_run_leaves_checkpoints_numbers_and_a_result(run: Path) -> None:
    result = results(run)
    lines = metrics(run)
    steps = [line for line in lines if "Le" in line]
    epochs = [line for line in lines if "rsum" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert [line["epoch"] for line in steps] == [0] * 4 + [0] + [1] * 5
    assert [line["step"] for line in epochs] == [5, 10]
    best = max(epochs, key=lambda line: line["rsum"])
    assert result["metrics"]["rsum"] == best["rsum"]
    assert result["metrics"]["epoch"] == epochs.index(best)
    assert result["steps"] == 10
    for name in ("r1", "r5", "r10", "medr", "meanr", "r1i", "r5i", "r10i", "medri", "meanri", "rsum"):
        assert name in result["metrics"], name
    saved = checkpoint.load(run / "best.pt")["progress"]
    assert (saved["best_rsum"], saved["epoch"] - 1) == (best["rsum"], result["metrics"]["epoch"])
    assert checkpoint.load(run / "last.pt")["progress"]["step"] == 10
    assert not list(run.glob("*tmp*"))


def test_the_learning_rate_falls_where_it_should(run: Path) -> None:
    rates = [line["lr"] for line in metrics(run) if "lr" in line]
    assert rates == pytest.approx([5e-3] * 8 + [5e-4] * 2), (
        "lr_update=1.5 of 5 steps each: from the 9th step on"
    )


def test_tensorboard_has_the_released_names(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"epoch", "step", "batch_time", "data_time", "Eit", "lr", "Le"}
    assert tags >= {"r1", "r5", "r10", "medr", "meanr", "r1i", "r5i", "r10i", "medri", "meanri", "rsum"}
    assert [event.step for event in events.Scalars("Le")] == list(range(1, 11))


def test_a_run_is_loaded_by_the_one_way_in(run: Path) -> None:
    model = trained_models.load(run)
    best = checkpoint.load(run / "best.pt")["modules"]["model"]
    assert all(torch.equal(value, best[name]) for name, value in model.model.state_dict().items())


def test_a_finished_run_can_be_started_from(run: Path, root: Path, tmp_path: Path) -> None:
    """resume_from in a new folder: with its state the run goes on, with reset_start_epoch it starts anew."""
    onward = trained(tmp_path / "on", *settings(root, f"resume_from={run}", "optim.epochs=3"))
    assert [line["step"] for line in metrics(onward) if "Le" in line] == list(range(11, 16))
    assert {line["lr"] for line in metrics(onward) if "lr" in line} == {5e-4}, "quirk 12: still decayed"
    anew = trained(
        tmp_path / "anew", *settings(root, f"resume_from={run}", "reset_start_epoch=true", "optim.epochs=1")
    )
    found = [line["Le"] for line in metrics(anew) if "Le" in line]
    assert [line["step"] for line in metrics(anew) if "Le" in line] == list(range(1, 6))
    assert found[0] < metrics(run)[0]["Le"], "the same first batch, by trained weights"


def test_settings_that_do_not_matter_may_change_in_between(run: Path, root: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    again = trained(
        tmp_path / "copy", *settings(root, "workers=1", "log_every=7", "eval_batch_size=3", "micro_batch=4")
    )
    assert metrics(again) == metrics(run), "it was finished: nothing is trained again"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("micro_batch=5", "runtime.precision=bf16"), id="cached embeddings, bf16"),
        pytest.param(("runtime.precision=fp16", "model.rnn_layers=2", "optim.grad_clip=0"), id="fp16"),
        pytest.param(("optim.name=sgd", "data.size_augmentation=false", "model.image_pooling=gem"), id="sgd"),
        pytest.param(
            ("final_splits=[test]", "model.text_pooling=last", "optim.drop_last=false"), id="test split"
        ),
    ],
)
def test_options_train(overrides: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    run_dir = trained(tmp_path / "run", *settings(root, *overrides))
    losses = [line["Le"] for line in metrics(run_dir) if "Le" in line]
    assert len(losses) == 10
    assert min(losses) < 0.9 * losses[0]
    if "final_splits=[test]" in overrides:
        assert results(run_dir)["metrics"]["test"]["rsum"] >= 0


def test_bert_with_the_first_token(root: Path, tmp_path: Path) -> None:
    overrides = settings(
        root, *make_bert(tmp_path, root), "model.text_pooling=cls", "model.image_pooling=avg"
    )
    run_dir = trained(tmp_path / "run", *overrides)
    names = weights(run_dir)
    assert "model.txt_enc.bert.embeddings.word_embeddings.weight" in names
    assert not any("gpool" in name for name in names)


@pytest.mark.slow
def test_compiled_encoders_train(root: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    few = settings(root, "data.max_captions=25", "optim.epochs=1")  # two steps
    run_dir = trained(tmp_path / "run", *few, "compile=true")
    plain = trained(tmp_path / "plain", *few)
    assert weights(run_dir).keys() == weights(plain).keys()
    for ours, theirs in zip(metrics(run_dir)[:2], metrics(plain)[:2], strict=True):
        assert ours["Le"] == pytest.approx(theirs["Le"], rel=1e-3)


@pytest.mark.slow
def test_raw_images_train_with_a_frozen_and_an_unfrozen_cnn(tmp_path: Path) -> None:
    run_dir = trained(
        tmp_path / "run",
        "experiment=smoke_grid",
        "data.max_captions=20",
        "data.image_side=64",
        "runtime.device=cpu",
        "workers=0",
        env={"WORDSIGHT_DATA": str(tmp_path)},
    )
    assert [line["step"] for line in metrics(run_dir) if "Le" in line] == [1, 2, 3, 4]
    states = checkpoint.load(run_dir / "last.pt")["modules"]["optimizer"]["state"]
    assert {int(state["step"]) for state in states.values()} == {2, 4}, (
        "the CNN trains in the second epoch alone"
    )


def composed(name: str) -> dict[str, Any]:
    return config.section(config.compose(PROJECT, "train", [f"experiment={name}"]))


@pytest.mark.parametrize("name", PAPER)
def test_paper_runs_have_the_released_flags(name: str) -> None:
    """Spec sections 7 and 10."""
    own = composed(name)
    hyper, model, data = own["optim"], own["model"], own["data"]
    assert own["name"] == name or name.endswith("kmax_grid")
    assert (hyper["epochs"], hyper["batch_size"], hyper["learning_rate"]) == (25, 128, 5e-4)
    assert (hyper["lr_update"], hyper["grad_clip"], hyper["gpo_lr_factor"]) == (15, 2.0, 1.0)
    assert hyper["weight_decay"] is None
    assert own["loss"] == {"margin": 0.2, "max_violation": False, "vse_mean_warmup_epochs": 1}
    assert (model["embed_size"], model["image_dim"], model["word_dim"]) == (1024, 2048, 300)
    assert model["gpo"] == {"positional_dim": 32, "hidden_dim": 32, "temperature": 0.1}
    assert data["name"] == ("f30k" if "f30k" in name else "coco")
    assert data["variant"] is None
    assert model["text_encoder"] == ("bert" if "bert" in name else "bigru")
    if "bert" in name:
        assert data["vocab_path"] is None
        assert model["bert"].endswith("weights/bert-base-uncased")
    else:
        assert data["vocab_path"].endswith(f"{data['name']}_precomp_vocab.json")
    assert hyper["name"] == ("sgd" if name.endswith("sgd") else "adam")
    assert own["micro_batch"] is None
    assert own["runtime"]["precision"] == "fp32"
    if "grid_" in name and "kmax_grid" not in name:
        assert (model["image_encoder"], data["kind"], data["image_side"]) == ("grid", "pixels", 512)
        assert (hyper["embedding_warmup_epochs"], hyper["backbone_warmup_epochs"]) == (1, 0)
        assert hyper["backbone_lr_factor"] == (0.1 if "res152" in name else 0.01)
        backbone = {"wsl": "wsl", "res1": "imagenet_res152", "dete": "detector"}
        assert model["backbone"] == backbone[name.split("grid_")[1][:4].removesuffix("_")]
        assert model["backbone_weights"]
        assert hyper["drop_last"] is False
    else:
        assert (model["image_encoder"], data["kind"], hyper["drop_last"]) == ("regions", "regions", True)
    if name.startswith("vsepp_"):
        text = "cls" if "bert" in name else "avg"
        assert (model["image_pooling"], model["text_pooling"]) == ("avg", text)
        assert data["size_augmentation"] is False


def test_every_row_of_the_papers_tables_has_an_experiment() -> None:
    rows = ["region_bigru", "region_bert", "grid_detector_bigru", "grid_detector_bert", "grid_wsl_bert"]
    rows.append("grid_res152_bigru")
    baselines = ["region_bigru", "region_bert", "grid_wsl_bert", "grid_res152_bigru"]
    ablations = ["region_bert_avg_cls", "region_bert_avg_gpo", "region_bert_gpo_cls"]
    ablations += ["region_bigru_augment_none", "region_bigru_augment_visual", "region_bigru_kmax_grid"]
    ablations += [f"{kind}_bigru_{pooling}" for kind in ("region", "grid_detector") for pooling in POOLINGS]
    expected = {f"{data}_{row}" for data in ("coco", "f30k") for row in rows}
    expected |= {f"vsepp_{data}_{row}" for data in ("coco", "f30k") for row in baselines}
    expected |= {f"coco_{ablation}" for ablation in ablations}
    assert expected <= set(EXPERIMENTS)


POOLINGS = ("max", "kmax", "gem", "fspool")


@pytest.mark.parametrize(
    ("name", "image_pooling", "text_pooling"),
    [
        ("coco_region_bert_avg_cls", "avg", "cls"),
        ("coco_region_bert_avg_gpo", "avg", "gpo"),
        ("coco_region_bert_gpo_cls", "gpo", "cls"),
        ("coco_region_bigru", "gpo", "gpo"),
        ("coco_region_bigru_kmax_grid", "kmax", "kmax"),
        *[(f"coco_region_bigru_{pooling}", pooling, "avg") for pooling in POOLINGS],
        *[(f"coco_grid_detector_bigru_{pooling}", pooling, "avg") for pooling in POOLINGS],
    ],
)
def test_ablations_change_the_pooling(name: str, image_pooling: str, text_pooling: str) -> None:
    model = composed(name)["model"]
    assert (model["image_pooling"], model["text_pooling"]) == (image_pooling, text_pooling)
    assert (model["image_kmax"] is not None) == (image_pooling == "kmax")


def test_size_augmentation_ablations() -> None:
    none, visual, both = (
        composed(f"coco_region_bigru{suffix}")["data"] for suffix in ("_augment_none", "_augment_visual", "")
    )
    assert none["size_augmentation"] is False
    assert (visual["size_augmentation"], visual["drop_visual"], visual["drop_text"]) == (True, True, False)
    assert (both["size_augmentation"], both["drop_visual"], both["drop_text"]) == (True, True, True)


def test_the_grid_search_of_k_gives_each_pair_a_run_folder() -> None:
    overrides = ["experiment=coco_region_bigru_kmax_grid", "model.image_kmax=20", "model.text_kmax=2"]
    assert config.compose(PROJECT, "train", overrides).name == "coco_region_bigru_k20_k2"
