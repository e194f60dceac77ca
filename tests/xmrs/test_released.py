"""Checkpoints and run folders of the released code and of ours: one way in, and nothing in them is run."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from projects.xmrs import released, released_options, trained
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.word_table import compact
from shared import checkpoint
from shared.config import compose
from shared.errors import InputError
from shared.runtime import Runtime
from tests.xmrs import released_runs
from tests.xmrs.tiny_models import photos, texts, tiny_model

PROJECT = Path(released.__file__).parent
RUNTIME = Runtime(torch.device("cpu"), "fp32")


class Attack:
    """Would make a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def same(first: FoodSpaceNet, second: FoodSpaceNet) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def model_with_4_heads() -> FoodSpaceNet:
    return tiny_model(heads=4)


def test_a_released_run_folder_loads(tmp_path: Path) -> None:
    model = model_with_4_heads()
    folder = released_runs.write_run(tmp_path / "20210101-000000__train", model)
    found = trained.load(folder)
    assert same(found.model, model)  # the step of the optimizer in the file was on these weights
    assert not found.model.training
    tokens, images = texts([9, 3, 20]), photos(2)
    assert torch.equal(
        found.model.encode_recipes(tokens), model.encode_recipes(tokens)
    )  # the heads of opts.txt
    assert torch.equal(found.model.encode_images(images), model.encode_images(images))
    assert found.name == "20210101-000000__train"
    assert found.path.name == "model_BEST_REC_e007_v-1.500_cr-2.1250.pth.tar"
    assert found.settings["data"] == {
        "text_inputs": "title,ingr",
        "text_augmentation": "english,de",
        "language": 2,
        "max_images": 3,
    }
    assert found.settings["model"]["text"]["heads"] == 4
    assert found.tokenizer == {"vocab": None, "name": "bert-base-multilingual-cased"}
    assert found.options["lr"] == 1e-05
    assert found.options["experiment_sufix"] == ""
    assert found.progress["epoch"] == 7
    assert found.progress["curr_recall"] == {1: 0.5, 5: 0.75, 10: 0.875}
    assert "optimizer" not in found.progress
    of_file = trained.load(found.path)  # opts.txt is found from the file as well
    assert of_file.name == found.name
    assert same(of_file.model, model)


def test_the_best_checkpoint_of_a_run(tmp_path: Path) -> None:
    folder = released_runs.write_run(tmp_path / "run", model_with_4_heads())
    for gone, then in (
        ("model_BEST_REC_e007_v-1.500_cr-2.1250.pth.tar", "model_BEST_VAL_e009_v-1.000_cr-1.0000.pth.tar"),
        ("model_BEST_VAL_e009_v-1.000_cr-1.0000.pth.tar", "model.pth.tar"),
    ):
        (folder / "models" / gone).unlink()
        assert trained.find_checkpoint(folder).name == then
    (folder / "models" / "model.pth.tar").unlink()  # the image encoder stays, and is no checkpoint
    with pytest.raises(InputError, match=r"run: no checkpoint \(models/model_BEST_REC_\*\.pth\.tar\)"):
        trained.load(folder)
    with pytest.raises(InputError, match=r"no checkpoint in this folder \(best.pt, last.pt, or opts.txt"):
        trained.load(tmp_path)
    with pytest.raises(InputError, match=r"gone: No such file|gone: no such file"):
        trained.load(tmp_path / "gone")


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_any_torch_with_the_optimizer_as_an_object(tmp_path: Path, is_zip: bool) -> None:
    model = tiny_model(kind="average")
    whole = released_runs.content(model)
    whole["state_dict"].pop("module.textMLP.mBERT.embeddings.position_ids", None)
    path = tmp_path / "model.pth.tar"
    torch.save(whole, path, _use_new_zipfile_serialization=is_zip)
    assert b"torch.optim.adam" in path.read_bytes()
    found = released.read(path)
    assert found.progress["iteration"] == 420
    read = released.to_model(found.state, source=path)
    assert same(read, model)
    assert trained.load(path).name == "model"
    assert list(trained.weights(path)) == list(model.state_dict())


