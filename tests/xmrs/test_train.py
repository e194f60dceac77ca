"""The entry train.py: what a run leaves behind, its options, and the settings of the paper's runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from projects.xmrs import optim, released
from projects.xmrs import trained as trained_models
from projects.xmrs.starting_point import starting_point
from shared import checkpoint, config
from shared.files import write_json
from tests.xmrs.sets import make_set
from tests.xmrs.training_runs import PROJECT, TRAIN, metrics, results, settings, trained, weights

EXPERIMENTS = sorted(path.stem for path in (PROJECT / "configs/experiment").glob("*.yaml"))
APART = ("loss.intra_modal=false", "loss.symmetric=true")
PAPER = [name for name in EXPERIMENTS if name.startswith("x_mrs")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run started as a user does, with the test split reported at its end."""
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    ids = [f"s{index:09x}" for index in range(20)]
    parts = {"strata": {"some": ids[:5], "others": ids[5:]}, "twins": [ids[:2], ids[2:4]]}
    write_json(root / "strata.json", {"test": parts})
    reported = ("final_splits=[test]", f"data.strata={root / 'strata.json'}")
    command = [sys.executable, str(TRAIN), f"hydra.run.dir={run_dir}", *settings(root, *reported)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=run_dir.parent)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "best epoch" in finished.stdout
    assert "R@1" in finished.stdout
    return run_dir


def test_a_run_leaves_checkpoints_numbers_and_a_result(run: Path) -> None:
    result, lines = results(run), metrics(run)
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "val_medR" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert [line["epoch"] for line in steps] == [1] * 5 + [2] * 5
    assert [line["step"] for line in epochs] == [5, 10]
    assert result["steps"] == 10
    found = result["metrics"]
    best = max(epochs, key=lambda line: line["recall_1-5-10"])
    assert [found[f"r{k}"] for k in (1, 5, 10)] == [best[f"recall_{k}"] for k in (1, 5, 10)]
    assert found["epoch"] == epochs.index(best) + 1
    lowest = min(epochs, key=lambda line: line["val_medR"])
    assert (found["lowest_medr"]["medr"], found["lowest_medr"]["epoch"]) == (
        lowest["val_medR"],
        epochs.index(lowest) + 1,
    )
    for direction in ("image_to_recipe", "recipe_to_image"):
        assert 0 <= found["test"][direction]["r1"] <= found["test"][direction]["r10"] <= 1
    assert found["test"]["strata"]["some"]["count"] == 5
    assert found["test"]["twins"]["count"] == 2
    assert checkpoint.load(run / "last.pt")["progress"]["step"] == 10
    assert checkpoint.load(run / "best.pt")["progress"]["epoch"] == found["epoch"]
    assert checkpoint.load(run / "lowest_medr.pt")["progress"]["epoch"] == found["lowest_medr"]["epoch"]
    assert not list(run.glob("*tmp*"))


def test_learning_rates_follow_the_released_rule(run: Path) -> None:
    """decay_lr=[1]: a tenth after the first epoch."""
    for group in optim.GROUPS:
        rates = [line[f"lr_{group}"] for line in metrics(run) if "loss" in line]
        assert rates == pytest.approx([5e-3] * 5 + [5e-4] * 5)


def test_tensorboard_has_the_released_names(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    released_names = {"loss", "cos_loss", "val_loss", "recall_1", "recall_5", "recall_10", "recall_1-5-10"}
    assert tags >= released_names | {
        "val_medR",
        "batch_time",
        "data_time",
        "grad_norm",
        "positive",
        "negative",
    }
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 11))


