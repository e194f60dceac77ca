"""One step, a validation, and the objective of each epoch; each beside the plain way of doing the same."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.babel import engine, objective, optim, validation
from projects.babel.augmentation import denormalized
from projects.babel.correspondence_loss import correspondence_loss
from projects.babel.data import Batch, open_split
from projects.babel.head import SingleStageNet
from projects.babel.matches import Draws
from projects.babel.model import build_model
from projects.babel.objective import Objective
from projects.babel.outputs import Net
from shared.data import BatchPlan
from shared.errors import InputError
from shared.runtime import Runtime
from tests.babel.tiny_wikiscenes import CONCEPTS, make_set
from tests.babel.two_ranks_training import EASY, OBJECTIVES, build, whole_batch

CPU = Runtime(torch.device("cpu"))
BF16 = Runtime(torch.device("cpu"), "bf16")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set") / "tiny")


@pytest.fixture(scope="module")
def batch(root: Path) -> Batch:
    """All labels are known."""
    return whole_batch(root, labelled=1.0)


def plain_mask_loss(model: Net, images: Tensor, logits: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Image by image, all classes, the whole map."""
    assert isinstance(model, SingleStageNet)
    refined = model.refine(denormalized(images), masks.detach())
    size = images.shape[-1]
    big = F.interpolate(refined, (size, size), mode="bilinear", align_corners=True)
    losses = []
    for mask, logit, label in zip(big, logits, labels, strict=True):
        mask = mask * torch.cat([torch.ones(1), label])[:, None, None]
        share = torch.tensor([0.7] + [0.6] * len(label))
        above = mask > (mask.amax((1, 2)) * share).clamp(min=0.2)[:, None, None]
        above &= (above.sum(0) == 1)[None]
        target = torch.where(above.any(0), above.int().argmax(0), 255)
        counts = above.sum((1, 2)).float()
        weight = (counts.sum() - counts) / (1 + counts.sum())
        wide = F.interpolate(logit[None], (size, size), mode="bilinear", align_corners=True)
        each = F.cross_entropy(wide, target[None], weight=weight, ignore_index=255, reduction="none")
        is_open = (counts > 0).sum() == label.sum() + 1
        losses.append(each.mean() * is_open)
    return torch.stack(losses).mean()


def plain_loss(model: Net, batch: Batch, aim: Objective) -> Tensor:
    """L = L_cls + weight mean L_mask + weight / batch size sum of L_NCE, of a batch whose labels are all known."""
    output = model(batch.images, layers=("decoder",))
    assert output.logits is not None
    assert output.masks is not None
    loss = F.cross_entropy(output.scores, batch.labels.argmax(1))
    loss = loss + aim.mask_weight * plain_mask_loss(
        model, batch.images, output.logits, output.masks, batch.labels
    )
    generator = torch.Generator().manual_seed(objective._word(5, 1, 2))
    draws = Draws.draw("contrastive_easy", generator, batch.matches.counts, 4)
    features = output.features["decoder"]
    term, _ = correspondence_loss(features, batch.matches, draws, batch_size=6, tau=0.2)
    return loss + 0.3 * term


def test_a_step_is_forward_loss_backward_adam(batch: Batch) -> None:
    model, aim = build(CPU), OBJECTIVES["all terms"]
    plain = copy.deepcopy(model)
    optimizer = optim.build_optimizer(model, lr=1e-4)
    expected_optimizer = torch.optim.Adam(optim.parameter_groups(plain, lr=1e-4, weight_decay=5e-4))
    for _ in range(2):
        result = engine.train_step(
            model, optimizer, batch, aim, runtime=CPU, batch_size=6, draw_seed=(5, 1, 2)
        )
        expected_optimizer.zero_grad()
        loss = plain_loss(plain, batch, aim)
        loss.backward()
        expected_optimizer.step()
        assert result.loss == pytest.approx(float(loss.detach()), rel=1e-3)
        parts = result.classification + 0.7 * result.mask + 0.3 * result.correspondence
        assert result.loss == pytest.approx(parts, rel=1e-5)
        assert min(result.classification, result.mask, result.correspondence, result.foreground) > 0
        assert result.points == len(batch.matches.pair)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert float((ours - theirs).detach().abs().mean()) < 3e-4, name


def test_images_without_a_label_have_no_supervised_loss(batch: Batch) -> None:
    """The loss is that of the other images, their matches and statistics included."""
    first = batch.first.clone()
    labels = batch.labels.clone()
    first[[1, 8]] = -1
    labels[[1, 8]] = 0
    known = first >= 0
    model, aim = build(CPU).eval(), Objective(mask_weight=0.5)  # without batch statistics, images are apart
    output = model(batch.images)
    loss, _ = objective.supervised_loss(model, output, replace(batch, first=first, labels=labels), aim)
    rows = replace(batch, images=batch.images[known], labels=labels[known], first=first[known])
    expected, _ = objective.supervised_loss(model, model(rows.images), rows, aim)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    whole, _ = objective.supervised_loss(model, output, batch, aim)
    assert loss.item() != pytest.approx(whole.item(), rel=1e-3)
    nothing = replace(batch, first=torch.full_like(first, -1), labels=torch.zeros_like(labels))
    assert objective.supervised_loss(model, output, nothing, aim)[0].item() == 0


