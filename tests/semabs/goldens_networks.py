"""Golden calls of the networks: names and shapes, the U-Net, whole networks with gradients, LAMB, schedules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from projects.semabs.completion import SemAbs3D
from projects.semabs.decoder import ImplicitVolumetricDecoder
from projects.semabs.lamb import Lamb, trust_ratios
from projects.semabs.model import build_network
from projects.semabs.pointing import build_pointing
from projects.semabs.schedule import Schedule, learning_rate_factor
from projects.semabs.unet3d import ResidualUNet3D
from tests.goldens import fill
from tests.goldens.case import Case

POINTS, QUERIES, PATCHES, TEXT = 3000, 300, 2, 512
LOW = np.array([-1.0, -1.0, -0.1])


def filled(module: nn.Module, seed: int) -> None:
    """Deterministic weights under the module's own names."""
    state = {
        name: torch.from_numpy(fill.tensor(name, tuple(value.shape), seed=seed))
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state)


def network(case: Case, **settings: Any) -> nn.Module:
    """The case's network with filled weights."""
    net = build_network(**case.data["model"], **settings)
    filled(net, case.seed)
    return net


def points(case: Case, name: str, shape: tuple[int, ...]) -> Tensor:
    """Scene points within the bounds."""
    unit = case.input(name, shape, kind="uniform").astype(np.float64)
    return torch.from_numpy((unit * 2 + LOW).astype(np.float32))


def item(case: Case) -> dict[str, Any]:
    """Everything that any of the networks takes: one scene with two labels or descriptions."""
    golden = case.npz()
    saliency, reference = (
        0.3 * torch.from_numpy(case.input(name, (1, PATCHES, POINTS, 1)))
        for name in ("saliency", "saliency_ref")
    )
    colours = torch.from_numpy(case.input("rgb_pts", (1, 1, POINTS, 3), kind="uniform"))
    inputs = case.data["model"].get("network_inputs", ["saliency"])
    return {
        "input_xyz_pts": points(case, "input_xyz", (1, POINTS, 3)),
        "output_xyz_pts": points(case, "output_xyz", (1, PATCHES, QUERIES, 3)),
        "input_feature_pts": colours if case.data["model"]["approach"] == "semantic_aware" else saliency,
        "tsdf_vol": torch.from_numpy(case.input("tsdf_vol", (1, 32, 32, 32))).clamp(-1, 1)
        if "tsdf" in inputs
        else None,
        "semantic_class_features": torch.from_numpy(case.input("text", (1, PATCHES, TEXT))),
        "input_target_saliency_pts": saliency,
        "input_reference_saliency_pts": reference,
        "input_description_saliency_pts": saliency,
        "input_rgb_pts": colours.expand(-1, PATCHES, -1, -1),
        "spatial_relation_name": golden["relations_PxB"].T.tolist(),
        "target_obj_name": golden["target_PxB"].T.tolist(),
        "reference_obj_name": golden["reference_PxB"].T.tolist(),
    }


