"""Bench cases of the networks: the U-Net, a training step, the decoder and LAMB beside the released way.

What each measure brings is shown by sides that have some of them: volumes with channels last through the layers
one by one (`channels last`), our step (`ours`), with the finest level computed again in the backward pass
(`ours, checkpointing`), and in bf16.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from projects.semabs import bench_released as released
from projects.semabs.completion import SemAbs3D
from projects.semabs.lamb import LARGEST_NORM, Lamb
from projects.semabs.model import build_network
from projects.semabs.unet3d import ResidualUNet3D
from shared.bench import Case, Sides, Target

POINTS, QUERIES = 80_000, 400_000
SMALL_POINTS, SMALL_QUERIES = 2_000, 3_000


def completion_net(quick: bool, **settings: Any) -> SemAbs3D:
    """SemAbs3D at its released size, every copy with the same weights."""
    torch.manual_seed(0)
    side = 32 if quick else 128
    unet = {"f_maps": 8, "channels": 16, "groups": 8, "levels": 4} if quick else {}
    net = build_network(voxel_shape=(side,) * 3, unet=unet, **settings)
    assert isinstance(net, SemAbs3D)
    return net


def scene(quick: bool) -> dict[str, Tensor]:
    """One scene with one label: points on smooth surfaces, query points anywhere."""
    generator = torch.Generator().manual_seed(1)
    points, queries = (SMALL_POINTS, SMALL_QUERIES) if quick else (POINTS, QUERIES)
    xyz = torch.rand(1, points, 3, generator=generator) * 2 - 1
    xyz[..., 2] = 0.5 + 0.4 * torch.sin(3 * xyz[..., 0]) * torch.cos(2 * xyz[..., 1])
    return {
        "input_xyz_pts": xyz,
        "input_feature_pts": torch.randn(1, 1, points, 1, generator=generator),
        "output_xyz_pts": torch.rand(1, 1, queries, 3, generator=generator) * 2
        - torch.tensor([1.0, 1.0, 0.1]),
    }


def forward(quick: bool) -> Sides:
    """The U-Net on one volume, without gradients."""
    net = completion_net(quick)
    item = scene(quick)
    plain = completion_net(quick, channels_last=False).vol_feature_extractor
    with torch.no_grad():
        volume = net.voxelize(
            item["input_xyz_pts"], item["input_feature_pts"][0], torch.zeros(1, dtype=torch.long)
        )
    sides: Sides = {
        "released": released.plain_pages()(
            without_gradients(partial(released.unet, plain, volume.contiguous()))
        ),
        "channels last": without_gradients(partial(released.unet, net.vol_feature_extractor, volume)),
        "ours": without_gradients(partial(net.vol_feature_extractor, volume)),
        "ours bf16": without_gradients(partial(in_bf16, net.vol_feature_extractor, volume)),
    }
    return sides


def without_gradients(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The function under `no_grad`."""
    return torch.no_grad()(function)


def in_bf16(net: ResidualUNet3D, volume: Tensor) -> Tensor:
    """The U-Net under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return net(volume).float()


def check_forward(outputs: Mapping[str, Tensor]) -> str:
    """Ours agree within the goldens' tolerance; what bf16 and PyTorch's layers with channels last lose is told."""
    expected = outputs["released"]
    largest = expected.abs().max()
    worst = {side: float((found - expected).abs().max() / largest) for side, found in outputs.items()}
    assert worst["ours"] < 2e-4, f"features differ by {worst}"
    assert worst["ours bf16"] < 0.2, f"bf16 differs by {worst['ours bf16']:.2g} of the maximum"
    return f"features agree to {worst['ours']:.0e} of their maximum, bf16 to {worst['ours bf16']:.0e}"


def training(quick: bool) -> Sides:
    """Forward, backward and LAMB of one scene with one label. A side returns how results are compared."""
    item = scene(quick)
    positive = (torch.arange(item["output_xyz_pts"].shape[2]) % 2).float().view(1, 1, -1)

    def side(
        logits: Callable[[SemAbs3D], Tensor], *, bf16: bool = False, **settings: Any
    ) -> Callable[[], Any]:
        net = completion_net(quick, **settings)
        start = copy.deepcopy(net.state_dict())
        optimizer = Lamb(net.parameters(), lr=1e-3, weight_decay=1e-5)

        def step() -> dict[str, Tensor]:
            net.load_state_dict(start)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                found = logits(net)
            loss = nn.functional.binary_cross_entropy_with_logits(found.float(), positive)
            loss.backward()
            gradients = {name: p.grad.norm() for name, p in net.named_parameters() if p.grad is not None}
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimizer.step()
            return {"loss": loss.detach(), **gradients}

        return step

    def ours(net: SemAbs3D) -> Tensor:
        found: Tensor = net(**item)
        return found

    def plain(net: SemAbs3D) -> Tensor:
        return released.completion(
            net, item["input_xyz_pts"], item["input_feature_pts"], item["output_xyz_pts"]
        )

    return {
        "released": released.plain_pages()(side(plain, channels_last=False)),
        "ours": side(ours),
        "ours, checkpointing": side(ours, checkpointing=1),
        "ours bf16": side(ours, bf16=True),
    }


def check_training(outputs: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Loss, and the norms of all gradients (against the largest)."""
    expected = outputs["released"]
    largest = max(float(norm) for norm in expected.values())
    found = {}
    for side, tolerance in (("ours", 2e-3), ("ours, checkpointing", 2e-3), ("ours bf16", 0.2)):
        found[side] = (
            max(float((outputs[side][name] - norm).abs()) for name, norm in expected.items()) / largest
        )
        assert found[side] < tolerance, f"{side}: gradients' norms differ by {found[side]:.1e} of the largest"
    return f"loss and gradients' norms agree to {found['ours']:.0e} of the largest, bf16 {found['ours bf16']:.0e}"


