"""Groups, rates over the epochs, Adam."""

import random
from typing import Any

import pytest
import torch

from projects.xmrs import optim
from projects.xmrs.losses import batch_hard_loss
from tests.xmrs.tiny_models import photos, texts, tiny_model


def test_groups_of_both_text_branches() -> None:
    transformer = optim.parameter_groups(tiny_model())
    assert list(transformer) == ["heads", "vision", "wordEmb", "text"]
    words = "textMLP.mBERT.embeddings."
    assert transformer["wordEmb"] == [
        f"{words}{name}"
        for name in (
            "word_embeddings.weight",
            "position_embeddings.weight",
            "token_type_embeddings.weight",
            "LayerNorm.weight",
            "LayerNorm.bias",
        )
    ]
    assert transformer["text"][0] == "textMLP.mBERT.encoder.layer.0.attention.self.query.weight"
    assert transformer["text"][-1] == "textMLP.mBERT.pooler.dense.bias"
    assert "align.0.weight" in transformer["heads"]
    average = optim.parameter_groups(tiny_model(kind="average"))
    assert average["wordEmb"] == ["textMLP.word_embeddings.weight"]
    assert average["text"] == [f"textMLP.atten_layer.{name}" for name in ("u", "fc.weight", "fc.bias")]
    for groups, model in ((transformer, tiny_model()), (average, tiny_model(kind="average"))):
        named = [name for names in groups.values() for name in names]
        assert sorted(named) == sorted(name for name, _ in model.named_parameters())


def released_rates(epochs: int, flags: dict[str, Any]) -> list[list[float]]:
    """The released procedure step by step: flags and rate change after an epoch."""
    flags, rates = dict(flags), []
    rate = flags["learning_rate"]
    current = None
    for epoch in range(1, epochs + 1):
        if current is None:
            words = flags["free_word_embeddings"] and flags["train_word_embeddings"]
            current = [
                rate * flags["free_heads"],
                rate * flags["free_vision"],
                rate * words,
                rate * flags["free_text"],
            ]
        rates.append(current)
        if epoch in flags["warmup"] or epoch in flags["decay_lr"]:
            flags |= {"free_vision": True, "free_heads": True}
            flags["free_word_embeddings"] = flags["train_word_embeddings"]
            if epoch in flags["decay_lr"]:
                rate *= 0.1
            current = None
    return rates


def test_rates_are_those_of_the_released_procedure() -> None:
    rng = random.Random(0)
    for _ in range(200):
        flags: dict[str, Any] = {
            "learning_rate": rng.choice([1e-4, 3e-3]),
            "warmup": rng.sample(range(1, 12), rng.randint(0, 2)),
            "decay_lr": rng.sample(range(1, 12), rng.randint(0, 3)),
        }
        for name in ("vision", "heads", "word_embeddings", "text"):
            flags[f"free_{name}"] = rng.random() < 0.5
        flags["train_word_embeddings"] = rng.random() < 0.7
        found = [optim.learning_rates(epoch, **flags) for epoch in range(13)]
        expected = released_rates(13, flags)
        assert found == [pytest.approx(one, rel=1e-12) for one in expected], flags


def test_rates_reach_the_groups() -> None:
    model = tiny_model()
    optimizer = optim.build_optimizer(model, learning_rate=1.0, rates=[1.0, 2.0, 3.0, 4.0])
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == list(
        zip(optim.GROUPS, [1.0, 2.0, 3.0, 4.0], strict=True)
    )
    optim.set_learning_rates(optimizer, [0.5, 0.0, 0.25, 0.125])
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.0, 0.25, 0.125]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        optim.set_learning_rates(optimizer, [0.5])


def trained(stop: bool) -> dict[str, torch.Tensor]:
    model = tiny_model(dropout=0.0).train()
    rates = [[1e-2, 0.0, 0.0, 1e-2], [1e-2, 1e-2, 0.0, 1e-2]]
    optimizer = optim.build_optimizer(model, learning_rate=1e-2)
    if stop:
        assert optim.stop_useless_gradients(optimizer, rates) == ["wordEmb"]
    for epoch in rates:
        optim.set_learning_rates(optimizer, epoch)
        for seed in range(2):
            optimizer.zero_grad()
            images = model.encode_images(photos(4, seed=seed))
            batch_hard_loss(images, model.encode_recipes(texts([5, 9, 3, 12], seed=seed)))[0].backward()
            optimizer.step()
    return model.state_dict()


def test_a_group_at_rate_0_stays_and_needs_no_gradients() -> None:
    plain, stopped = trained(False), trained(True)
    start = tiny_model().state_dict()
    for name, value in plain.items():
        assert torch.equal(value, stopped[name]), name
        if optim.group_of(name) == "wordEmb":
            assert torch.equal(value, start[name])
    assert not torch.equal(plain["align.0.weight"], start["align.0.weight"])
    assert not torch.equal(plain["visionMLP.visionMLP.0.weight"], start["visionMLP.visionMLP.0.weight"])
    assert not torch.equal(
        plain["textMLP.mBERT.pooler.dense.weight"], start["textMLP.mBERT.pooler.dense.weight"]
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_torchs_plain_one(weight_decay: float) -> None:
    ours, plain = tiny_model(), tiny_model()
    fast = optim.build_optimizer(ours, learning_rate=1e-2, weight_decay=weight_decay)
    slow = torch.optim.Adam(
        plain.parameters(), lr=1e-2, weight_decay=weight_decay, foreach=False, fused=False
    )
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        fast.step()
        slow.step()
    for (name, value), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            value, other, atol=1e-7, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
