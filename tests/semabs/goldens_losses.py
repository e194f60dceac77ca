"""Golden calls of the losses: both tasks, with and without balancing, and their gradients."""

from collections.abc import Callable

import numpy as np
import torch

from projects.semabs.losses import accuracy, class_weights, ignored_points, occupancy_loss
from tests.goldens.case import Case


def losses(case: Case) -> None:
    """Loss, gradient with respect to the logits, accuracy of `task`; the weights of balancing."""
    golden, data = case.npz(), case.data
    task, step = data["task"], data["gradient_step"]
    labels = torch.from_numpy(golden["label"])
    names = golden["patch_labels_PxB"].T.tolist()
    if task == "vool":
        names = [[data["pad"] if name == "" else data["relation"] for name in row] for row in names]
    outside = (torch.from_numpy(golden[key]) for key in ("out_of_bounds", "out_of_frustum"))
    ignored = ignored_points(task, names, *outside)
    for name, balanced in (("nobal", False), ("bal", True)):
        logits = torch.from_numpy(golden["logit"]).requires_grad_()
        loss = occupancy_loss(
            logits, labels, ignored if task == "ovssc" else None, balance_positive_negative=balanced
        )
        loss.backward()
        assert logits.grad is not None
        case.close(loss, golden[f"{task}_{name}_loss"], what=name)
        case.close(logits.grad[:, :, ::step], golden[f"{task}_{name}_grad"], what=f"{name} gradient")
        case.close(
            logits.grad.double().norm(), golden[f"{task}_{name}_grad_norm"], what=f"{name} gradient's norm"
        )
    found = accuracy(torch.from_numpy(golden["logit"]), labels, ignored)
    case.close(found, golden[f"{task}_accuracy"], what="accuracy")


def balance_weights(case: Case) -> None:
    """The two weights of each patch, scaled to add up to the number of points."""
    golden = case.npz()
    labels = torch.from_numpy(golden["label"])
    weights = class_weights(labels)
    scaled = (weights * weights.numel() / weights.sum()).flatten(0, 1).numpy()
    for patch, expected in zip(scaled, golden["bce_weight_bal_unique"], strict=True):
        case.close(np.unique(patch)[[0, -1]], expected)


CALLS: dict[str, Callable[[Case], None]] = {"losses": losses, "balance_weights": balance_weights}
