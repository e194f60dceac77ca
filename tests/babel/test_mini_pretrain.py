"""The backbone that runs on the embedded data start from: its pictures, and the entry."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.babel.augmentation import Draw, denormalized
from projects.babel.mini_objects import Picture
from projects.babel.mini_pretraining import ObjectPictures, PartNamer, accuracies, naming_loss, one_cycle
from projects.babel.model import build_model
from shared.data import BatchPlan, TrainSampler

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "babel"
SIZES = {"backbone": "resnet18", "width": 4, "output_stride": 8}


@pytest.fixture(scope="module")
def pictures() -> ObjectPictures:
    return ObjectPictures(8, seed=3, side=48, crop=32)


def plan(epoch: int) -> BatchPlan:
    return next(iter(TrainSampler(8, 8, seed=0).plans(epoch)))


@pytest.mark.parametrize("mirrored", [False, True])
def test_parts_follow_the_pixels_through_crop_and_mirroring(pictures: ObjectPictures, mirrored: bool) -> None:
    """The parts, drawn as a picture, go through the same augmentation as the pixels do."""
    shown = ObjectPictures(0, seed=3, side=48, crop=32)
    shown._pictures = [
        Picture(np.repeat(one.parts[..., None] * 8, 3, 2), one.parts) for one in pictures._pictures
    ]
    images, parts = shown._batch(list(range(8)), [Draw((2, 3, 30, 28), mirrored)] * 8)
    seen = denormalized(images)[:, 0, 2::4, 2::4].mul(255 / 8)
    inside = (seen - seen.round()).abs() < 0.02  # away from edges, where the resize mixes parts
    assert inside.float().mean() > 0.5
    assert (parts[inside] > 0).any()
    assert (seen.round().long() == parts)[inside].float().mean() > 0.95


def test_draws_depend_on_the_epoch_alone(pictures: ObjectPictures) -> None:
    first, again, other = (pictures.training_batch(plan(epoch)) for epoch in (0, 0, 1))
    assert first[0].shape == (8, 3, 32, 32)
    assert first[1].shape == (8, 8, 8)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert (first[1] > 0).float().mean() > 0.2  # crops show things


def test_backbone_state_is_the_landmark_nets_backbone(pictures: ObjectPictures, tmp_path: Path) -> None:
    torch.manual_seed(0)
    namer = PartNamer(**SIZES, head_width=8)
    images, parts = pictures.evaluation_batch(range(8))
    logits = namer(images)
    loss = naming_loss(logits, parts)
    loss.backward()
    assert namer.get_parameter("layer4.1.conv2.weight").grad is not None
    found = accuracies(torch.nn.functional.one_hot(parts, logits.shape[1]).movedim(-1, 1).float(), parts)
    assert found == {"pixels": 1.0, "parts": 1.0}

    torch.save(namer.backbone_state(), tmp_path / "backbone.pt")
    slim = {"head_width": 8, "skip_width": 4, "concepts": 2}
    net = build_model(**SIZES, **slim, weights=str(tmp_path / "backbone.pt"))
    namer.eval(), net.eval()
    with torch.no_grad():
        expected = namer.backbone.encode(namer, images)
        maps = net.encode(images)
    assert torch.equal(maps.deep, expected.deep)
    assert torch.equal(maps.shallow, expected.shallow)


def test_learning_rate_rises_and_falls() -> None:
    rates = [one_cycle(step, 10) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.1


def test_entry_writes_a_backbone(tmp_path: Path) -> None:
    small = ["pictures=8", "held_out=4", "side=48", "crop=32", "optim.epochs=1", "optim.batch_size=4"]
    model = ["model.width=4", "model.head_width=8", "runtime.device=cpu", "runtime.threads=1"]
    command = [sys.executable, "mini_pretrain.py", *small, *model, f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(result["metrics"]) == {"pixels", "parts"}
    net = build_model(**SIZES, concepts=2, weights=str(tmp_path / "run" / "backbone.pt"))
    assert net.settings["width"] == 4
