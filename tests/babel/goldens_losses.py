"""Golden calls of the losses, the optimiser's groups and the learning rates."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel import optim, schedule
from projects.babel.classification_losses import KINDS, classification_loss
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.mask_loss import mask_loss, plain_mask_loss
from projects.babel.matches import Draws, Matches
from projects.babel.model import build_model
from projects.babel.pooling import focal_penalty
from projects.babel.pseudo_labels import label_classes, one_hot, pseudo_ground_truth, take_classes
from tests.babel.pick import picked
from tests.goldens.case import Case

MILESTONES = {
    "resnet50 ae, milestones 20 25, epochs 0..25, groups 0..3": (20, 25),
    "cls, milestones 6, epochs 0..10": (6,),
}


def agree(case: Case, actual: Any, expected: Any, what: str) -> None:
    """Within `rtol` of max(|x|, the expected array's deviation)."""
    case.close(actual, expected, atol=float(case.data["rtol"]) * float(np.std(expected)), what=what)


def upsampled(blobs: np.ndarray, side: int) -> Tensor:
    """Bilinear, corners aligned."""
    return F.interpolate(torch.from_numpy(blobs), (side, side), mode="bilinear", align_corners=True)


def criteria(case: Case) -> None:
    """The four classification losses and their gradients; the focal term."""
    golden = case.npz()
    for kind in KINDS:
        for form, labels in (("one", golden["y"]), ("multi", golden["y_multi"])):
            scores = torch.from_numpy(2 * case.input("crit/x", labels.shape)).requires_grad_()
            loss = classification_loss(scores, torch.from_numpy(labels), kind)
            loss.backward()
            agree(case, loss, golden[f"{kind}_{form}"], f"{kind} {form}")
            agree(case, scores.grad, golden[f"{kind}_{form}_grad"], f"{kind} {form} gradient")
    share = torch.from_numpy(case.input("focal/x", golden["focal_default"].shape, kind="uniform"))
    for name, (power, floor) in case.data["focal"].items():
        agree(case, focal_penalty(share, power=power, floor=floor), golden[name], name)


def masks_of_blobs(case: Case) -> None:
    """Pseudo ground truth, the balanced loss of each image with its gradient, the plain loss."""
    golden = case.npz()
    labels = torch.from_numpy(golden["labels"])
    images, channels, side, _ = golden["pseudo_gt_shape"].tolist()
    masks = (upsampled(case.input("bml/blobs", (images, channels, 4, 4)), side) * 4).softmax(1)
    classes = label_classes(labels)
    target = pseudo_ground_truth(take_classes(masks, classes), classes)
    expected = np.unpackbits(golden["pseudo_gt"])[: images * channels * side * side]
    found = one_hot(target, channels).numpy().astype(np.uint8).ravel()
    assert np.array_equal(found, expected), f"{(found != expected).sum()} elements differ"
    logits = torch.from_numpy(case.input("bml/logits", (images, channels, 14, 14))).requires_grad_()
    loss = mask_loss(logits, target, labels)
    loss.sum().backward()
    agree(case, loss, golden["loss"], "loss")
    agree(case, picked("bml/grad", logits.grad, len(golden["grad"])), golden["grad"], "gradient")
    agree(case, plain_mask_loss(logits, target), golden["mask_loss_ce"], "plain loss")


def points_of(case: Case, key: str, counts: list[int]) -> list[Tensor]:
    """Matched points [K, 4] of each pair; rows 0 and 1 lie on borders where there are more than two."""
    points = []
    for pair, count in enumerate(counts):
        rowcol = case.input(f"{key}/{pair}", (count, 4), kind="uniform")
        if count > 2:
            rowcol[:2] = [[0, 0, 1, 1], [0.5, 0.25, 0.125, 1]]
        points.append(torch.from_numpy(rowcol))
    return points


def draws_of(case: Case, key: str, kind: str, counts: list[int], negatives: int) -> Draws:
    """The random numbers of a step in the order in which the released code asks for them."""
    images, uniform, asked = [], [], 0

    def rand(*shape: int) -> Tensor:
        nonlocal asked
        asked += 1
        return torch.from_numpy(case.input(f"{key}/rand/{asked - 1}", shape, kind="uniform"))

    for count in counts:
        if not count:
            images.append(torch.zeros(negatives, dtype=torch.int64))
        elif kind == "contrastive_easy":
            name = f"{key}/randint/{asked}"
            images.append(torch.from_numpy(case.input(name, (negatives,), kind="int", high=len(counts))))
            uniform.append(rand(negatives, count, 2).transpose(0, 1))
        elif kind == "contrastive":
            six = torch.stack([rand(negatives // 2, count, 1)[:, :, 0] for _ in range(6)])
            uniform.append(six.view(2, 3, negatives // 2, count).permute(3, 0, 2, 1))
        elif kind == "triplet":
            uniform.append(rand(count, 2)[:, None])
        else:
            uniform.append(torch.zeros(count, 0, 2))
    return Draws(
        torch.stack(images) if images else torch.zeros(len(counts), 0, dtype=torch.int64), torch.cat(uniform)
    )


def corr_loss(case: Case) -> None:
    """Classification and 3D loss of a step, of every kind, and the gradient with respect to the features."""
    golden, data = case.npz(), case.data
    pairs, side, counts = data["pairs"], data["side"], data["points"]
    scores = torch.from_numpy(case.input("corr/cls", (2 * pairs, 10)))
    labels = F.one_hot((3 * torch.arange(2 * pairs) + case.seed) % 10, 10).float()
    classification = classification_loss(scores, labels)
    matches = Matches.of(points_of(case, "corr/coord", counts))
    for name, variant in data["variants"].items():
        maps = case.input("corr/feature", (2 * pairs, data["channels"], side, side)) * variant["scale"]
        features = torch.from_numpy(maps.astype(np.float32)).requires_grad_()
        draws = draws_of(case, f"corr/{name}", variant["kind"], counts, variant["negatives"])
        loss, stats = correspondence_loss(
            features,
            matches,
            draws,
            batch_size=pairs,
            kind=variant["kind"],
            tau=data["tau"],
            normalize=variant["normalize"],
            margin=data["margin"],
        )
        total = classification + data["weight"] * loss
        total.backward()
        agree(case, classification, golden[f"{name}_loss_cls"], f"{name} classification")
        case.close(stats["sum"], golden[f"{name}_loss_3d"], what=f"{name} sum over pairs")
        case.close(total, golden[f"{name}_loss"], what=f"{name} total")
        assert int(stats["points"]) == int(golden[f"{name}_kp"])
        found = picked(f"corr/{name}/grad", features.grad, len(golden[f"{name}_grad"]))
        agree(case, found, golden[f"{name}_grad"], f"{name} gradient")
        case.close(features.grad.abs().sum(), golden[f"{name}_gradabs"], what=f"{name} sum of |gradient|")  # type: ignore[union-attr]


def lr(case: Case) -> None:
    """Rates of every epoch and group."""
    expected = case.json()["lr"]
    assert set(expected) == set(MILESTONES)
    for name, rates in expected.items():
        for epoch, of_epoch in enumerate(rates):
            for group, rate in enumerate(np.atleast_1d(of_epoch)):
                base = case.data["lr"] * (10 if group >= 2 else 1)
                found = schedule.learning_rate(base, MILESTONES[name], epoch)
                assert found == pytest.approx(rate, rel=case.data["rtol"]), (
                    f"{name}, epoch {epoch}, group {group}"
                )


def param_groups(case: Case) -> None:
    """Rate, decay and parameters of each group, in order."""
    with torch.device("meta"):
        model = build_model(**case.data["model"])
    groups = optim.parameter_groups(model, lr=5e-4, weight_decay=5e-4)
    found = [{"lr": g["lr"], "weight_decay": g["weight_decay"], "params": g["names"]} for g in groups]
    assert found == case.json()


CALLS: dict[str, Callable[[Case], None]] = {
    "criteria": criteria,
    "mask_loss": masks_of_blobs,
    "corr_loss": corr_loss,
    "lr": lr,
    "param_groups": param_groups,
}