def manifest(case: Case) -> None:
    """Names, shapes and types of a network's state dict, in the released order."""
    with torch.device("meta"):
        net = build_network(**case.data["model"])
    found = [
        {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in net.state_dict().items()
    ]
    assert found == case.json(case.data["manifest"])


def whole_network(case: Case) -> None:
    """Logits and the gradients of all parameters."""
    golden, key = case.npz(), case.data["key"]

    def raw_features(names: Any) -> Tensor:
        return torch.stack([torch.from_numpy(case.input(f"clip_text/{name}", (TEXT,))) for name in names])

    net = network(case, text_encoder=raw_features)
    logits = net(**item(case))
    case.close(logits, golden[f"{key}/logits"], of_max=True, what="logits")
    if f"{key}/grad_names" not in golden:
        return
    cotangent = torch.from_numpy(case.input("cotangent", tuple(logits.shape)))
    (logits * cotangent).mean().backward()
    gradients(case, net, golden[f"{key}/grad_names"].tolist(), golden[f"{key}/grad_norms"])


def gradients(case: Case, net: nn.Module, names: list[str], expected: np.ndarray) -> None:
    """Norms of the gradients.

    A voxel whose value before a ReLU is 0 but for rounding passes its gradient or does not: the released float32
    norms are themselves up to 1.3e-2 from those in float64. So the tolerance is a share of the largest norm, and
    holds relatively for most of them.
    """
    parameters = dict(net.named_parameters())
    assert sorted(names) == sorted(name for name, p in parameters.items() if p.grad is not None)
    found = np.array([float(parameters[name].grad.double().norm()) for name in names])  # type: ignore[union-attr]
    case.close(found, expected, of_max=True, rtol=case.data["gradients"], what="gradients' norms")
    relative = np.abs(found / expected - 1)
    assert np.median(relative) <= case.data["gradients"], f"median {np.median(relative):.1e}"
    assert relative.max() <= case.data["worst_gradient"], f"worst {relative.max():.1e}"


@torch.no_grad()
def volumes(case: Case) -> None:
    """What goes into the U-Net of SemAbs3D and what comes out."""
    golden, step = case.npz(), case.data["step"]
    net, given = network(case), item(case)
    assert isinstance(net, SemAbs3D)
    scenes = torch.zeros(PATCHES, dtype=torch.long)
    volume = net.voxelize(given["input_xyz_pts"], given["input_feature_pts"][0], scenes)
    for name, found in (("volume_in_sub", volume), ("feature_volume_sub", net.encode(**given).volumes)):
        case.close(found[:, :, ::step, ::step, ::step], golden[name], of_max=True, what=name)


@torch.no_grad()
def unet(case: Case) -> None:
    """The bare U-Net, level by level."""
    golden, step = case.npz(), case.data["step"]
    net = ResidualUNet3D()
    filled(net, case.seed)
    levels: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            levels[name] = output

        return hook

    for kind, modules in (("enc", net.encoders), ("dec", net.decoders)):
        for index, module in enumerate(modules):
            module.register_forward_hook(keep(f"{kind}{index}"))
    given = torch.from_numpy(case.input("unet_in", (1, 16, 32, 32, 32)))
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        found = net(given.contiguous(memory_format=layout))
        case.close(found[:, :, ::step, ::step, ::step], golden["unet_out_sub"], of_max=True, what="output")
        case.close(mean_std(found), golden["unet_out_mean_std"], of_max=True, what="output's statistics")
        assert len(levels) == 11
        for name, level in levels.items():
            case.close(mean_std(level), golden[f"unet_{name}_mean_std"], of_max=True, what=name)
            first = level.flatten()[:16]
            scale = float(golden[f"unet_{name}_mean_std"].max())
            case.close(
                first, golden[f"unet_{name}_first16"], rtol=0, atol=scale * case.data["rtol"], what=name
            )


def mean_std(x: Tensor) -> Tensor:
    """As the goldens have it."""
    return torch.stack([x.double().mean(), x.double().std()])


@torch.no_grad()
def full_size(case: Case) -> None:
    """SemAbs3D at its released size."""
    golden, data = case.npz(), case.data
    net = network(case)
    encoded = net.encode(  # type: ignore[operator]
        input_xyz_pts=points(case, "input_xyz128", (1, data["points"], 3)),
        input_feature_pts=0.3 * torch.from_numpy(case.input("saliency128", (1, 1, data["points"], 1))),
    )
    volume, step = encoded.volumes, data["step"]
    case.close(volume[:, :, ::step, ::step, ::step], golden["feature_volume_sub"], of_max=True, what="volume")
    case.close(mean_std(volume), golden["feature_volume_mean_std"], of_max=True, what="statistics")
    queries = points(case, "output_xyz128", (1, 1, data["queries"], 3))
    case.close(net.decode(encoded, output_xyz_pts=queries), golden["logits"], of_max=True, what="logits")  # type: ignore[operator]


@torch.no_grad()
def decoder(case: Case) -> None:
    """Interpolation with the released axis order and division, and the network on it."""
    golden = case.npz()
    volume = torch.from_numpy(case.input("dvol", (2, 16, 8, 8, 8)))
    queries = torch.from_numpy(golden["dec_query"])
    for name, concat_xyz in (("noxyz", False), ("xyz", True)):
        module = ImplicitVolumetricDecoder(
            16, 5, bounds=case.data["bounds"], voxel_shape=(8, 8, 8), concat_xyz=concat_xyz
        )
        filled(module, case.seed)
        case.close(module(volume, queries), golden[f"dec_{name}"], what=name)
        sampled = module.sample(volume, module.positions(queries))
        case.close(sampled, golden["dec_sampled_features"], what="sampled features")


@torch.no_grad()
def pointing(case: Case) -> None:
    """The three ways of pointing."""
    features = torch.from_numpy(case.input("pk", (3, 20, 64)))
    key = torch.from_numpy(case.input("pq", (3, 1, 64))).squeeze(1)
    for method in case.data["methods"]:
        module = build_pointing(method, 64)
        filled(module, case.seed)
        found = module(features, key).unsqueeze(-1)
        case.close(found, case.npz()[f"point_{method}"], what=method)


def lamb(case: Case) -> None:
    """Twelve steps with clipping and a schedule."""
    golden, data = case.npz(), case.data
    parameters = {
        name: nn.Parameter(torch.from_numpy(case.input(f"lamb/{name}", shape)) * (name != "zero"))
        for name, shape in data["shapes"].items()
    }
    optimizer = Lamb(parameters.values(), lr=data["lr"], weight_decay=data["weight_decay"])
    steps = data["schedule"]["total"]
    schedule = Schedule(optimizer, **data["schedule"])
    for step in range(steps):
        for name, p in parameters.items():
            gradient = case.input(f"lambgrad/{name}/{step}", tuple(p.shape))
            p.grad = torch.from_numpy(gradient) * (0.2 if name == "big" else 0.5)
        norm = nn.utils.clip_grad_norm_(parameters.values(), data["clip"])
        case.close(norm, golden["pre_clip_norm"][step], what="norm")
        case.close(optimizer.param_groups[0]["lr"], golden["lr"][step], what="rate")
        before = [p.detach().clone() for p in parameters.values()]
        optimizer.step()
        schedule.step()
        for (name, p), old in zip(parameters.items(), before, strict=True):
            state = optimizer.state[p]
            update = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-6) + data["weight_decay"] * old
            case.close(trust_ratios([old], [update])[0], golden[f"{name}_trust"][step], what=f"{name} trust")
    for name, p in parameters.items():
        for part, found in (("final", p), *((k, optimizer.state[p][k]) for k in ("exp_avg", "exp_avg_sq"))):
            case.close(found, golden[f"{name}_{part}"], what=f"{name} {part}")


def learning_rates(case: Case) -> None:
    """Every schedule at the given steps."""
    golden = case.npz()
    sizes = {"warmup": int(golden["warmup"]), "total": int(golden["total"])}
    for kind in case.data["kinds"]:
        found = [case.data["lr"] * learning_rate_factor(kind, int(step), **sizes) for step in golden["step"]]
        case.close(found, golden[kind], what=kind)


CALLS = {
    "manifest": manifest,
    "network": whole_network,
    "volumes": volumes,
    "unet": unet,
    "network_full_size": full_size,
    "decoder": decoder,
    "pointing": pointing,
    "lamb": lamb,
    "learning_rates": learning_rates,
}