@pytest.mark.parametrize("place", ["optimizer", "curr_recall", "state_dict"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_malicious_files_are_refused(tmp_path: Path, place: str, is_zip: bool) -> None:
    whole = released_runs.content(tiny_model())
    trap = tmp_path / "made"
    whole[place] = {"module.align.0.weight": Attack(trap)} if place == "state_dict" else Attack(trap)
    path = tmp_path / "model.pth.tar"
    torch.save(whole, path, _use_new_zipfile_serialization=is_zip)
    for read in (trained.load, trained.weights, released.read, released.read_image_encoder):
        with pytest.raises(
            InputError, match=r"model\.pth\.tar: byte \d+: refused: .*mkdir, which is not plain data"
        ):
            read(path)
    assert not trap.exists()


def test_an_optimizer_cannot_smuggle_anything_in(tmp_path: Path) -> None:
    whole = released_runs.content(tiny_model())
    trap = tmp_path / "made"
    whole["optimizer"].defaults["lr"] = Attack(trap)
    torch.save(whole, tmp_path / "model.pth.tar")
    with pytest.raises(InputError, match=r"refused: .*mkdir"):
        trained.load(tmp_path / "model.pth.tar")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Attack(trap)))
    with pytest.raises(InputError, match=r"plain\.pkl"):
        trained.load(tmp_path / "plain.pkl")
    assert not trap.exists()