def test_a_run_is_loaded_by_the_one_way_in(run: Path) -> None:
    loaded = trained_models.load(run)
    best = checkpoint.load(run / "best.pt")["modules"]["model"]
    assert all(torch.equal(value, best[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.settings["model"]["text"]["vocab_size"] == 400, "filled in from the vocabulary"
    assert best["textMLP.mBERT.embeddings.word_embeddings.weight"].shape == (400, 16), "the whole table"


def test_a_finished_run_can_be_gone_on_from(run: Path, root: Path, tmp_path: Path) -> None:
    onward = trained(tmp_path / "on", *settings(root, f"resume_from={run}", "optim.epochs=3"))
    assert [line["step"] for line in metrics(onward) if "loss" in line] == list(range(11, 16))
    assert (onward / "best.pt").exists()
    still = settings(root, f"init_from={run}", "optim.epochs=1", "optim.learning_rate=1e-30")
    anew = trained(tmp_path / "anew", *still)
    assert [line["step"] for line in metrics(anew) if "loss" in line] == list(range(1, 6))
    best, found = weights(run, "best.pt"), weights(anew)
    moved = [name for name in found if name.startswith("model.") and not torch.equal(found[name], best[name])]
    assert all("running_" in name or "num_batches" in name for name in moved), (
        "its weights: the rate is next to nothing"
    )


def test_a_released_run_can_be_gone_on_from(run: Path, root: Path, tmp_path: Path) -> None:
    """A folder as the released code leaves it: models/model_BEST_REC_..., the image encoder beside it, opts.txt."""
    models = tmp_path / "20210101-000000__train" / "models"
    models.mkdir(parents=True)
    (models.parent / "opts.txt").write_text("BERT_heads: 2\n")
    loaded = trained_models.load(run)
    file = models / "model_BEST_REC_e001_v-5.000_cr-1.2000.pth.tar"
    released.write(file, loaded.model, epoch=1, iteration=5)
    released.write_image_encoder(
        models / f"{file.name.removesuffix('.pth.tar')}_image_encoder.pth.tar", loaded.model
    )
    point = starting_point(str(models.parent), None)
    assert point.source == file
    assert (point.progress.epoch, point.progress.step) == (1, 5)
    onward = trained(tmp_path / "on", *settings(root, f"resume_from={models.parent}"))
    assert [line["step"] for line in metrics(onward) if "loss" in line] == list(range(6, 11))
    assert starting_point(None, str(file)).progress.epoch == 0


def test_settings_that_do_not_matter_may_change_in_between(run: Path, root: Path) -> None:
    before = metrics(run)
    strata = f"data.strata={root / 'strata.json'}"
    trained(run, *settings(root, strata, "final_splits=[]", "workers=1", "log_every=7"))
    assert metrics(run) == before, "it was finished: nothing is trained again"
    assert "test" not in results(run)["metrics"]
    trained(run, *settings(root, strata, "final_splits=[test]"))
    assert "test" in results(run)["metrics"], "as it was"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("runtime.precision=bf16",), id="bf16"),
        pytest.param(
            ("model.text.kind=average", "loss.hardest=false", "optim.weight_decay=1e-4"), id="average"
        ),
        pytest.param(
            (
                "loss.intra_modal=false",
                "validation.query=recipe",
                "validation.every=2",
                "data.text_inputs=[title,inst]",
            ),
            id="between modalities",
        ),
        pytest.param(("data.text_augmentation=[english,textinput,mask]", "data.language=3"), id="draws"),
    ],
)
def test_options_train(overrides: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    run_dir = trained(tmp_path / "run", *settings(root, *overrides))
    losses = [line["loss"] for line in metrics(run_dir) if "loss" in line]
    assert len(losses) == 10
    assert all(0 < loss < 2.5 for loss in losses)
    validations = [line["step"] for line in metrics(run_dir) if "val_loss" in line]
    assert validations == ([10] if "validation.every=2" in overrides else [5, 10])


def test_frozen_groups_stay_as_they_are(root: Path, tmp_path: Path) -> None:
    """Vision until the warm-up is over, word embeddings and transformer always; a resumed run knows where it is."""
    overrides = ["optim.free_vision=false", "optim.train_word_embeddings=false", "optim.free_text=false"]
    run_dir = trained(tmp_path / "run", *settings(root, *overrides, "save_every=5", "init_from=null"))
    lines = [line for line in metrics(run_dir) if "loss" in line]
    assert [line["lr_vision"] for line in lines] == pytest.approx([0.0] * 5 + [5e-4] * 5)
    for group in ("wordEmb", "text"):
        assert {line[f"lr_{group}"] for line in lines} == {0.0}
    states = checkpoint.load(run_dir / "last.pt")["modules"]["optimizer"]["state"]
    stepped = {int(state["step"]) for state in states.values()}
    assert stepped == {10}, "groups that never train have no moments, the others have them from the start"


def composed(name: str) -> dict[str, Any]:
    return config.section(config.compose(PROJECT, "train", [f"experiment={name}"]))


@pytest.mark.parametrize("name", PAPER)
def test_paper_runs_have_the_released_flags(name: str) -> None:
    """Every ablation differs from the published run in what its name says, and in nothing else."""
    own, published = composed(name), composed("x_mrs")
    assert own["name"] == name
    assert own["data"]["image_root"].endswith("Recipe1M/images")
    different = {
        key
        for section in ("data", "model", "loss", "optim", "validation")
        for key in flat(own[section])
        if flat(own[section])[key] != flat(published[section])[key]
    }
    words = name.removeprefix("x_mrs_").split("_")
    expected = {
        "awe": {"text.kind"},
        "aug": {"text_augmentation"},
        "parts": {"text_inputs"},
        "mean": {"hardest"},
        "layers1": {"text.layers"},
        "layers4": {"text.layers"},
        "layers12": {"text.layers"},
        "heads1": {"text.heads"},
        "heads4": {"text.heads"},
        "heads12": {"text.heads"},
        "inter": {"intra_modal"}
        | ({"symmetric"} if "symmetric" in words else set())
        | ({"hardest"} if "mean" in words else set()),
        "frozen": {
            {"vision": "free_vision", "heads": "free_heads", "text": "free_text"}.get(
                words[-1] if words[-1] != "first" else words[-2],
                "free_word_embeddings" if words[-1] == "first" else "train_word_embeddings",
            )
        },
    }
    assert different == (set() if name == "x_mrs" else expected[words[0]])


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_the_published_run() -> None:
    own = composed("x_mrs")
    assert own["seed"] == 1234
    assert own["loss"] == {"margin": 0.3, "hardest": True, "intra_modal": True, "symmetric": False}
    hyper = own["optim"]
    assert (hyper["epochs"], hyper["batch_size"], hyper["learning_rate"]) == (100, 20, 1e-4)
    assert (hyper["warmup"], hyper["decay_lr"], hyper["weight_decay"]) == ([1], [20], 0)
    assert all(hyper[key] for key in hyper if key.startswith("free_"))
    model = own["model"]
    assert (model["embed_dim"], model["head_dim"]) == (1024, 1024)
    assert (model["image"]["backbone"], model["image"]["width"], model["image"]["pretrained"]) == (
        "resnet50",
        64,
        True,
    )
    text = model["text"]
    assert (text["hidden"], text["layers"], text["heads"], text["intermediate"]) == (768, 2, 2, 3072)
    assert text["pretrained"] == "bert-base-multilingual-cased"
    data = own["data"]
    assert (data["side"], data["resize"], data["max_images"], data["max_tokens"]) == (224, 256, 5, 512)
    assert data["text_augmentation"] == ["english", "de", "ru", "fr"]
    assert own["validation"] == {"medr": 1000, "query": "image", "every": 1}
    assert own["runtime"]["precision"] == "fp32"


def test_every_ablation_of_the_paper_has_an_experiment() -> None:
    augmentations = ["none", "english", "english_de", "english_ru", "english_fr", "de_ru_fr"]
    parts = ["title", "ingr", "inst", "title_ingr", "title_inst", "ingr_inst"]
    rest = ["awe", "mean_negatives", "inter_modal", "layers1", "layers4", "heads1", "heads4"]
    rest += ["frozen_vision_first", "frozen_heads_first", "frozen_words_first", "frozen_words", "frozen_text"]
    expected = {f"x_mrs_aug_{name}" for name in augmentations} | {f"x_mrs_parts_{name}" for name in parts}
    assert expected | {f"x_mrs_{name}" for name in rest} | {"x_mrs", "smoke"} <= set(EXPERIMENTS)
