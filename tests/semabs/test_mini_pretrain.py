"""mini_pretrain.py: rooms, stand-in, relevancies and the check of where the stand-in points."""

from pathlib import Path

import numpy as np
import pytest
import torch

from projects.semabs import mini_clip, mini_pointing
from projects.semabs.mini_names import NAMES, NOVEL_NAMES, SYNONYMS
from projects.semabs.scene_file import SceneFile
from tests.semabs.training_runs import PROJECT, SERVER, results

ROOMS = {"train_rooms": 1, "val_rooms": 0, "test_rooms": 0, "hiding": 0, "image_size": 56, "points": 1000}
STAND_IN = {"steps": 2, "batch_size": 4, "sprites": 1, "rooms": 2, "room_side": 64}


def test_entry_makes_everything(tmp_path: Path) -> None:
    root = tmp_path / "rooms"
    sizes = [f"+data.mini.{name}={value}" for name, value in ROOMS.items()]
    sizes += [f"+data.stand_in.{name}={value}" for name, value in STAND_IN.items()]
    settings = [
        *sizes,
        f"data.root={root}",
        "pointing.pictures=1",
        "pointing.seed=4",
        "runtime.device=cpu",
        "runtime.threads=1",
    ]
    done = SERVER.entry(PROJECT / "mini_pretrain.py", tmp_path / "run", *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert mini_clip.weights_path(root).is_file()
    (scene,) = root.glob("*.hdf5")
    with SceneFile(scene) as file:
        assert np.isfinite(file.saliency("rgb", "ours").maps).all()
    found = results(tmp_path / "run")["metrics"]["pointing"]
    assert {"ours", "chefer_et_al", "jitter", "chance", "n"} <= set(found)
    assert 0 <= found["ours"]["train"] <= 100
    assert "highest place on the thing" in done.stderr + done.stdout


class Knowing:
    """Maps of an extractor that knows where things are (`right`), or looks somewhere else."""

    def __init__(self, right: bool) -> None:
        self.right = right
        self.asked: list[list[str]] = []

    def maps(self, rgb: np.ndarray, labels: list[str], prompts: list[str]) -> torch.Tensor:
        self.asked.append(labels)
        maps = np.zeros((len(labels), *rgb.shape[:2]), np.float32)
        names = {SYNONYMS.get(name, name): name for name in NAMES} | {name: name for name in NAMES}
        for number, label in enumerate(labels):
            mask = self.ids == NAMES.index(names[label])
            maps[number] = mask if self.right else ~mask
        return torch.from_numpy(maps)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every picture that is drawn, given to the extractors below."""
    drawn: list[np.ndarray] = []
    picture = mini_pointing.mini_rooms.picture

    def kept(*args: object, **options: object) -> tuple[np.ndarray, np.ndarray]:
        rgb, ids = picture(*args, **options)
        Knowing.ids = ids
        drawn.append(ids)
        return rgb, ids

    monkeypatch.setattr(mini_pointing.mini_rooms, "picture", kept)
    return drawn


def test_pointing_counts_what_lies_on_the_thing(seen: list[np.ndarray]) -> None:
    right, wrong = Knowing(True), Knowing(False)
    found = mini_pointing.pointing(
        {"right": right, "wrong": wrong}, pictures=6, labels=10, prompts=["{}"], seed=1, side=160
    )
    assert len(seen) == 6
    assert set(found["right"].values()) == {100.0}
    assert set(found["wrong"].values()) == {0.0}
    names = [label for labels in right.asked for label in labels]
    assert all(len(labels) == 10 for labels in right.asked)
    assert set(names) & set(NOVEL_NAMES)
    by_size = sum(found["n"].get(size, 0) for size in ("small", "middle", "large"))
    assert found["n"]["train"] + found["n"].get("novel", 0) == by_size
    assert found["chance"]["train"] < 20
