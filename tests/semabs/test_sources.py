"""Where a run's scenes come from: a folder, or embedded rooms that are made on first use."""

from pathlib import Path
from typing import Any

import pytest
import torch

from projects.semabs import sources
from projects.semabs.data import Split
from projects.semabs.item_settings import ItemSettings
from projects.semabs.scene_file import SceneFile, has_saliencies
from shared import config
from shared.errors import InputError
from shared.runtime import Runtime
from tests.semabs.conftest import MINI_SIZES
from tests.semabs.training_runs import PROJECT, metrics, results, settings, train

HERE = Runtime(torch.device("cpu"))
STAND_IN = {"steps": 2, "batch_size": 8, "sprites": 1, "rooms": 3}
FEW = {**MINI_SIZES, "train_rooms": 2, "val_rooms": 1, "test_rooms": 0, "hiding": 0.0}


def composed(root: Path, *overrides: str, task: str = "ovssc") -> dict[str, Any]:
    return config.section(config.compose(PROJECT, f"train_{task}", [f"data.root={root}", *overrides]))


def opened(given: dict[str, Any]) -> tuple[Split, Split | None]:
    return sources.open_splits("ovssc", given, ItemSettings(**given["items"]), HERE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the bare command makes, at small sizes, and what it says."""
    root = tmp_path_factory.mktemp("embedded") / "rooms"
    sizes = [f"+data.mini.{name}={value}" for name, value in FEW.items()]
    sizes += [f"+data.stand_in.{name}={value}" for name, value in STAND_IN.items()]
    given = [text for text in settings(root) if text != "data.variant=null"]
    finished = train(root.parent / "run", *given, *sizes)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return root, finished.stdout


def test_the_bare_command_makes_rooms_stand_in_and_relevancies(made: tuple[Path, str]) -> None:
    root, said = made
    run_dir = root.parent / "run"
    scenes = sorted(root.glob("*.hdf5"))
    assert len(scenes) == 3
    assert all(map(has_saliencies, scenes))
    with SceneFile(scenes[0]) as scene:
        assert scene.text_features().shape[1] == composed(root)["model"]["text_dim"]
        assert ("rgb", "chefer_et_al") in scene.saliency_sets()
    assert len([line for line in metrics(run_dir) if "loss" in line]) == 2
    assert results(run_dir)["metrics"]["epoch"] == 2
    assert "making" in said


def test_what_is_there_is_taken(made: tuple[Path, str]) -> None:
    root, _ = made
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    given = composed(root)
    train_split, val_split = opened(given)
    assert (len(train_split), train_split.name) == (2, "train")
    assert val_split is not None
    assert (len(val_split), val_split.name) == (1, "val")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    without = composed(root, "validation.every=0")
    assert opened(without)[1] is None


def test_other_sizes_are_refused(made: tuple[Path, str]) -> None:
    given = composed(made[0])
    given["data"]["mini"] = {"train_rooms": 3}
    with pytest.raises(InputError, match="train_rooms is 2, expected 3"):
        sources.prepare(given["data"], HERE)


def test_names_are_encoded_for_the_approach_that_is_told_them(made: tuple[Path, str]) -> None:
    root, _ = made
    assert sources.text_encoder(composed(root, task="vool"), HERE) is None
    encode = sources.text_encoder(composed(root, "model.approach=semantic_aware", task="vool"), HERE)
    assert encode is not None
    found = encode(["pot", "teddy bear", "pot"])
    assert found.shape == (3, 64)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1])
    with pytest.raises(InputError, match="encodes names, found null"):
        sources.text_encoder(composed(root, "model.approach=semantic_aware", "data.clip=null"), HERE)


def test_text_features_of_another_length_are_refused(made: tuple[Path, str]) -> None:
    wrong = ("model.approach=semantic_aware", "model.text_dim=512")
    with pytest.raises(InputError, match="text_dim: expected 64") as refusal:
        opened(composed(made[0], *wrong))
    assert str(made[0]) in str(refusal.value)
    with pytest.raises(InputError, match="text_dim: expected 64"):
        sources.text_encoder(composed(made[0], *wrong, task="vool"), HERE)


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected rooms or null, found 'houses'"):
        sources.prepare(composed(tmp_path, "data.variant=houses")["data"], HERE)
    assert not list(tmp_path.iterdir())


def test_semantic_aware_sees_colours_whatever_the_inputs_are() -> None:
    model = {"network_inputs": ["saliency", "tsdf"], "approach": "semantic_abstraction"}
    assert sources.network_inputs(model) == ["saliency", "tsdf"]
    assert sources.network_inputs({**model, "approach": "semantic_aware"}) == ["rgb"]
