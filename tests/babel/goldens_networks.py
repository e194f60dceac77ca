"""Golden calls of the networks: names and shapes, whole nets, the head with its losses, gate, PAMR."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel.gate import StochasticGate
from projects.babel.head import LAYERS, SingleStageNet
from projects.babel.mask_loss import mask_loss
from projects.babel.model import Net, Segmenter, build_model, predict
from projects.babel.pamr import PAMR, resized
from projects.babel.pooling import foreground_share, pooled_scores
from projects.babel.pseudo_labels import label_classes, one_hot, pseudo_ground_truth, take_classes
from tests.babel.pick import pick
from tests.goldens import fill
from tests.goldens.case import Case

LABELS = {0: (3,), 1: (7, 0)}  # class indices of the images' labels


def agree(case: Case, name: str, actual: Tensor, sampled: tuple[str, int] | None = None) -> None:
    """Within the case's tolerance of max(|x|, standard deviation of the array); `sampled`: as `pick` does."""
    expected = case.npz()[name]
    found = actual.detach().double().numpy()
    if sampled is not None:
        found = found.reshape(-1)[pick(sampled[0], found.size, sampled[1])]
    assert found.shape == expected.shape, name
    scale = np.maximum(np.abs(expected), expected.std())
    worst = float((np.abs(found - expected) / scale).max())
    limit = float(case.data["relative"])
    assert worst <= limit, f"{case.data['name']} {name}: off by {worst:.1e}, expected at most {limit:.0e}"


def network(case: Case) -> Net:
    """The case's net with filled weights, in evaluation mode."""
    with torch.device("meta"):
        net = build_model(**case.data["model"])
    net.to_empty(device="cpu").load_state_dict(filled(case.path(case.data["manifest"]), case.seed))
    return net.eval()


def filled(manifest: Path, seed: int) -> dict[str, Tensor]:
    """Filled weights; the kernels of PAMR keep their values."""
    state = {name: torch.from_numpy(value) for name, value in fill.state_dict(manifest, seed=seed).items()}
    if "mask_branch.0.weight" in state:  # one tensor of three names, the last one wins
        state |= dict.fromkeys(("fc8.weight", "cls_branch.2.weight"), state["mask_branch.0.weight"])
    kernels = PAMR().state_dict()
    return state | {f"_aff.{name}": value for name, value in kernels.items() if f"_aff.{name}" in state}


