"""Retrieval by strata and between twins, against the plain definition; the CNN that claims' runs start from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.xmrs import retrieval, strata
from projects.xmrs.image_encoder import ImageBackbone, load_pretrained
from shared.errors import InputError
from shared.files import write_json

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "xmrs"


def pairs(count: int, dim: int = 8, noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, dim))
    recipes = images + noise * rng.standard_normal((count, dim))
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (images, recipes))


def test_strata_are_the_queries_of_the_common_galleries(tmp_path: Path) -> None:
    images, recipes = pairs(40)
    ids = [f"r{number}" for number in range(40)]
    members = {"rare": ids[::3], "common": [name for number, name in enumerate(ids) if number % 3]}
    path = tmp_path / "strata.json"
    write_json(path, {"test": {"strata": members, "twins": []}})
    found = strata.metrics(path, ids, images, recipes, split="test", size=20)["strata"]
    hits: dict[str, list[list[bool]]] = {name: [[], []] for name in members}
    for subset in retrieval.ten_subsets(40, 20):
        for row in subset:
            name = "rare" if ids[row] in members["rare"] else "common"
            rivals = [other for other in subset if other != row]
            own = images[row] @ recipes[row]
            hits[name][0].append(all(images[row] @ recipes[other] < own for other in rivals))
            hits[name][1].append(all(images[other] @ recipes[row] < own for other in rivals))
    for name, (of_images, of_recipes) in hits.items():
        assert found[name]["count"] == len(members[name])
        assert found[name]["image_to_recipe"] == pytest.approx(np.mean(of_images))
        assert found[name]["recipe_to_image"] == pytest.approx(np.mean(of_recipes))
    whole = retrieval.rank_both(images, recipes, size=20)["image_to_recipe"]["r1"]
    assert np.mean(hits["rare"][0] + hits["common"][0]) == pytest.approx(whole), "strata add up to the split"
    assert strata.metrics(path, ids, images, recipes, split="val") == {}
    with pytest.raises(InputError, match=r"r39.*not in the split"):
        strata.metrics(path, ids[:39], images[:39], recipes[:39], split="test")


def test_twins_count_ties_as_half() -> None:
    images, recipes = pairs(6, noise=0.1)
    twins = np.array([[0, 1], [2, 3], [4, 5]])
    assert strata.twin_accuracy(images, recipes, twins)["image_to_recipe"] == 1
    swapped = recipes[[1, 0, 3, 2, 5, 4]]
    assert strata.twin_accuracy(images, swapped, twins)["recipe_to_image"] == 0
    blind = recipes[[0, 0, 2, 2, 4, 4]] + np.float32(1e-7)  # a bag of words gives twins one embedding
    found = strata.twin_accuracy(images, blind, twins)
    assert found == {"count": 3, "image_to_recipe": 0.5, "recipe_to_image": 0.5}
    blind[1] += 0.3 * (images[1] - images[0])
    assert strata.twin_accuracy(images, blind, twins)["image_to_recipe"] > 0.5


def test_the_pretrained_cnn_fits_the_image_branch(tmp_path: Path) -> None:
    small = ["photos=40", "held_out=10", "optim.epochs=1", "optim.batch_size=20", "model.width=8", "side=32"]
    command = [sys.executable, "mini_pretrain.py", *small, "resize=36", f"hydra.run.dir={tmp_path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "runtime.device=cpu"], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert set(metrics) == {"vessel", "base", "over", "under", "finish", "others"}
    assert all(0 <= value <= 1 for value in metrics.values())
    backbone = ImageBackbone(backbone="resnet18", width=8)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    load_pretrained(backbone, tmp_path / "cnn.pt")
    changed = [not torch.equal(before[name], value) for name, value in backbone.state_dict().items()]
    assert np.mean(changed) > 0.9
