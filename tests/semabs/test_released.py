"""Checkpoints under the released names and ours go in by one way; what asks for code does not."""

import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from projects.semabs import released, trained
from projects.semabs.decoder import ImplicitVolumetricDecoder
from projects.semabs.model import build_network
from shared import checkpoint
from shared.errors import InputError
from shared.runtime import Runtime

UNET = {"f_maps": 8, "channels": 8, "groups": 4, "levels": 2}
FLAGS = {
    "voxel_shape": [8, 8, 8],
    "scene_bounds": [[-1.0, -1.0, -0.5], [1.0, 1.0, 1.5]],
    "unet_num_groups": 4,
    "network_inputs": ["saliency"],
    "saliency_config": "chefer_et_al",
    "pointing_method": "dot_product",
    "approach": "something else",
    "num_patches": 2,
    "use_amp": False,
}
NETWORKS: list[dict[str, Any]] = [
    {"task": "ovssc", "approach": "semantic_abstraction"},
    {"task": "ovssc", "approach": "semantic_aware", "text_dim": 20},
    {"task": "vool", "approach": "semantic_abstraction"},
    {"task": "vool", "approach": "semantic_aware", "text_dim": 20},
    {"task": "vool", "approach": "clip_spatial"},
]


def write_released(folder: Path, net: nn.Module, *, prefix: str = "module.", flags: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "net": {prefix + name: value for name, value in net.state_dict().items()},
        "optimizer": {},
        "epochs": 7,
    }
    torch.save(content, folder / "task.pth")
    if flags:
        (folder / "args.pkl").write_bytes(pickle.dumps(Namespace(**FLAGS)))
    return folder / "task.pth"


def network(settings: dict[str, Any], **more: Any) -> nn.Module:
    return build_network(**settings, voxel_shape=(8, 8, 8), unet=UNET, pts_feat_hidden=12, **more)


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_a_released_checkpoint_says_what_it_is(tmp_path: Path, settings: dict[str, Any], prefix: str) -> None:
    net = network(settings, pointing_method="dot_product", decoder_concat_xyz=bool(prefix))
    file = write_released(tmp_path / "ours", net, prefix=prefix)
    found = trained.load(file.parent)  # the folder holds one checkpoint
    assert (found.task, found.approach) == (settings["task"], settings["approach"])
    assert (found.saliency_config, found.name, found.path) == ("chefer_et_al", "ours/task", file)
    assert found.progress == {"epoch": 7}
    assert not found.network.training
    for name, value in net.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value)
    model, items = found.settings["model"], found.settings["items"]
    assert model["unet"] == UNET
    assert model["voxel_shape"] == [8, 8, 8]
    assert model["decoder_concat_xyz"] is bool(prefix)
    assert items["scene_bounds"] == FLAGS["scene_bounds"]
    assert items["num_patches"] == 2
    assert items["relevancy_scale"] == 50
    decoders = [part for part in found.network.modules() if isinstance(part, ImplicitVolumetricDecoder)]
    assert decoders
    assert all(
        decoder.mirrored and decoder.divide_by_shape for decoder in decoders
    )  # as released weights need


def test_a_run_of_ours_goes_in_by_its_folder_and_by_its_pth(tmp_path: Path) -> None:
    net = network(NETWORKS[0])
    model = {
        "approach": "semantic_abstraction",
        "voxel_shape": [8, 8, 8],
        "unet": UNET,
        "pts_feat_hidden": 12,
    }
    model["mirrored_decoder"] = False
    config = {"name": "mine", "task": "ovssc", "model": model}
    config["items"] = {"scene_bounds": FLAGS["scene_bounds"], "saliency_config": "ours"}
    checkpoint.save(
        tmp_path,
        runtime=Runtime(torch.device("cpu")),
        modules={"model": net},
        progress={"epoch": 2},
        config=config,
    )
    found = trained.load(tmp_path)
    assert (found.name, found.task, found.progress) == ("mine", "ovssc", {"epoch": 2})
    assert not found.network.visual_sampler.mirrored  # type: ignore[union-attr]
    (tmp_path / "config.yaml").write_text(
        "name: mine\ntask: ovssc\nmodel: {approach: semantic_abstraction, voxel_shape: [8, 8, 8],\n"
        "  pts_feat_hidden: 12, unet: {f_maps: 8, channels: 8, groups: 4, levels: 2}, mirrored_decoder: false}\n"
        "items: {scene_bounds: [[-1, -1, -0.5], [1, 1, 1.5]], saliency_config: ours}\n"
    )
    found = trained.load(write_released(tmp_path / "snapshots", net, flags=True))
    assert (found.name, found.saliency_config) == ("mine", "ours")
    assert not found.network.visual_sampler.mirrored  # type: ignore[union-attr]


class _Malicious:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_what_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = network(NETWORKS[0])
    file = write_released(tmp_path / "a", net)
    (tmp_path / "a" / "args.pkl").write_bytes(pickle.dumps(_Malicious()))
    refused: list[tuple[Path, str]] = [(file, r"args.pkl: byte \d+: refused: .*print")]
    evil = tmp_path / "evil.pth"
    torch.save({"net": _Malicious()}, evil)
    refused.append((evil, r"evil.pth: byte \d+: refused"))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(file.read_bytes()[:2000])
    refused.append((cut, "cut.pth: "))
    (tmp_path / "empty").mkdir()
    refused.append((tmp_path / "empty", "no checkpoint in this folder"))
    refused.append((tmp_path / "absent.pth", "no such checkpoint"))
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, other)
    refused.append(
        (other, r"expected a checkpoint with net, optimizer and epochs, found one with \['state_dict'\]")
    )
    torch.save({"net": {"module.a": torch.zeros(1)}, "epochs": 1}, tmp_path / "foreign.pth")
    refused.append((tmp_path / "foreign.pth", "not a network of this program: it has no"))
    write_released(tmp_path / "two", net)
    write_released(tmp_path / "two", net).rename(tmp_path / "two" / "b.pth")
    write_released(tmp_path / "two", net)
    refused.append((tmp_path / "two", "2 checkpoints in this folder, name one of them"))
    for path, message in refused:
        with pytest.raises(InputError, match=message) as caught:
            trained.load(path)
        assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out


def test_flags_that_are_no_flags_and_weights_that_do_not_fit(tmp_path: Path) -> None:
    net = network(NETWORKS[0])
    file = write_released(tmp_path, net)
    (tmp_path / "args.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(
        InputError, match=r"args.pkl: expected the flags of a run \(a Namespace\), found a list"
    ):
        trained.load(file)
    state = net.state_dict()
    del state["vol_feature_extractor.encoders.1.basic_module.conv2.conv.weight"]
    torch.save({"net": state}, tmp_path / "part.pth")
    (tmp_path / "args.pkl").write_bytes(pickle.dumps(Namespace(**FLAGS)))
    with pytest.raises(InputError, match=r"1 missing \(vol_feature_extractor.encoders.1.basic_module.conv2"):
        trained.load(tmp_path / "part.pth")
    for content, message in (
        ({"net": {"a": 1}}, "net: a: expected a tensor, found a int"),
        ({"net": {"a": torch.zeros(1)}, "epochs": "7"}, "epochs: expected a whole number, found '7'"),
        ({"net": {"a": torch.zeros(1)}, "optimizer": 3}, "optimizer: expected its state, found a int"),
    ):
        with pytest.raises(InputError, match=message):
            released.read(content, source="x.pth")