def images(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, raw images, labels [B, 10]."""
    key, shape = case.data["key"], tuple(case.data["images"])
    labels = torch.zeros(shape[0], 10)
    for row in range(shape[0]):
        labels[row, list(LABELS[row])] = 1
    raw = torch.from_numpy(case.input(f"{key}/image_raw", shape, kind="uniform"))
    return torch.from_numpy(case.input(f"{key}/image", shape)), raw, labels


def cleaned(masks: Tensor, size: tuple[int, ...], labels: Tensor | None) -> Tensor:
    """Masks at the image's size, concepts that are not labelled set to 0."""
    upsampled = F.interpolate(masks, size, mode="bilinear", align_corners=True)
    return upsampled if labels is None else upsampled * F.pad(labels, (1, 0), value=1.0)[..., None, None]


def manifest(case: Case) -> None:
    """Names, shapes and types of a net's state dict, in the released order."""
    with torch.device("meta"):
        net = build_model(**case.data["model"])
    found = [
        {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in net.state_dict().items()
    ]
    assert found == json.loads(case.path(case.data["manifest"]).read_text(encoding="utf-8"))


@torch.no_grad()
def single_stage(case: Case) -> None:
    """A whole single-stage net: every layer, scores, masks before and after PAMR, logits."""
    net, key = network(case), case.data["key"]
    pixels, raw, labels = images(case)
    assert isinstance(net, SingleStageNet)
    size = tuple(pixels.shape[-2:])
    scores, masks = predict(net, pixels)
    assert masks is not None
    agree(case, "test_cls", scores)
    agree(case, "test_masks", masks, (f"{key}/test_masks", 2048))
    output = net(pixels, layers=LAYERS)
    for layer, found in output.features.items():
        assert list(found.shape) == case.npz()[f"shape_{layer}"].tolist()
        agree(case, f"feat_{layer}", found, (f"{key}/{layer}", 1024))
        agree(case, f"stat_{layer}", torch.stack([found.double().mean(), found.double().std()]))
    agree(case, "cls", output.scores)
    agree(case, "cls_fg", foreground_share(output.masks, labels))
    agree(case, "mask_logits", output.logits, (f"{key}/mask_logits", 1024))
    agree(case, "cam", cleaned(output.masks, size, labels), (f"{key}/cam", 1024))
    refined = net.refine(raw, output.masks)
    agree(case, "dec", cleaned(refined, size, labels), (f"{key}/dec", 1024))
    agree(case, "full", cleaned(output.masks, size, None), (f"{key}/full", 1024))


@torch.no_grad()
def baseline(case: Case) -> None:
    """The CAM baseline."""
    net, key = network(case), case.data["key"]
    pixels, _, labels = images(case)
    assert isinstance(net, Segmenter)
    scores, masks = predict(net, pixels)
    assert masks is not None
    agree(case, "test_cls", scores)
    agree(case, "test_masks", masks, (f"{key}/test_masks", 1024))
    output = net(pixels, layers=["backbone"])
    agree(case, "cls_fg", foreground_share(masks, labels))
    agree(case, "feature", output.features["backbone"], (f"{key}/feature", 512))
    agree(case, "logits", output.logits, (f"{key}/logits", 512))
    agree(case, "cam", masks * F.pad(labels, (1, 0), value=1.0)[..., None, None], (f"{key}/cam", 1024))


@torch.no_grad()
def classifier(case: Case) -> None:
    """A classifier and the map that its hook gives."""
    net, key = network(case), case.data["key"]
    output = net(images(case)[0], layers=["feature"])
    agree(case, "cls", output.scores)
    assert list(output.features["feature"].shape) == case.npz()["feature_shape"].tolist()
    agree(case, "feature", output.features["feature"], (f"{key}/feature", 1024))


def gate(case: Case) -> None:
    """Stochastic gate in evaluation and with an injected draw in training."""
    shape = case.npz()["sg_eval"].shape
    deep, refined = (torch.from_numpy(case.input(f"sg/{name}", shape)) for name in ("x1", "x2"))
    keep = torch.from_numpy(case.input("sg/u", shape, kind="uniform")) >= case.data["alpha"]
    module = StochasticGate(case.data["alpha"])
    agree(case, "sg_train", module.train()(deep, refined, keep))
    agree(case, "sg_eval", module.eval()(deep, refined))


def pamr(case: Case) -> None:
    """Mask refinement at the released dilations, and of masks smaller than the image."""
    for name, options in case.data["inputs"].items():
        raw = torch.from_numpy(case.input(f"pamr/{name}/image", options["image"], kind="uniform"))
        masks = torch.from_numpy(case.input(f"pamr/{name}/mask", options["mask"])).mul(3).softmax(1)
        module = PAMR(options["dilations"], options["iterations"])
        found = module(F.avg_pool2d(raw, 3, 1, 1), masks)
        agree(case, f"out_{name}", found, (f"pamr/{name}/out", 4096))
        statistics = [found.mean(), found.std(), found.min(), found.max()]
        agree(case, f"stat_{name}", torch.stack(statistics))


def head(case: Case) -> None:
    """From class scores at each pixel to scores, PAMR, pseudo ground truth, mask loss and gradients."""
    golden, size = case.npz(), (112, 112)
    labels = torch.from_numpy(golden["labels"])
    low = torch.from_numpy(case.input("head/logits", (3, 10, 4, 4)))
    pixels = F.interpolate(low, (28, 28), mode="bilinear", align_corners=True).mul(6).sub(5)
    raw = torch.from_numpy(case.input("head/image_raw", (3, 3, *size), kind="uniform"))
    raw = F.avg_pool2d(raw, 9, 1, 4)
    pixels.requires_grad_()
    logits = F.pad(pixels, (0, 0, 0, 0, 1, 0), value=1.0)
    masks = logits.softmax(1)
    scores = pooled_scores(logits, masks)
    agree(case, "cls", scores)
    agree(case, "cls_fg", foreground_share(masks, labels))
    agree(case, "cam", cleaned(masks, size, labels), ("head/cam", 1024))
    small = resized(raw, (28, 28))
    agree(case, "dec", cleaned(PAMR()(small, masks), size, labels), ("head/dec", 4096))
    agree(case, "full", cleaned(masks, size, None), ("head/full", 1024))
    classes = label_classes(labels)
    refined = PAMR()(small, take_classes(masks.detach(), classes))  # as the training does
    target = pseudo_ground_truth(refined, classes, size)
    counts = one_hot(target, 11).sum((2, 3)).numpy()
    assert np.abs(counts - golden["pseudo_gt_counts"]).max() <= case.data["count_atol"]
    sampled = one_hot(target, 11).numpy().reshape(-1)[pick("head/pseudo_gt", target.numel() * 11, 4096)]
    assert (sampled != golden["pseudo_gt"]).sum() <= case.data["count_atol"]
    losses = mask_loss(logits, target, labels)
    agree(case, "loss_mask", losses)
    gradients(case, pixels, F.cross_entropy(scores, labels.argmax(1)), losses.mean())


def gradients(case: Case, pixels: Tensor, classification: Tensor, masks: Tensor) -> None:
    """Of the whole loss and of the classification alone, with respect to the class scores of the pixels."""
    agree(case, "total", classification + masks)
    (of_classes,) = torch.autograd.grad(classification, pixels, retain_graph=True)
    (of_masks,) = torch.autograd.grad(masks, pixels)
    found = {"grad_total": of_classes + of_masks, "grad_cls": of_classes}
    for name, gradient in found.items():
        agree(case, name, gradient, ("head/grad", 2048))
    agree(case, "grad_abs_sum", torch.stack([g.double().abs().sum() for g in found.values()]))


CALLS = {
    "manifest": manifest,
    "single_stage": single_stage,
    "baseline": baseline,
    "classifier": classifier,
    "gate": gate,
    "pamr": pamr,
    "head": head,
}
