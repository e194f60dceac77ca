"""CNN backbones: sizes of the grid, frozen parts, initial weights from the files that exist."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from projects.vseinfty import backbones
from projects.vseinfty.backbones import Backbone, grid_shape, load_weights, num_grids
from shared.errors import InputError

BLOCKS = (1, 1, 1, 1)
SOURCES = ("detector", "imagenet_res152", "wsl", "imagenet_resnext")


@pytest.fixture(scope="module")
def networks() -> dict[str, Backbone]:
    torch.manual_seed(0)
    return {source: Backbone(source, blocks=BLOCKS).eval() for source in ("detector", "wsl")}


def test_paper_sizes() -> None:
    for source in SOURCES:
        assert num_grids(source, 256) == 64
        assert num_grids(source, 512) == 256


@pytest.mark.parametrize("source", ["detector", "wsl"])
@pytest.mark.parametrize("size", [(32, 33), (33, 62), (64, 95), (97, 130)])
def test_grid_shape_is_that_of_the_network(
    source: str, size: tuple[int, int], networks: dict[str, Backbone]
) -> None:
    with torch.inference_mode():
        last = list(networks[source].maps(torch.randn(1, 3, *size)))[-1]
        grids = networks[source](torch.randn(1, 3, *size))
    assert tuple(last.shape[2:]) == grid_shape(source, *size)
    assert grids.shape == (1, last.shape[2] * last.shape[3], backbones.DIM)


def test_grids_are_in_row_major_order(networks: dict[str, Backbone]) -> None:
    pixels = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        last = list(networks["wsl"].maps(pixels))[-1]
        grids = networks["wsl"](pixels)
    columns = last.shape[3]
    assert torch.equal(grids[1, columns + 2], last[1, :, 1, 2])


def test_norms_stay_in_evaluation_mode(networks: dict[str, Backbone]) -> None:
    network = networks["detector"].train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    gains = network.get_parameter("top.0.0.bn1.weight")
    assert gains.grad is not None
    assert gains.grad.any()
    network.zero_grad()


@pytest.mark.parametrize("stages", [(), ("layer4",), ("layer4", "layer3"), backbones.STAGES])
def test_frozen_stages_have_no_graph(stages: tuple[str, ...], networks: dict[str, Backbone]) -> None:
    network = networks["wsl"]
    network.set_trainable(stages)
    maps = list(network.maps(torch.randn(1, 3, 64, 64)))
    lowest = min((backbones.STAGES.index(stage) for stage in stages), default=len(backbones.STAGES))
    assert [m.requires_grad for m in maps] == [i >= lowest for i in range(len(maps))]
    assert network.resnet["fc"].weight.requires_grad == ("layer4" in stages)
    network.set_trainable(backbones.STAGES)


def released_forms(network: Backbone) -> dict[str, object]:
    """The network's weights as the files that exist hold them."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    names = {ours: theirs for theirs, ours in backbones.TORCHVISION_NAMES.items()}

    def torchvision(key: str) -> str:
        place = next(place for place in names if key.startswith(f"{place}."))
        return names[place] + key.removeprefix(place)

    def part(name: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")
        }

    old = {torchvision(key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {
        "bottom-up": {"base": part("base"), "top": part("top")},
        "torchvision": {torchvision(key): value for key, value in state.items()},
        "before torch 0.4": old,
        "data parallel": {f"module.{key}": value for key, value in old.items()},
    }


@pytest.mark.parametrize("form", ["bottom-up", "torchvision", "before torch 0.4", "data parallel"])
def test_initial_weights(form: str, tmp_path: Path, networks: dict[str, Backbone]) -> None:
    torch.save(released_forms(networks["detector"])[form], tmp_path / "weights.pth")
    torch.manual_seed(1)
    network = Backbone("detector", blocks=BLOCKS)
    load_weights(network, tmp_path / "weights.pth")
    for name, value in networks["detector"].state_dict().items():
        if not name.startswith("resnet.fc"):
            assert torch.equal(network.state_dict()[name], value), name


def test_weights_that_do_not_fit(tmp_path: Path, networks: dict[str, Backbone]) -> None:
    with pytest.raises(InputError, match=r"no such file"):
        load_weights(networks["detector"], tmp_path / "none.pth")
    torch.save(released_forms(networks["wsl"])["torchvision"], tmp_path / "wsl.pth")
    with pytest.raises(InputError, match=r"wsl.pth: does not fit.*base\.4\.0\.conv1\.weight"):
        load_weights(Backbone("detector", blocks=BLOCKS), tmp_path / "wsl.pth")
    torch.save({"resnet.weird": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth: does not fit.*missing.*unexpected \(resnet\.weird"):
        load_weights(Backbone("detector", blocks=BLOCKS), tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"list\.pth: expected"):
        load_weights(Backbone("detector", blocks=BLOCKS), tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"expected one of .*wsl\*, found 'resnet50'"):
        Backbone("resnet50")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu(networks: dict[str, Backbone]) -> None:
    pixels = torch.randn(2, 3, 97, 64)
    for network in networks.values():
        with torch.inference_mode():
            on_cpu = network(pixels)
            on_gpu = network.cuda()(pixels.cuda()).cpu()
        network.cpu()
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-2, atol=1e-3 * on_cpu.abs().max().item())
