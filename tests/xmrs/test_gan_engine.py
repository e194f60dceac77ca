"""One step against the released one, what a step leaves alone, when it refuses, and the rules of an epoch."""

import copy

import numpy as np
import pytest
import torch

from projects.xmrs import bench_gan, gan_engine, gan_schedule, synthesis
from projects.xmrs.discriminator import Discriminator
from projects.xmrs.frozen_encoder import FrozenEncoder
from projects.xmrs.gan_engine import LossWeights, Networks, Progress
from projects.xmrs.generator import Generator
from projects.xmrs.image_encoder import FoodSpaceImageEncoder
from shared.errors import InputError
from tests.xmrs.gan_runs import CPU

Parts = tuple[Generator, Discriminator, FoodSpaceImageEncoder]
OPTIM = {"auto_drop": True, "auto_drop_times": 3, "auto_drop_after_epochs": 2}


@pytest.fixture
def parts() -> Parts:
    return bench_gan.networks(quick=True)


def built(parts: Parts, learning_rate: float = 1e-4) -> Networks:
    generator, discriminator, encoder = copy.deepcopy(parts)
    frozen = FrozenEncoder(encoder, 224)
    return gan_engine.build_networks(generator, discriminator, frozen, CPU, learning_rate=learning_rate)


def test_steps_equal_the_released_ones(parts: Parts) -> None:
    """Losses of three steps, then every weight: the gradients that we leave out change nothing."""
    batches = [bench_gan.random_batch(parts[0], 9, 4) for _ in range(3)]
    batches[1].classes[:] = torch.tensor([0, 3, 0, 8])
    plain, ours = bench_gan.Released(*copy.deepcopy(parts)), built(parts)
    for batch in batches:
        expected = plain.step(batch)
        found = gan_engine.train_step(ours, batch, weights=LossWeights(), runtime=CPU)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=2e-4), name
    for network, other in ((ours.generator, plain.generator), (ours.discriminator, plain.discriminator)):
        different = []
        for (name, one), two in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
            far = (one.double() - two.double()).abs()
            # Adam makes a step of the learning rate of gradients that are rounding noise
            if far.max() > 7e-4 or far.mean() > 2e-5:
                different.append((name, float(far.max()), float(far.mean())))
        assert not different


def test_the_generators_step_leaves_the_discriminator_alone(parts: Parts) -> None:
    ours, batch = built(parts), bench_gan.random_batch(parts[0], 9, 4)
    ours.of_discriminator.step = lambda *_: None  # type: ignore[method-assign, assignment]
    before = {name: value.clone() for name, value in ours.discriminator.named_parameters()}
    gan_engine.train_step(ours, batch, weights=LossWeights(), runtime=CPU)
    own = {name: p.grad.clone() for name, p in ours.discriminator.named_parameters() if p.grad is not None}
    again = built(parts)
    with torch.no_grad():
        fake, mu, _ = again.generator(batch.recipe_embeddings, batch.noise, batch.draws)
    counts = gan_engine.count(batch.classes)
    gan_engine.discriminator_loss(again.discriminator, batch, fake, mu, counts, CPU).backward()
    for name, parameter in again.discriminator.named_parameters():
        assert torch.equal(before[name], parameter), name
        if parameter.grad is not None:
            torch.testing.assert_close(own[name], parameter.grad, msg=name)
    assert all(parameter.requires_grad for parameter in ours.discriminator.parameters())
    assert all(parameter.grad is None for parameter in ours.encoder.parameters())


def test_terms_without_weight_are_not_computed(parts: Parts) -> None:
    ours, batch = built(parts), bench_gan.random_batch(parts[0], 9, 4)
    ours.encoder.forward = None  # type: ignore[method-assign, assignment]
    off = LossWeights(kl=2.0, image_cycle=0.0, recipe_cycle=0.0)
    found = gan_engine.train_step(ours, batch, weights=off, runtime=CPU)
    assert set(found) == {"discriminator", "generator", "adversarial", "semantic", "kl"}
    assert found["generator"] == pytest.approx(found["adversarial"] + found["semantic"] + 2 * found["kl"])
    ours = built(parts)
    only = LossWeights(kl=2.0, image_cycle=0.0, recipe_cycle=7.0)
    found = gan_engine.train_step(ours, batch, weights=only, runtime=CPU)
    terms = found["adversarial"] + found["semantic"] + 2 * found["kl"] + 7 * found["recipe_cycle"]
    assert "image_cycle" not in found
    assert found["generator"] == pytest.approx(terms)


