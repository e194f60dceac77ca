"""Parameter groups, schedules and stages of freezing; the released numbers themselves are golden cases."""

import pytest
import torch

from projects.vseinfty import optim
from projects.vseinfty.model import VSEModel, build_model
from shared.errors import InputError

SMALL_BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def small_model(text_encoder: str = "bigru", image_encoder: str = "regions") -> VSEModel:
    return build_model(
        embed_size=8,
        image_dim=6,
        vocab_size=9,
        word_dim=4,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        bert_pretrained=False,
        bert_config={**SMALL_BERT, "vocab_size": 9},
    )


def grid_model(text_encoder: str = "bigru") -> VSEModel:
    with torch.device("meta"):
        return small_model(text_encoder, "grid")


def groups(model: VSEModel, **settings: object) -> dict[str, dict]:
    found = optim.build_optimizer(model, learning_rate=1e-3, fused=False, **settings)  # type: ignore[arg-type]
    return {group["name"]: group for group in found.param_groups}


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (small_model(), ["all"]),
        (small_model("bert"), ["text", "bert", "image"]),
        (grid_model(), ["text", "cnn_top", "cnn_base", "image"]),
        (grid_model("bert"), ["text", "bert", "cnn_top", "cnn_base", "image"]),
    ],
)
@pytest.mark.parametrize("gpo_lr_factor", [1.0, 3.0])
def test_groups_hold_each_parameter_once(model: VSEModel, names: list[str], gpo_lr_factor: float) -> None:
    found = groups(model, gpo_lr_factor=gpo_lr_factor)
    members = [id(p) for group in found.values() for p in group["params"]]
    everything = {id(p): name for name, p in model.named_parameters()}
    assert len(members) == len(set(members))
    left_out = {name for key, name in everything.items() if key not in members}
    assert left_out <= {"img_enc.backbone.resnet.fc.weight", "img_enc.backbone.resnet.fc.bias"}
    assert set(members) <= set(everything)
    if gpo_lr_factor == 1.0:
        assert list(found) == names
    for name, group in found.items():
        inside = ["gpool" in everything[id(p)] for p in group["params"]]
        if name.endswith("_pooling"):
            assert all(inside)
            assert group["lr"] == pytest.approx(3e-3)
        elif gpo_lr_factor != 1.0:
            assert not any(inside)


def test_rates_and_decay() -> None:
    found = groups(grid_model("bert"), backbone_lr_factor=0.1)
    assert {name: group["lr"] for name, group in found.items()} == pytest.approx(
        {"text": 1e-3, "bert": 1e-4, "cnn_top": 1e-4, "cnn_base": 1e-4, "image": 1e-3}
    )
    assert {group["weight_decay"] for group in found.values()} == {1e-4}
    assert groups(small_model())["all"]["weight_decay"] == 0.01  # quirk 6
    assert groups(small_model(), weight_decay=0.3)["all"]["weight_decay"] == 0.3
    sgd = optim.build_optimizer(small_model(), name="sgd", learning_rate=1e-3)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert sgd.param_groups[0]["weight_decay"] == 0
    assert not sgd.param_groups[0]["nesterov"]
    with pytest.raises(InputError, match="expected adam or sgd, found 'lion'"):
        optim.build_optimizer(small_model(), name="lion", learning_rate=1e-3)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_fused_steps_are_plain_steps(name: str) -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = small_model()
        optimizer = optim.build_optimizer(model, name=name, learning_rate=1e-2, fused=fused)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optim.set_learning_rates(optimizer, step, lr_update=2)
            optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    for fused_value, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused_value, plain)


def test_learning_rates_are_a_function_of_the_epoch() -> None:
    optimizer = optim.build_optimizer(small_model("bert"), learning_rate=1e-3)
    for epoch, factor in (
        (0, 1.0),
        (2.4, 1.0),
        (2.5, 0.1),
        (9, 0.1),
        (1, 1.0),
    ):  # also backwards: a resumed run
        optim.set_learning_rates(optimizer, epoch, lr_update=2.5)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([1e-3 * factor, 1e-4 * factor, 1e-3 * factor])


def test_loss_mode() -> None:
    assert [optim.uses_hardest(e, False, 1) for e in (0, 0.9, 1, 2)] == [False, False, True, True]
    assert [optim.uses_hardest(e, False, 0.6) for e in (0.5, 0.6)] == [False, True]
    assert optim.uses_hardest(0, True, 5)


def test_stages_unfreeze_from_the_top() -> None:
    model = grid_model()
    seen = []
    for epoch in range(9):
        optim.freeze_stages(model, epoch, embedding_warmup_epochs=2, backbone_warmup_epochs=2)
        stages = model.img_enc.backbone.stages()  # type: ignore[union-attr]
        seen.append([n for n, stage in stages.items() if all(p.requires_grad for p in stage.parameters())])
        assert all(p.requires_grad for p in model.img_enc.image_encoder.parameters())  # type: ignore[union-attr]
    three, two = ["layer3", "layer4"], ["layer2", "layer3", "layer4"]
    everything = ["stem", "layer1", *two]
    assert seen == [[], [], ["layer4"], ["layer4"], three, three, two, two, everything]
    optim.freeze_stages(model, 0, embedding_warmup_epochs=0, backbone_warmup_epochs=0)
    assert all(p.requires_grad for p in model.parameters())
    regions = small_model()
    optim.freeze_stages(regions, 0, 5, 5)
    assert all(p.requires_grad for p in regions.parameters())


def test_loss_scale_grows_in_one_epoch_of_grid_models() -> None:
    settings = {"num_items": 10, "batch_size": 4, "embedding_warmup_epochs": 1}
    grid, regions = grid_model(), small_model()
    assert [optim.loss_scale(grid, 1, i, **settings) for i in range(3)] == [0, 1 / 3, 2 / 3]
    assert [optim.loss_scale(grid, epoch, 1, **settings) for epoch in (0, 2)] == [1, 1]
    assert optim.loss_scale(regions, 1, 0, **settings) == 1