def test_files_that_are_something_else(tmp_path: Path) -> None:
    for value, message in (
        ({"weights": 1}, "expected a checkpoint of this program or of the released train.py"),
        ({"state_dict": {"module.align.0.weight": 3}}, "align.0.weight: expected a tensor, found a int"),
        (
            {"state_dict": {"module.align.0.weight": torch.zeros(2, 2)}},
            "it has no tensor 'visionMLP.visionMLP.0.weight'",
        ),
        (
            {"format": checkpoint.FORMAT, "modules": {"generator": {}}, "config": {}, "progress": {}},
            r"not a checkpoint of a retrieval model: it holds \['generator'\]",
        ),
    ):
        torch.save(value, tmp_path / "file.pt")
        with pytest.raises(InputError, match=message):
            trained.load(tmp_path / "file.pt")
    state = released_runs.state_of(tiny_model())
    state.pop("module.align_rec.0.bias")
    state["module.extra"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "file.pt")
    with pytest.raises(InputError, match=r"1 missing \(align_rec.0.bias\); 1 unexpected \(extra\)"):
        trained.load(tmp_path / "file.pt")
    state = released_runs.state_of(tiny_model())
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]  # torch before 0.4.1 had none
    torch.save({"state_dict": state}, tmp_path / "file.pt")
    assert same(trained.load(tmp_path / "file.pt").model, tiny_model())
    state["module.visionMLP.visionMLP.4.2.conv1.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save({"state_dict": state}, tmp_path / "file.pt")
    with pytest.raises(InputError, match=r"stages of \[3, 2, 2, 2\] residual blocks are of none of resnet18"):
        trained.load(tmp_path / "file.pt")


@pytest.mark.parametrize("kind", ["transformer", "average"])
def test_what_we_write_is_in_their_form(tmp_path: Path, kind: str) -> None:
    model = tiny_model(kind=kind)
    compact(model, torch.arange(104, 110))
    path = tmp_path / "models" / released_options.checkpoint_name("REC", 12, 1.5, 2.125)
    assert path.name == "model_BEST_REC_e012_v-1.500_cr-2.1250.pth.tar"
    released.write(path, model, epoch=12, curr_recall={1: 0.5, 5: 0.75, 10: 0.875})
    theirs = torch.load(path, weights_only=True)
    assert set(theirs) == {*released.PROGRESS, "state_dict", "optimizer"}
    assert theirs["epoch"] == 12
    assert theirs["optimizer"] is None
    expected = released_runs.state_of(model)
    assert list(theirs["state_dict"]) == list(expected)
    for name, value in expected.items():
        assert torch.equal(theirs["state_dict"][name], value), name
    assert same(trained.load(path).model, model)
    with pytest.raises(TypeError, match="not part of a released checkpoint: epochs"):
        released.write(path, model, epochs=3)


def test_the_optimizer_can_be_written_as_the_object_they_resume_from(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    released.write(tmp_path / "model.pth.tar", model, optimizer=optimizer)
    theirs = torch.load(tmp_path / "model.pth.tar", weights_only=False)["optimizer"]
    assert isinstance(theirs, torch.optim.Adam)
    assert theirs.param_groups[0]["lr"] == 0.5
    assert same(trained.load(tmp_path / "model.pth.tar").model, model)


def test_a_run_folder_that_we_write_loads_again(tmp_path: Path) -> None:
    model = model_with_4_heads()
    options = {"textAug": "english", "lr": 1e-05, "language": 3}
    path = released.write_run(
        tmp_path / "run", model, options=options, epoch=3, medr=1.0, recalls=(0.5, 0.75, 0.9)
    )
    assert path == tmp_path / "run" / "models" / "model_BEST_REC_e003_v-1.000_cr-2.1500.pth.tar"
    text = (tmp_path / "run" / "opts.txt").read_text()
    for line in ("lr: 1e-05", "textAug: english", "BERT_heads: 4", "embDim: 8", "textmodel: mBERT_fulltxt"):
        assert f"{line}\n" in text
    found = trained.load(tmp_path / "run")
    assert same(found.model, model)
    assert found.options["language"] == 3
    assert found.settings["data"]["text_augmentation"] == "english"
    assert found.progress["curr_recall"] == {1: 0.5, 5: 0.75, 10: 0.9}
    with pytest.raises(ValueError, match=r"not flags of the released train.py: margin"):
        released.write_run(tmp_path / "other", model, options={"margin": 0.3})


def test_our_own_runs_load(tmp_path: Path) -> None:
    model = tiny_model(dropout=0.25)
    config = {
        "name": "mine",
        "model": {"text": {"heads": 2, "dropout": 0.25, "vocab_size": None}},
        "data": {"name": "mini", "vocab": str(tmp_path / "vocab.txt")},
    }
    checkpoint.save(
        tmp_path / "run",
        runtime=RUNTIME,
        modules={"model": model},
        progress={"epoch": 4},
        config=config,
        best=True,
    )
    for path in (tmp_path / "run", tmp_path / "run" / "last.pt", str(tmp_path / "run" / "best.pt")):
        found = trained.load(path)
        assert same(found.model, model)
        assert found.name == "mine"
        assert found.settings == config
        assert found.tokenizer["vocab"] == tmp_path / "vocab.txt"
        assert found.progress == {"epoch": 4}
        assert found.options == {}
        assert found.model.text_settings["dropout"] == 0.25
    assert found.path == tmp_path / "run" / "best.pt"
    assert list(trained.weights(tmp_path / "run")) == list(model.state_dict())


def test_export_of_a_run(tmp_path: Path) -> None:
    model = tiny_model()
    config = {
        "name": "mine",
        "seed": 3,
        "model": {"embed_dim": 8, "text": {"kind": "transformer", "heads": 2}},
        "data": {"text_inputs": ["title", "inst"], "text_augmentation": []},
        "optim": {"learning_rate": 1e-05, "decay_lr": [4, 6], "free_vision": False},
        "loss": {"hardest": False},
        "runtime": {"device": "auto"},
    }
    best = {"epoch": 5, "medr": 2.0, "r1": 0.25, "r5": 0.5, "r10": 0.75}
    parts, progress = {"model": model}, {"epoch": 5, "best": best}
    checkpoint.save(tmp_path / "run", runtime=RUNTIME, modules=parts, progress=progress, config=config)
    command = [sys.executable, str(PROJECT / "export_run.py"), f"model={tmp_path / 'run'}"]

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *overrides], capture_output=True, text=True, check=False, cwd=tmp_path
        )

    done = run(f"output={tmp_path / 'theirs'}")
    assert done.returncode == 0, done.stderr
    name = "model_BEST_REC_e005_v-2.000_cr-1.5000"
    files = sorted(
        path.relative_to(tmp_path / "theirs").as_posix() for path in (tmp_path / "theirs").rglob("*.*")
    )
    assert files == [f"models/{name}.pth.tar", f"models/{name}_image_encoder.pth.tar", "opts.txt"]
    found = trained.load(tmp_path / "theirs")
    assert same(found.model, model)
    expected = {
        "seed": 3,
        "experiment_sufix": "mine",
        "embDim": 8,
        "textinputs": "title,inst",
        "textAug": "",
        "lr": 1e-05,
        "decayLR": "4,6",
        "freeVision": False,
        "ohem": False,
        "no_cuda": False,
        "batch_size": 20,
    }
    assert {flag: found.options[flag] for flag in expected} == expected
    again = run(f"output={tmp_path / 'theirs'}")
    assert again.returncode == 2
    assert again.stderr == f"error: output: {tmp_path / 'theirs'} holds a run already (opts.txt)\n"
    # what was exported can be exported again: nothing is lost on the way
    validation = released.validation_of(found.progress)
    second = released.write_run(tmp_path / "second", found.model, options=found.options, **validation)
    assert second.name == f"{name}.pth.tar"
    assert (tmp_path / "second" / "opts.txt").read_text() == (tmp_path / "theirs" / "opts.txt").read_text()


