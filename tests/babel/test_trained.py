"""One way in for trained nets: run folders, checkpoints, snapshots."""

from pathlib import Path

import pytest
import torch
import yaml

from projects.babel import released, trained
from projects.babel.concepts import CONCEPTS
from projects.babel.model import Net, build_model, predict
from shared import checkpoint, runtime
from shared.errors import InputError
from tests.babel.slim import SETTINGS, images, slim_net

NAMES = ["facade", "window", "chapel", "tower", "portal", "statue"]


@pytest.fixture(scope="module")
def net() -> Net:
    return slim_net().eval()


@pytest.fixture(scope="module")
def run(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of ours: last.pt, config.yaml, a snapshot below it."""
    folder = tmp_path_factory.mktemp("runs") / "mini"
    folder.mkdir()
    model = {key: value for key, value in SETTINGS.items() if key != "concepts"}
    config = {"name": "mini", "model": {**model, "weights": "weights.pth"}, "data": {"concepts": NAMES}}
    with runtime.start(device="cpu") as here:
        progress = {"epoch": 3, "step_in_epoch": 0, "step": 30}
        checkpoint.save(folder, runtime=here, modules={"model": net}, progress=progress, config=config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "snapshots").mkdir()
    released.write(folder / "snapshots" / "model_enc_e002Xs-1.250.pth", net)
    return folder


def same(found: trained.Trained, net: Net) -> bool:
    ours, theirs = predict(found.model, images())[1], predict(net, images())[1]
    assert ours is not None
    assert theirs is not None
    return torch.equal(ours, theirs)


@pytest.mark.parametrize("place", ["", "last.pt"])
def test_a_run_of_ours(run: Path, net: Net, place: str) -> None:
    found = trained.load(run / place)
    assert same(found, net)
    assert not found.model.training
    assert (found.name, found.concepts, found.path) == ("mini", tuple(NAMES), run / "last.pt")
    assert found.progress == {"epoch": 3, "step_in_epoch": 0, "step": 30}
    assert found.model.settings["output_stride"] == 8


@pytest.mark.parametrize("place", ["snapshots", "snapshots/model_enc_e002Xs-1.250.pth"])
def test_a_snapshot_takes_the_settings_of_its_run(run: Path, net: Net, place: str) -> None:
    found = trained.load(run / place)
    assert same(found, net)
    assert (found.name, found.concepts) == ("model_enc_e002Xs-1.250", tuple(NAMES))
    assert found.progress == {"epoch": 2, "score": -1.25}


def test_a_snapshot_of_the_released_code(tmp_path: Path) -> None:
    """Nothing beside it: what tensors do not tell is as released, and there are ten concepts."""
    torch.manual_seed(0)
    net = build_model(backbone="resnet18", width=4, head_width=8, skip_width=4).eval()
    path = tmp_path / "model_enc_e024Xs-0.800.pth"
    released.write(path, net)
    found = trained.load(path)
    assert same(found, net)
    assert found.concepts == CONCEPTS
    assert found.progress == {"epoch": 24, "score": -0.8}
    assert found.settings["model"]["backbone"] == "resnet18"


def test_settings_and_names_can_be_given(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    released.write(path, net)
    with pytest.raises(InputError, match="scores of 6 concepts, expected as many names, found none"):
        trained.load(path)
    found = trained.load(path, settings={"output_stride": 8}, concepts=NAMES)
    assert same(found, net)
    assert found.progress == {}


def test_what_is_no_trained_net(run: Path, tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            trained.load(path)
        return str(caught.value)

    assert "no such checkpoint" in message(tmp_path / "nothing.pt")
    assert "no checkpoint in this folder" in message(tmp_path)
    for name in ("model_enc_e000Xs-1.pth", "model_enc_e002Xs-1.pth"):
        torch.save({}, tmp_path / name)
    assert "2 snapshots in this folder, name one of them: model_enc_e000Xs-1.pth" in message(tmp_path)
    content = torch.load(run / "last.pt", weights_only=True)
    torch.save({**content, "modules": {"encoder": {}}}, tmp_path / "other.pt")
    assert "not a checkpoint of a net: it holds ['encoder']" in message(tmp_path / "other.pt")
    torch.save({**content, "format": "another"}, tmp_path / "foreign.pt")
    assert "a checkpoint of another program ('another')" in message(tmp_path / "foreign.pt")
