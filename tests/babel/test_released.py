"""Weights of the released code: read, checked, written; initial weights of backbones."""

import pickle
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18, vgg16

from projects.babel import released, released_nets
from projects.babel.model import Net, build_model, predict
from shared.errors import InputError
from tests.babel.slim import SETTINGS, images, slim_net


@pytest.fixture(scope="module")
def net() -> Net:
    return slim_net().eval()


@pytest.fixture(scope="module")
def snapshot(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "model_enc_e024Xs-0.800.pth"
    released.write(path, net)
    return path


def test_a_snapshot_gives_the_net_again(net: Net, snapshot: Path) -> None:
    found = released_nets.to_model(released.read(snapshot), source=snapshot, settings=SETTINGS)
    assert not found.training
    assert list(found.state_dict()) == list(torch.load(snapshot, weights_only=True))
    for ours, theirs in zip(predict(found, images()), predict(net, images()), strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_old_files_with_the_prefix_and_without_counters(net: Net, tmp_path: Path) -> None:
    state = {
        f"module.{key}": value
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    found = released_nets.to_model(released.read(path), source=path, settings=SETTINGS)
    assert torch.equal(predict(found, images())[0], predict(net, images())[0])
    assert all(int(v) == 0 for k, v in found.state_dict().items() if k.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "ae", "backbone": "resnet101", "concepts": 7}, {"width": 64, "head_width": 256}),
        ({"kind": "ae", "backbone": "vgg16", "concepts": 3}, {"skip_width": 48}),
        ({"kind": "bsl", "backbone": "resnet38", "concepts": 4}, {}),
        ({"kind": "bsl", "backbone": "resnet50", "concepts": 4}, {"width": 64}),
        ({"kind": "cls", "backbone": "squeezenet", "concepts": 5}, {}),
        ({"kind": "cls", "backbone": "mobilenet_v2", "concepts": 5}, {}),
        ({"kind": "cls", "backbone": "resnet50", "concepts": 5}, {}),
    ],
)
def test_tensors_tell_the_sizes(settings: dict, told: dict) -> None:
    with torch.device("meta"):
        state = build_model(**settings).state_dict()
    found = released_nets.sizes(state, "file")
    assert {**found, **settings, **told} == found


class _Evil:
    def __reduce__(self) -> tuple:
        return print, ("executed",)


def test_bad_files(net: Net, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = dict(net.state_dict())
    path = tmp_path / "bad.pth"

    def message(content: object) -> str:
        torch.save(content, path)
        with pytest.raises(InputError) as caught:
            released_nets.to_model(released.read(path), source=path, settings=SETTINGS)
        return str(caught.value)

    assert "1 missing (decoder.0.weight)" in message(
        {key: value for key, value in state.items() if key != "decoder.0.weight"}
    )
    assert "1 unexpected (extra.weight)" in message({**state, "extra.weight": torch.zeros(1)})
    assert "of another shape (decoder.0.weight" in message({**state, "decoder.0.weight": torch.zeros(8, 8)})
    kernel = torch.full((8, 1, 3, 3), 0.5)
    assert "_aff.aff_m.kernel: expected kernels that shift" in message({**state, "_aff.aff_m.kernel": kernel})
    assert "no last_conv.0.weight" in message({"a.weight": torch.zeros(2)})
    assert "no backbone known" in message({"fc8.weight": torch.zeros(2, 2, 1, 1)})
    assert "aspp.conv1.weight is missing" in message(
        {key: state[key] for key in ("last_conv.0.weight", "conv1.weight")}
    )
    assert "expected a state dict" in message([1, 2])
    assert "expected a state dict" in message({})
    assert "epoch: expected a tensor, found a int" in message({**state, "epoch": 3})
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError, match=str(path)):
        released.read(path)
    path.write_text("no checkpoint")
    with pytest.raises(InputError, match=str(path)):
        released.read(path)
    assert "executed" not in capsys.readouterr().out


def test_initial_weights_of_torchvision(tmp_path: Path) -> None:
    """Its file of the whole classifier, into each kind of net; the new layers stay as drawn."""
    torch.manual_seed(1)
    whole = resnet18(weights=None)
    path = tmp_path / "resnet18.pth"
    torch.save(whole.state_dict(), path)
    for kind, prefix, head in (("ae", "", "last_conv.0"), ("bsl", "", "fc8"), ("cls", "model_ft.", "fc")):
        torch.manual_seed(2)
        plain = build_model(kind=kind, backbone="resnet18", concepts=3)
        torch.manual_seed(2)
        found = build_model(kind=kind, backbone="resnet18", concepts=3, weights=str(path))
        state, drawn = found.state_dict(), plain.state_dict()
        for key, value in whole.state_dict().items():
            if not key.startswith("fc."):
                assert torch.equal(state[prefix + key], value), key
        new = f"{prefix}{head}.weight"
        assert torch.equal(state[new], drawn[new])


def test_initial_weights_of_vgg(tmp_path: Path) -> None:
    """torchvision's convolutions by place; its fully connected layers have other sizes and are left out."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in vgg16(weights=None).features.state_dict().items()}
    state = {f"features.{key}": torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}
    path = tmp_path / "vgg16.pth"
    torch.save(state, path)
    net = build_model(kind="bsl", backbone="vgg16", weights=str(path))
    found = [value for key, value in net.state_dict().items() if key.startswith("conv")]
    assert [float(value.flatten()[0]) for value in found] == list(map(float, range(26)))


def test_initial_weights_that_do_not_fit(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(InputError, match=r"model.weights: no such file"):
        slim_net(weights=str(path))
    state = {key: value for key, value in net.state_dict().items() if not key.startswith("layer3.1.")}
    torch.save(state, path)
    with pytest.raises(InputError, match=r"missing \(layer3.1.conv1.weight"):
        slim_net(weights=str(path))
    released.write(path, slim_net(width=8))
    with pytest.raises(InputError, match="of another shape"):
        slim_net(weights=str(path))
    released.write(path, net)  # the backbone of another net, its head left out
    found = slim_net(weights=str(path), head_width=12)
    assert torch.equal(found.state_dict()["layer4.1.conv2.weight"], net.state_dict()["layer4.1.conv2.weight"])
