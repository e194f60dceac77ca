"""Bench cases of the single-stage net: forward and backward beside the released way, restated plainly.

Released: every tap of the ASPP, the deep map upsampled before the convolution of both maps, and the displayed
masks (cam, full) made in training too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.aspp import ASPP
from projects.babel.head import SingleStageNet
from projects.babel.model import build_model
from projects.babel.outputs import Output
from projects.babel.pooling import pooled_scores
from shared.bench import Case, Sides, Target

Step = Callable[..., dict[str, Tensor]]
QUICK = {"backbone": "resnet18", "width": 8, "head_width": 16, "skip_width": 8}


def single_stage_nets(quick: bool) -> tuple[SingleStageNet, SingleStageNet]:
    """The released way and ours with the same weights, in training mode."""
    torch.manual_seed(0)
    settings: dict[str, Any] = QUICK if quick else {}
    plain, ours = build_model(**settings), build_model(**settings)
    ours.load_state_dict(plain.state_dict())
    assert isinstance(plain, SingleStageNet)
    assert isinstance(ours, SingleStageNet)
    return plain, ours


def released_forward(net: SingleStageNet, images: Tensor, keep: Tensor | None = None) -> tuple[Tensor, ...]:
    """Scores, logits, masks, decoder features, and the masks for display."""
    shallow, conv6 = net.encode(images)
    size = shallow.shape[-2:]
    deep = F.interpolate(released_pyramid(net.aspp, conv6), size, mode="bilinear", align_corners=True)
    deep = net.fc8_x(torch.cat([deep, net.fc8_skip(shallow)], dim=1))
    cues = F.adaptive_max_pool2d(plain_block(net.shallow_mask.fc_deep, deep), 1)
    scale, shift = cues.chunk(2, dim=1)
    injected = F.relu(plain_block(net.shallow_mask.fc_skip, shallow) * (scale + 1) + shift)
    refined = plain_block(net.shallow_mask.fc_cls, injected)
    if keep is None:
        keep = torch.bernoulli(torch.full_like(deep, 1 - net.gate.alpha)) > 0
    alpha = net.gate.alpha
    chosen = keep.to(deep.dtype)
    gated = chosen * (deep - alpha * refined) / (1 - alpha) + (1 - chosen) * refined
    decoded = plain_block(net.decoder, gated)
    score = net.last_conv(decoded)
    logits = torch.cat([torch.ones_like(score[:, :1]), score], dim=1)
    masks = F.softmax(logits, dim=1)
    scores = pooled_scores(logits, masks, power=net.focal_p, floor=net.focal_lambda)
    shown = F.interpolate(masks, images.shape[-2:], mode="bilinear", align_corners=True)
    return scores, logits, masks, decoded, shown, shown * 1.0


def plain_block(layers: torch.nn.Module, x: Tensor) -> Tensor:
    """One layer after another."""
    for layer in layers.children():
        x = F.dropout(x, layer.p, layer.training) if isinstance(layer, torch.nn.Dropout) else layer(x)
    return x


def released_pyramid(aspp: ASPP, x: Tensor) -> Tensor:
    """Every branch as a dilated convolution of the whole map."""
    maps = [F.relu(branch.bn(branch.atrous_conv(x))) for branch in aspp.branches()]
    pooled = F.interpolate(aspp.global_avg_pool(x), x.shape[-2:], mode="bilinear", align_corners=True)
    merged = F.relu(aspp.bn1(aspp.conv1(torch.cat([*maps, pooled], dim=1))))
    return F.dropout(merged, aspp.dropout.p, aspp.training)


def released_step(net: SingleStageNet, images: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
    """Forward and backward, the released way; gradients by parameter."""
    scores, logits, _, decoded, *_ = released_forward(net, images, keep)
    return gradients(net, scores, logits, decoded)


def fast_step(net: SingleStageNet, images: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
    """Forward and backward, our way; gradients by parameter."""
    output: Output = net(images, layers=["decoder"], keep=keep)
    assert output.logits is not None
    return gradients(net, output.scores, output.logits, output.features["decoder"])


def gradients(net: SingleStageNet, scores: Tensor, logits: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """Of a sum that all outputs enter."""
    net.zero_grad()
    (scores.sum() + logits.square().mean() + decoded.square().mean()).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def training(quick: bool) -> Sides:
    """Forward and backward of 4 images. A side returns how results are compared: by gradients without draws."""
    plain, ours = single_stage_nets(quick)
    images = torch.randn(2 if quick else 4, 3, *((32, 32) if quick else (224, 224)))

    def run(net: SingleStageNet, step: Step) -> Callable[[], dict[str, Tensor]]:
        step(net, images)
        return partial(exactly, net, step, images)

    return {"released": partial(run, plain, released_step), "ours": partial(run, ours, fast_step)}


def exactly(net: SingleStageNet, step: Step, images: Tensor) -> dict[str, Tensor]:
    """Gradients in float64 without dropout, by running statistics, the gate open everywhere."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # training has moved them by other draws
            module.reset_running_stats()
    net.gate.train()
    found = step(net, images.double(), torch.ones((), dtype=torch.bool))
    net.float().train().load_state_dict(before)
    return found


def check_gradients(outputs: Mapping[str, Any]) -> str:
    """Gradients of all parameters."""
    found, expected = outputs["ours"](), outputs["released"]()
    assert found.keys() == expected.keys(), "other parameters have gradients"
    worst = max(
        float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-12))
        for name, value in expected.items()
    )
    assert worst < 1e-6, f"gradients differ by {worst:.1e} of their maximum"
    return f"all {len(expected)} gradients agree to {worst:.0e} of their maximum"


CASES = [
    Case(
        "network",
        "single-stage net (ResNet-50), forward + backward of 4 images of 224 pixels, fp32",
        training,
        check_gradients,
        (Target("ours", "released"),),
    )
]
