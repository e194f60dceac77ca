"""Files of the released GAN: written and read back, found in a folder, and refused when they are something else."""

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from projects.xmrs import gan_files
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.generator import Generator
from shared import checkpoint
from shared.errors import InputError
from tests.xmrs.gan_runs import CPU

SIZES = {"embed_dim": 6, "width": 4, "noise_dim": 5, "condition_dim": 4, "residual_blocks": 1, "side": 64}


@pytest.fixture
def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator(**SIZES), Discriminator(condition_dim=4, width=2, num_classes=5, side=64)


def test_models_as_released(networks: tuple[Generator, Discriminator], tmp_path: Path) -> None:
    gan_files.save_models(tmp_path, 7, *networks)
    assert {path.name for path in tmp_path.iterdir()} == {"model_e007_v1.pkl", "model_e007_v2.pkl"}
    state = torch.load(tmp_path / "model_e007_v1.pkl", weights_only=True)
    assert isinstance(state, OrderedDict)
    assert list(state) == [f"module.{key}" for key in networks[0].state_dict()]
    made = gan_files.load_generator(tmp_path)
    judge = gan_files.load_discriminator(tmp_path / "model_e007_v2.pkl")
    for found, expected in ((made, networks[0]), (judge, networks[1])):
        assert not found.training
        for name, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), name
    assert made.side == 64
    assert made.noise_dim == 5


def test_which_models_are_kept_and_found(networks: tuple[Generator, Discriminator], tmp_path: Path) -> None:
    gan_files.save_models(tmp_path, 1, *networks, only=True)
    gan_files.save_models(tmp_path, 2, *networks, ending=gan_files.REGULAR)
    gan_files.save_models(tmp_path, 12, *networks, only=True)
    gan_files.save_models(tmp_path, 13, *networks, ending=gan_files.LAST, only=True)
    assert sorted(path.name for path in tmp_path.glob("*_v1*")) == [
        "model_e002_v1_regular_check_point.pkl", "model_e012_v1.pkl", "model_e013_v1_last_epoch.pkl",
    ]  # fmt: skip
    assert gan_files.find_model(tmp_path).name == "model_e012_v1.pkl"
    assert gan_files.find_model(tmp_path, gan_files.DISCRIMINATOR).name == "model_e012_v2.pkl"
    (tmp_path / "model_e012_v1.pkl").unlink()
    assert gan_files.find_model(tmp_path).name == "model_e013_v1_last_epoch.pkl"
    modules = {"generator": networks[0], "discriminator": networks[1]}
    checkpoint.save(tmp_path, runtime=CPU, modules=modules, progress={}, config={})
    assert gan_files.find_model(tmp_path).name == "last.pt"
    assert gan_files.load_generator(tmp_path / "last.pt").side == 64


def test_weights_into_a_network_that_is_there(
    networks: tuple[Generator, Discriminator], tmp_path: Path
) -> None:
    gan_files.save_models(tmp_path, 1, *networks)
    torch.manual_seed(1)
    other = Generator(**SIZES)
    gan_files.load_weights(other, tmp_path, gan_files.GENERATOR, name="generator")
    assert torch.equal(other.ca_net.fc.weight, networks[0].ca_net.fc.weight)
    wider = Generator(**{**SIZES, "width": 8})
    with pytest.raises(InputError, match=r"model_e001_v1.pkl: does not fit Generator .* of another shape"):
        gan_files.load_weights(wider, tmp_path, gan_files.GENERATOR, name="generator")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch hacked",)


def test_what_is_no_model_is_refused_in_one_line(
    networks: tuple[Generator, Discriminator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "model_e001_v1.pkl"
    with pytest.raises(InputError, match="no such file or run folder"):
        gan_files.load_generator(bad)
    with pytest.raises(InputError, match="no generator in this folder"):
        gan_files.load_generator(tmp_path)
    torch.save({"module.ca_net.fc.weight": Malicious()}, bad)
    with pytest.raises(InputError, match=r"refused: the pickle asks for .*system"):
        gan_files.load_generator(bad)
    bad.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(InputError, match=r"model_e001_v1.pkl"):
        gan_files.load_generator(bad)
    assert not (tmp_path / "hacked").exists()
    torch.save(networks[1].state_dict(), bad)
    with pytest.raises(InputError, match=r"not a generator: expected tensors such as ca_net.fc.weight"):
        gan_files.load_generator(bad)
    torch.save({"ca_net.fc.weight": "text"}, bad)
    with pytest.raises(InputError, match=r"ca_net.fc.weight: expected a tensor, found str"):
        gan_files.load_generator(bad)
    state = networks[0].state_dict()
    del state["img_net2.img.0.weight"]
    torch.save(state, bad)
    with pytest.raises(InputError, match=r"1 missing \(img_net2.img.0.weight\)"):
        gan_files.load_generator(bad)
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(InputError, match=r"model_e001_v1.pkl"):
        gan_files.load_generator(bad)


def test_trace_and_options(tmp_path: Path) -> None:
    gan_files.write_trace(tmp_path, [[1, 1e-4, 3.5, 0.1, 0.2, 0.3], [2, 1e-5, 2.0, 0.4, 0.5, 0.6]])
    text = (tmp_path / "trace_GAN.csv").read_text()
    assert text == "epoch,lr,I2R,R@1,R@5,R@10\n1,0.0001,3.5,0.1,0.2,0.3\n2,1e-05,2.0,0.4,0.5,0.6\n"
    rows = gan_files.read_trace(tmp_path)
    assert rows[1] == {"epoch": 2, "lr": 1e-5, "I2R": 2.0, "R@1": 0.4, "R@5": 0.5, "R@10": 0.6}
    (tmp_path / "trace_GAN.csv").write_text(text + "3,no,numbers\n")
    with pytest.raises(InputError, match=r"trace_GAN.csv:4: expected 6 numbers, found '3,no,numbers'"):
        gan_files.read_trace(tmp_path)
    (tmp_path / "trace_GAN.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="expected the columns epoch,lr"):
        gan_files.read_trace(tmp_path)
    assert gan_files.read_options(tmp_path) == {}
    gan_files.write_options(tmp_path, {"Z_DIM": 100})
    assert gan_files.read_options(tmp_path) == {"Z_DIM": 100}
    (tmp_path / "training_options.json").write_text("[1]")
    with pytest.raises(InputError, match="expected the training options, found list"):
        gan_files.read_options(tmp_path)