def test_masks_are_not_refined_before_the_mask_loss_starts(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(CPU)
    optimizer = optim.build_optimizer(model)
    calls = []
    monkeypatch.setattr(objective, "pseudo_labels", lambda *given: calls.append(given))
    early = Objective(mask_weight=0.0, correspondence=EASY)
    result = engine.train_step(model, optimizer, batch, early, runtime=CPU, batch_size=6)
    assert not calls
    assert result.mask == 0


def test_steps_on_one_batch_learn_it(batch: Batch) -> None:
    model, aim = build(CPU), Objective(mask_weight=0.0, correspondence=EASY)
    optimizer = optim.build_optimizer(model, lr=3e-4)
    results = [engine.train_step(model, optimizer, batch, aim, runtime=CPU, batch_size=6) for _ in range(25)]
    assert results[-1].classification < 0.5 * results[0].classification
    assert results[-1].correspondence < 0.9 * results[0].correspondence


def test_bf16_computes_about_the_same_and_keeps_parameters_in_float32(batch: Batch) -> None:
    losses = []
    for runtime in (CPU, BF16):
        model, aim = build(runtime), Objective(mask_weight=0.0, correspondence=EASY)
        seen: list[torch.dtype] = []
        model.get_submodule("decoder.0").register_forward_hook(lambda m, i, out: seen.append(out.dtype))  # noqa: B023
        optimizer = optim.build_optimizer(model, lr=3e-4)
        losses.append(engine.train_step(model, optimizer, batch, aim, runtime=runtime, batch_size=6).loss)
        assert seen == [torch.bfloat16 if runtime is BF16 else torch.float32]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize(
    ("kind", "backbone", "layer"), [("bsl", "resnet18", "backbone"), ("cls", "resnet18", "feature")]
)
def test_other_nets_train(kind: str, backbone: str, layer: str, batch: Batch) -> None:
    torch.manual_seed(0)
    model = build_model(kind=kind, backbone=backbone, concepts=3, width=8 if kind == "bsl" else 64)
    aim = Objective(mask_weight=1.0, correspondence={**EASY, "layer": layer})
    optimizer = optim.build_optimizer(model, lr=1e-3)
    results = [engine.train_step(model, optimizer, batch, aim, runtime=CPU, batch_size=6) for _ in range(4)]
    assert results[-1].loss < results[0].loss
    assert results[0].mask == 0
    assert (results[0].foreground > 0) == (kind == "bsl")


def test_a_step_that_is_not_finite_changes_nothing(batch: Batch) -> None:
    model, aim = build(CPU), OBJECTIVES["all terms"]
    optimizer = optim.build_optimizer(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    broken = replace(batch, images=batch.images.clone(), indices=batch.indices + 40)
    broken.images[3, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=rf"epoch 3: the pixels of training images \[{broken.indices[3]}\]"):
        engine.train_step(model, optimizer, broken, aim, runtime=CPU, batch_size=6, where="epoch 3")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not optimizer.state
    with torch.no_grad():
        model.get_parameter("last_conv.0.weight").fill_(torch.inf)
    with pytest.raises(InputError, match=r"the loss is nan, of a finite batch: try a lower optim.lr"):
        engine.train_step(model, optimizer, batch, aim, runtime=CPU, batch_size=6)
    assert not optimizer.state


def test_objectives_over_the_epochs() -> None:
    """The mask loss from `pretrain` on; the 3D loss until `until_epoch`, and not at weight 0."""

    def aim(epoch: int, **matching: Any) -> Objective:
        given = {**EASY, "until_epoch": None, **matching}
        return Objective.of_epoch(
            epoch, pretrain=5, classification="Hinge", mask_weight=0.7, correspondence=given
        )

    assert [aim(epoch).mask_weight for epoch in (0, 4, 5, 9)] == [0, 0, 0.7, 0.7]
    assert [aim(epoch, until_epoch=3).correspondence is None for epoch in (0, 2, 3, 8)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert aim(0, weight=0.0).correspondence is None
    assert aim(9).correspondence == EASY
    assert aim(0).classification == "Hinge"


def test_draws_of_negatives_differ_between_steps() -> None:
    words = {
        objective._word(seed, epoch, step) for seed in range(4) for epoch in range(4) for step in range(4)
    }
    assert len(words) == 64


def test_validation_scores_every_image_and_its_loss(root: Path) -> None:
    split = open_split(name="val", file=root / "val.txt", root=root, concepts=CONCEPTS, size=32)
    model, aim = build(CPU), Objective(mask_weight=0.5)
    model.eval()
    rows = [split.fetch_val(BatchPlan(0, 0, np.array([i]))) for i in range(len(split))]
    with torch.no_grad():
        outputs = [model(row.images) for row in rows]
    scores = torch.cat([output.scores for output in outputs])
    of_class = F.cross_entropy(scores, torch.from_numpy(split.first))
    masks = [
        plain_mask_loss(model, row.images, out.logits, out.masks, row.labels)
        for row, out in zip(rows, outputs, strict=True)
    ]
    model.train()
    found = validation.validate(model, split, aim, CPU, batch_size=5, workers=0)
    assert model.training
    assert found.loss == pytest.approx(float(of_class + 0.5 * torch.stack(masks).mean()), rel=1e-3)
    assert float(torch.stack(masks).mean()) > 0
    assert found.checkpoint_score == 1 - found.loss
    assert found.scores.acc == pytest.approx(float((scores.argmax(1).numpy() == split.first).mean()))
    early = validation.validate(model, split, Objective(mask_weight=0), CPU, batch_size=5, workers=0)
    assert early.loss == pytest.approx(float(of_class), rel=1e-4)


def test_class_balance_of_another_list_of_concepts(root: Path) -> None:
    split = open_split(name="train", file=root / "train.txt", root=root, concepts=CONCEPTS, size=32)
    found = objective.class_balance(split, CONCEPTS)
    expected = [sum(name in row.labels for row in split.rows) for name in CONCEPTS]
    assert found == {"class_counts": expected, "total": 15}
    from projects.babel import concepts

    assert objective.class_balance(split, concepts.CONCEPTS) == {}, "the released counts"