def test_every_flag_has_a_key_of_our_settings_or_says_nothing() -> None:
    assert list(released_options.KEYS) == list(released_options.FLAGS)
    without = {flag for flag, key in released_options.KEYS.items() if key is None}
    assert without == {"gpu", "w2vInit", "maxSeqlen", "maxInsts", "momentum", "start_epoch"}
    settings = compose(PROJECT, "train", ("experiment=x_mrs",))
    for flag, key in released_options.KEYS.items():
        if key is not None:
            assert OmegaConf.select(settings, key, default="absent") != "absent", flag
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    found = released_options.from_settings(plain)
    places = ("img_path", "data_path", "experiment_sufix", "seed", "workers", "no_cuda")
    # the paper's run is that of the released defaults
    assert {k: v for k, v in found.items() if k not in places} == {
        k: v for k, v in released_options.FLAGS.items() if k not in places
    }


def test_image_encoder_files(tmp_path: Path) -> None:
    model = tiny_model()
    released.write_image_encoder(tmp_path / "e_image_encoder.pth.tar", model)
    bare = torch.load(tmp_path / "e_image_encoder.pth.tar", weights_only=True)
    assert list(bare) == [
        name
        for name in model.state_dict()
        if not name.startswith(("textMLP", "recipe_embedding", "align_rec"))
    ]
    released.write(tmp_path / "whole.pth.tar", model)
    parts = {"model": model}
    checkpoint.save(tmp_path, runtime=RUNTIME, modules=parts, progress={}, config={"model": {}})
    images = photos(2)
    expected = model.encode_images(images)
    for name in ("e_image_encoder.pth.tar", "whole.pth.tar", "last.pt"):
        encoder = released.read_image_encoder(tmp_path / name)
        assert torch.equal(encoder(images), expected), name
        assert not encoder.training
    released.write_image_encoder(tmp_path / "again.pth.tar", encoder)
    assert torch.equal(released.read_image_encoder(tmp_path / "again.pth.tar")(images), expected)
    torch.save({"text": torch.zeros(1)}, tmp_path / "none.pth")
    with pytest.raises(
        InputError, match=r"none\.pth: not a checkpoint of this model: it has no tensor 'align"
    ):
        released.read_image_encoder(tmp_path / "none.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(
        InputError, match=r"list\.pth: expected the state dict of an image encoder, found list"
    ):
        released.read_image_encoder(tmp_path / "list.pth")


def test_options_have_the_types_of_their_flags(tmp_path: Path) -> None:
    text = "alpha: 1e-05\nohem: No\nno_cuda: 1\nmedr:  10000 \nwarmup: 1\nunknown: 3\nno colon\nimg_path: ./a:b\n"
    found = released_options.parse(text)
    assert found["alpha"] == 1e-05
    assert (found["ohem"], found["no_cuda"]) == (False, True)
    assert found["medr"] == 10000
    assert found["warmup"] == "1"  # a list of epochs
    assert found["img_path"] == "./a:b"
    assert found["lr"] == released_options.FLAGS["lr"]
    assert "unknown" not in found
    assert released_options.parse(text, exclude=["medr"])["medr"] == 1000
    assert released_options.parse(text, legacy_types=True)["alpha"] == "1e-05"
    for line, expected in (
        ("batch_size: 1.5x", "batch_size: expected a whole number, found '1.5x'"),
        ("lr: fast", "lr: expected a number, found 'fast'"),
        ("ohem: maybe", "ohem: expected yes or no, found 'maybe'"),
    ):
        (tmp_path / "opts.txt").write_text(line + "\n")
        with pytest.raises(InputError, match=rf"opts\.txt: {expected}"):
            released_options.read(tmp_path)
    released_options.write(tmp_path, {"lr": 0.5, "ohem": False})
    again = released_options.read(tmp_path)
    assert again == {**released_options.FLAGS, "lr": 0.5, "ohem": False}