def decoding(quick: bool) -> Sides:
    """Query points into one volume, forward and backward."""
    net = completion_net(quick)
    queries = scene(quick)["output_xyz_pts"][0]
    side = net.grid.shape[0]
    volume = torch.randn(1, 16, side, side, side).contiguous(memory_format=torch.channels_last_3d)

    def run(logits: Callable[[Tensor], Tensor], volume: Tensor) -> tuple[Tensor, Tensor]:
        volume = volume.detach().requires_grad_()
        found = logits(volume)
        found.square().sum().backward()
        assert volume.grad is not None
        return found.detach(), volume.grad

    plain = partial(run, lambda volume: released.decoded(net, volume, queries), volume.contiguous())
    ours = partial(run, lambda volume: net.visual_sampler(volume, queries).squeeze(-1), volume)
    return {"released": released.plain_pages()(plain), "ours": ours}


def check_decoding(outputs: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """Logits and the volume's gradients."""
    worst = max(
        float((found - expected).abs().max() / expected.abs().max())
        for found, expected in zip(outputs["ours"], outputs["released"], strict=True)
    )
    assert worst < 1e-4, f"logits or gradients differ by {worst:.1e} of their maximum"
    return f"logits and gradients agree to {worst:.0e} of their maximum"


def optimizing(quick: bool) -> Sides:
    """A LAMB step of SemAbs3D."""

    def parameters() -> list[Tensor]:
        found = [p.detach().clone().requires_grad_() for p in completion_net(quick).parameters()]
        for p in found:
            p.grad = torch.sin(p.detach() * 7)
        return found

    plain, ours = parameters(), parameters()
    optimizer = Lamb(ours, lr=1e-3, weight_decay=1e-5)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain]

    def fast() -> list[Tensor]:
        optimizer.step()
        return [p.detach() for p in ours]

    return {"released": released.plain_pages()(partial(plain_lamb, plain, moments)), "ours": fast}


@torch.no_grad()
def plain_lamb(parameters: Sequence[Tensor], moments: Sequence[tuple[Tensor, Tensor]]) -> Sequence[Tensor]:
    """Tensor by tensor."""
    for p, (mean, square) in zip(parameters, moments, strict=True):
        assert p.grad is not None
        mean.mul_(0.9).add_(p.grad, alpha=0.1)
        square.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
        update = mean / square.sqrt().add(1e-6)
        update.add_(p, alpha=1e-5)
        norm, length = p.pow(2).sum().sqrt().clamp(0, LARGEST_NORM), update.pow(2).sum().sqrt()
        ratio = 1.0 if norm == 0 or length == 0 else float(norm / length)
        p.add_(update, alpha=-1e-3 * ratio)
    return parameters


def check_optimizing(outputs: Mapping[str, list[Tensor]]) -> str:
    """Parameters after the first step."""
    worst = max(
        float((found - expected).abs().max())
        for found, expected in zip(outputs["ours"], outputs["released"], strict=True)
    )
    assert worst < 1e-5, f"parameters differ by {worst:.1e}"
    return f"all parameters agree to {worst:.0e}"


CASES = [
    Case(
        "unet_forward",
        "residual U-Net at 128^3 voxels, one volume, no gradients (huge pages for ours alone)",
        forward,
        check_forward,
        (Target("ours", "released", 1.7), Target("channels last", "released"), Target("ours bf16", "ours")),
        memory=True,
    ),
    Case(
        "network_step",
        "training step of SemAbs3D at 128^3: one label, 80k points, 400k queries, LAMB (huge pages for ours alone)",
        training,
        check_training,
        (
            Target("ours", "released", 1.7),
            Target("ours, checkpointing", "ours"),
            Target("ours bf16", "ours"),
        ),
        memory=True,
    ),
    Case(
        "decoder",
        "400k query points into one volume, forward and backward",
        decoding,
        check_decoding,
        (Target("ours", "released"),),
    ),
    Case(
        "lamb",
        "LAMB step of SemAbs3D (35.4 million parameters)",
        optimizing,
        check_optimizing,
        (Target("ours", "released"),),
    ),
]