@pytest.mark.parametrize("broken", ["images", "image_embeddings"])
def test_a_loss_that_is_not_finite_changes_nothing_of_whose_turn_it_was(parts: Parts, broken: str) -> None:
    ours, batch = built(parts), bench_gan.random_batch(parts[0], 9, 4)
    getattr(batch, broken)[1] = float("nan")
    network = ours.discriminator if broken == "images" else ours.generator
    name = "discriminator" if broken == "images" else "generator"
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(InputError, match=f"epoch 3, step 5, {name}: the loss is nan"):
        gan_engine.train_step(ours, batch, weights=LossWeights(), runtime=CPU, where="epoch 3, step 5")
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in ours.discriminator.parameters())


def test_training_learns(parts: Parts) -> None:
    """The cycle terms fall: gradients reach the generator through the frozen encoder."""
    ours, batch = built(parts, learning_rate=5e-3), bench_gan.random_batch(parts[0], 9, 8)
    losses = [gan_engine.train_step(ours, batch, weights=LossWeights(), runtime=CPU) for _ in range(25)]
    cycles = [one["image_cycle"] + one["recipe_cycle"] for one in losses]
    assert cycles[-1] < cycles[0] - 0.1


def metrics(medr: float, r1: float, r5: float, r10: float) -> dict[str, float]:
    return {"medr": medr, "r1": r1, "r5": r5, "r10": r10}


def test_the_best_epoch_is_the_released_rules() -> None:
    """R@1, else R@5, else R@10 above the best epoch's; its numbers become the record, lower ones included."""
    at = Progress()
    assert at.end_epoch(metrics(9, 0.0, 0.0, 0.1), 1e-4)
    assert not at.end_epoch(metrics(9, 0.0, 0.0, 0.1), 1e-4)
    assert not at.end_epoch(None, 1e-4)
    assert at.end_epoch(metrics(5, 0.2, 0.3, 0.0), 1e-4)
    assert at.end_epoch(metrics(6, 0.1, 0.4, 0.0), 1e-5)
    assert at.best == {**metrics(6, 0.1, 0.4, 0.0), "epoch": 5}
    assert at.trace[-1] == [5, 1e-5, 6, 0.1, 0.4, 0.0]
    assert [row[0] for row in at.trace] == [1, 2, 4, 5]


def test_learning_rates_of_both_rules() -> None:
    def rates(epoch: int, auto_drop: bool) -> tuple[float, float]:
        drops = {"drop_generator_epoch": 1, "drop_discriminator_epoch": 3}
        return gan_schedule.rates(epoch, 2, learning_rate=1.0, auto_drop=auto_drop, **drops)

    fixed = [rates(epoch, False) for epoch in range(5)]
    assert fixed == [(1.0, 1.0), (1.0, 1.0), (0.1, 1.0), (0.1, 1.0), (0.1, 0.1)]
    assert rates(4, True) == (0.25, 0.25)


def test_automatic_halvings_come_in_consecutive_epochs() -> None:
    at, drops = Progress(), []
    for epoch in range(8):
        at.end_epoch(metrics(1, 0.5 if epoch == 1 else 0.1, 0.0, 0.0), 1.0)
        at.drop_if_due(OPTIM)
        drops.append(at.drops)
    # the best epoch is the second; more than two epochs later the first halving, and nothing resets the wait
    assert drops == [0, 0, 0, 0, 1, 2, 3, 3]
    still = Progress()
    for _ in range(8):
        still.end_epoch(metrics(1, 0.1, 0.0, 0.0), 1.0)
        still.drop_if_due({**OPTIM, "auto_drop": False})
    assert still.drops == 0


def test_synthesis_does_not_depend_on_batches(parts: Parts) -> None:
    generator = parts[0].eval()
    recipes = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    whole = synthesis.synthesise(generator, recipes, seed=3, batch_size=7)
    parted = synthesis.synthesise(generator, recipes, seed=3, batch_size=2)
    torch.testing.assert_close(whole, parted)
    chosen = dict(
        zip(
            (5, 1),
            torch.cat([i for _, i in synthesis.batches(generator, recipes, rows=np.array([5, 1]), seed=3)]),
            strict=True,
        )
    )
    torch.testing.assert_close(chosen[5], whole[5])
    assert not torch.allclose(whole, synthesis.synthesise(generator, recipes, seed=4))
    noise, draws = synthesis.random_draws(generator, np.arange(3), zero_noise=True)
    assert not noise.any()
    assert draws.any(), "the condition is drawn at z = 0 as well"
    pictures = synthesis.pictures(generator, recipes[:2])
    assert pictures.shape == (2, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert synthesis.pictures(generator, recipes[:0]).shape == (0, 64, 64, 3)
    with pytest.raises(InputError, match=r"recipe embeddings \[N, 32\], found \[7, 31\]"):
        synthesis.synthesise(generator, recipes[:, :31])
