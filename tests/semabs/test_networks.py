"""The networks' fast paths against plain ones, their named quirks, and what they refuse."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from projects.semabs import completion
from projects.semabs.completion import SemAbs3D
from projects.semabs.decoder import ImplicitVolumetricDecoder
from projects.semabs.interpolation import gathered, grid_sampled
from projects.semabs.model import BOUNDS, build_network
from projects.semabs.norm_conv import norm_conv, plain
from projects.semabs.pointing import CosinePointing, build_pointing
from projects.semabs.vool import different_maps
from shared.errors import InputError

TINY: dict[str, Any] = {
    "voxel_shape": (8, 8, 8),
    "unet": {"f_maps": 4, "channels": 4, "groups": 2, "levels": 3},
    "pts_feat_hidden": 6,
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny_item(patches: int = 3, text: int = 5) -> dict[str, Any]:
    """Two scenes; the second and third map of a scene are the same."""
    maps = draw(2, patches, 50, 1)
    maps[:, 2] = maps[:, 1]
    names = [["pot", "pot", "mug"]] * 2
    return {
        "input_xyz_pts": draw(2, 50, 3, seed=1).clamp(-1, 1),
        "input_feature_pts": maps,
        "output_xyz_pts": draw(2, patches, 20, 3, seed=2),
        "semantic_class_features": draw(2, patches, text, seed=3),
        "input_target_saliency_pts": maps,
        "input_reference_saliency_pts": maps.flip(1),
        "input_description_saliency_pts": maps,
        "input_rgb_pts": draw(2, 1, 50, 3, seed=4),
        "spatial_relation_name": [["in", "behind", "[pad]"], ["on", "on", "in front of"]],
        "target_obj_name": names,
        "reference_obj_name": names,
        "scene_id": "of no interest to a network",
    }


NETWORKS: list[dict[str, Any]] = [
    {"task": "ovssc"},
    {"task": "ovssc", "approach": "semantic_aware", "text_dim": 5},
    {"task": "vool"},
    {"task": "vool", "approach": "semantic_aware", "text_dim": 5},
    {"task": "vool", "approach": "clip_spatial"},
]


def tiny(settings: dict[str, Any], **more: Any) -> tuple[Any, dict[str, Any]]:
    """A network and what it takes."""
    torch.manual_seed(0)
    encode = lambda names: torch.stack([draw(5, seed=len(name)) for name in names])  # noqa: E731
    item = tiny_item()
    if settings.get("approach") == "semantic_aware":
        item["input_feature_pts"] = item["input_rgb_pts"]
    return build_network(**TINY, **settings, text_encoder=encode, **more), item


@pytest.mark.parametrize("channels", [(3, 5, 1), (8, 16, 4), (48, 8, 8)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_norm_conv_is_its_layers_one_by_one(channels: tuple[int, int, int], with_residual: bool) -> None:
    inner, outer, groups = channels
    double = torch.float64

    def inputs() -> list[Tensor]:
        x = draw(2, inner, 4, 6, 5, dtype=double).add(3).contiguous(memory_format=torch.channels_last_3d)
        given = [x, draw(inner, dtype=double), draw(inner, seed=1, dtype=double)]
        given.append(draw(outer, inner, 3, 3, 3, seed=2, dtype=double))
        if with_residual:
            residual = draw(2, outer, 4, 6, 5, seed=3, dtype=double)
            given.append(residual.contiguous(memory_format=torch.channels_last_3d))
        return [value.requires_grad_() for value in given]

    results = []
    for function in (norm_conv, plain):
        given = inputs()
        residual = given[4] if with_residual else None
        y = function(*given[:4], groups=groups, residual=residual)
        y.mul(draw(*y.shape, seed=9, dtype=double)).sum().backward()
        assert ("NormConv" in str(y.grad_fn)) == (function is norm_conv)
        results.append([y, *(value.grad for value in given)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_norm_conv_in_bf16_is_near_and_its_gradients_have_the_weights_type() -> None:
    x = draw(1, 8, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    rest = [draw(8).requires_grad_(), draw(8, seed=1).requires_grad_(), draw(8, 8, 3, 3, 3).requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        y = norm_conv(x, *rest, groups=4)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    expected = plain(x.detach(), *(value.detach() for value in rest), groups=4)
    assert float((y.detach().float() - expected).abs().max() / expected.max()) < 0.03
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in (x, *rest))


def test_norm_conv_in_bf16_has_finite_gradients_for_the_smallest_volumes() -> None:
    """PyTorch 2.14's own gradient of a bfloat16 convolution's weights is not, at 2 x 2 x 2 voxels on some CPUs."""
    x = draw(1, 64, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d)
    rest = [draw(64), draw(64, seed=1), draw(64, 64, 3, 3, 3)]
    gradients = []
    for low in (True, False):
        leaves = [value.clone().requires_grad_() for value in rest]
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            norm_conv(x, *leaves, groups=8).float().sum().backward()
        gradients.append([value.grad for value in leaves])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 3, 2)])
def test_gathered_corners_are_grid_sample(shape: tuple[int, int, int]) -> None:
    rows = torch.tensor([1, 0, 1])
    for positions in (draw(3, 40, 3, dtype=torch.float64), draw(1, 40, 3, dtype=torch.float64)):
        found = []
        for function in (gathered, grid_sampled):
            volumes = draw(2, 4, *shape, dtype=torch.float64, seed=1).requires_grad_()
            values = function(volumes, rows, positions)
            values.square().sum().backward()
            found.append((values, volumes.grad))
        for ours, expected in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected)


def test_without_its_quirks_the_decoder_reads_the_place_of_a_point() -> None:
    shape = (4, 6, 8)
    axes = [torch.linspace(low, high, n) for low, high, n in zip(*BOUNDS, shape, strict=True)]
    volume = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]  # each voxel holds its own place
    points = torch.rand(1, 30, 3, generator=torch.Generator().manual_seed(0)) * 2 - torch.tensor([1, 1, 0.1])
    plain_reader, mirrored, divided = (
        ImplicitVolumetricDecoder(3, 1, bounds=BOUNDS, voxel_shape=shape, **quirks)
        for quirks in (
            {"mirrored": False, "divide_by_shape": False},
            {"mirrored": True, "divide_by_shape": False},
            {"mirrored": False, "divide_by_shape": True},
        )
    )

    def read(decoder: ImplicitVolumetricDecoder) -> Tensor:
        return decoder.sample(volume, decoder.positions(points))

    torch.testing.assert_close(read(plain_reader), points)
    low, extent = torch.tensor(BOUNDS[0]), torch.tensor(BOUNDS[1]) - torch.tensor(BOUNDS[0])
    unit = (points - low) / extent
    torch.testing.assert_close(read(mirrored), unit.flip(-1) * extent + low)
    count = torch.tensor(shape)
    torch.testing.assert_close(read(divided), unit * (count - 1) / count * extent + low)
    outside = plain_reader.positions(torch.tensor([[[9.0, -9.0, 0.0]]]))[0, 0]
    assert outside[:2].tolist() == [1.0, -1.0]


def test_pointing_into_a_linear_layer_never_forms_its_outputs_and_is_the_same() -> None:
    hidden, weight, bias, key = draw(3, 20, 4), draw(9, 4, seed=1), draw(9, seed=2), draw(3, 9, seed=3)
    pointing = CosinePointing()
    expected = pointing(hidden @ weight.T + bias, key)
    torch.testing.assert_close(pointing.of_linear(hidden, weight, bias, key), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"model.pointing_method: expected one of .*, found 'softmax'"):
        build_pointing("softmax", 4)


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_layout_and_checkpointing_change_nothing(settings: dict[str, Any]) -> None:
    results = []
    for more in ({}, {"channels_last": False}, {"checkpointing": 2}):
        net, item = tiny(settings, **more)
        logits = net(**item)
        assert logits.shape == (2, 3, 20)
        logits.square().sum().backward()
        results.append([logits, *(p.grad for p in net.parameters() if p.grad is not None)])
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["dot_product", "additive"])
def test_other_ways_of_pointing(method: str) -> None:
    for settings in (NETWORKS[1], NETWORKS[2], NETWORKS[3]):
        net, item = tiny(settings, pointing_method=method)
        assert torch.isfinite(net(**item)).all()


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_decoding_in_parts_and_encoding_in_parts(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, item = tiny(settings)
    with torch.no_grad():
        expected = net(**item)
        monkeypatch.setattr(completion, "ENCODED_AT_ONCE", 8**3)  # one volume at a time
        encoded = net.encode(**item)
        queries = item.pop("output_xyz_pts")
        parts = [
            net.decode(encoded, output_xyz_pts=part.contiguous(), **item) for part in queries.split(7, dim=2)
        ]
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, rtol=1e-4, atol=1e-5)


def test_each_different_map_of_a_scene_is_encoded_once() -> None:
    net, item = tiny(NETWORKS[2])
    encoded = net.encode(**item)
    assert len(encoded.volumes) == 4  # two scenes with two different maps each
    assert encoded.rows.tolist() == [[[0, 1], [1, 1], [1, 0]], [[2, 3], [3, 3], [3, 2]]]
    item["spatial_relation_name"] = [["in"] * 3] * 2
    alone = [
        net(
            **{k: v[:, p : p + 1] if isinstance(v, Tensor) and v.dim() == 4 else v for k, v in item.items()}
            | {"spatial_relation_name": [["in"]] * 2}
        )
        for p in range(3)
    ]
    torch.testing.assert_close(net(**item), torch.cat(alone, dim=1), rtol=1e-4, atol=1e-4)
    scenes, places, rows = different_maps(torch.zeros(2, 2, 1, 3, 1))
    assert (scenes.tolist(), places.tolist(), rows.flatten().tolist()) == ([0, 1], [0, 0], [0, 0, 1, 1])


def test_colours_make_one_volume_for_a_scene() -> None:
    for settings in (NETWORKS[1], NETWORKS[3]):
        net, item = tiny(settings)
        assert len(net.encode(**item).volumes) == 2


def test_names_are_asked_for_once_and_given_features_are_taken() -> None:
    net, item = tiny(NETWORKS[3])
    asked: list[str] = []
    encode = net.names.encode

    def counted(names: Sequence[str]) -> Tensor:
        asked.extend(names)
        found: Tensor = encode(names)
        return found

    net.names.encode = counted
    expected = net(**item)
    torch.testing.assert_close(net(**item), expected)
    assert asked == ["mug", "pot"]
    given = torch.stack([torch.stack([draw(5, seed=3)] * 3)] * 2)
    item["target_text_features"] = item["reference_text_features"] = given
    net.names.encode = None
    torch.testing.assert_close(net(**item), expected)  # the names' features are those of their length, 3
    del item["target_text_features"]
    item["target_obj_name"] = [["shelf"] * 3] * 2
    with pytest.raises(InputError, match="text encoder"):
        net(**item)


def test_what_points_carry() -> None:
    net, item = tiny({"task": "ovssc"}, network_inputs=("saliency", "tsdf"))
    assert isinstance(net, SemAbs3D)
    item["tsdf_vol"] = draw(2, 8, 8, 8)
    volume = net.voxelize(
        item["input_xyz_pts"], item["input_feature_pts"][:, 0], torch.tensor([0, 1]), item["tsdf_vol"]
    )
    torch.testing.assert_close(volume[:, 0], item["tsdf_vol"])
    assert net(**item).shape == (2, 3, 20)
    with pytest.raises(InputError, match="tsdf is wanted, but the item has no tsdf_vol"):
        net(**{**item, "tsdf_vol": None})
    bare, item = tiny({"task": "ovssc"}, use_pts_feat_extractor=False)
    assert bare(**item).shape == (2, 3, 20)
    with pytest.raises(InputError, match="expected 1 numbers for each point, found 2"):
        bare(**{**item, "input_feature_pts": item["input_feature_pts"].repeat(1, 1, 1, 2)})
    both, item = tiny({"task": "ovssc"}, network_inputs=("patch_masks", "saliency"))
    assert both(**{**item, "input_feature_pts": item["input_feature_pts"].repeat(1, 1, 1, 2)}).shape == (
        2,
        3,
        20,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "segmentation"}, "model.task: expected one of ovssc, vool, found 'segmentation'"),
        ({"approach": "clip"}, "model.approach: expected one of .*, found 'clip'"),
        ({"approach": "clip_spatial"}, "model.approach: clip_spatial is for the task vool, found ovssc"),
        ({"voxel_shape": (100, 100, 100)}, "expected three multiples of 32 for a U-Net of 6 levels"),
        (
            {"unet": {"f_maps": 12}},
            "model.unet.f_maps: expected a multiple of groups = 8 or less than it, found 12",
        ),
        ({"network_inputs": ["depth"]}, "model.network_inputs: expected some of .*, found 'depth'"),
        ({"network_inputs": ["tsdf"]}, "expected one that points carry, found only tsdf"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_network(**settings)


def test_an_unknown_relation_is_named() -> None:
    net, item = tiny(NETWORKS[2])
    item["spatial_relation_name"] = [["in", "under", "on"]] * 2
    with pytest.raises(
        InputError, match=r"spatial_relation_name: expected one of in, behind, .*, found 'under'"
    ):
        net(**item)
