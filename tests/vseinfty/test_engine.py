"""One optimizer step, encoding and validation against their plain definitions; errors stop in time."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from projects.vseinfty import engine, metrics
from projects.vseinfty.data import Batch, DataSet, Split
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.optim import build_optimizer
from shared.data import BatchPlan, TrainSampler
from shared.errors import InputError
from shared.runtime import Runtime
from tests.vseinfty.training_runs import make_set

CPU = Runtime(torch.device("cpu"))
TINY_BERT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def tiny_model(text_encoder: str = "bigru", **changes: Any) -> VSEModel:
    torch.manual_seed(0)
    return build_model(
        embed_size=12,
        image_dim=8,
        text_encoder=text_encoder,
        vocab_size=50,
        word_dim=6,
        bert_pretrained=False,
        bert_config=TINY_BERT,
        gpo={"positional_dim": 8, "hidden_dim": 8},
        **changes,
    )


def make_batch(size: int = 7, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    image_lengths = torch.randint(2, 7, (size,), generator=rng)
    caption_lengths = torch.randint(1, 6, (size,), generator=rng)
    images = torch.randn(size, int(image_lengths.max()), 8, generator=rng)
    captions = torch.randint(1, 50, (size, int(caption_lengths.max())), generator=rng)
    images[torch.arange(images.shape[1]) >= image_lengths[:, None]] = 0
    captions[torch.arange(captions.shape[1]) >= caption_lengths[:, None]] = 0
    index = torch.arange(size)
    return Batch(images, image_lengths, captions, caption_lengths, None, index, index)


def optimizer_of(model: VSEModel, learning_rate: float = 1e-2) -> torch.optim.Optimizer:
    return build_optimizer(model, learning_rate=learning_rate)


def step(
    model: VSEModel, optimizer: torch.optim.Optimizer, batch: Batch, **changes: Any
) -> engine.StepResult:
    options: dict[str, Any] = {"runtime": CPU, "margin": 0.2, "hardest": True} | changes
    return engine.train_step(model, optimizer, batch, **options)


def assert_equal_states(actual: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    for (name, a), b in zip(actual.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("grad_clip", [0.05, 0.0])
def test_step_is_forward_loss_backward_clip_adamw(hardest: bool, grad_clip: float) -> None:
    model, batch = tiny_model(), make_batch()
    plain = copy.deepcopy(model)
    scale = 0.5

    images = plain.encode_images(batch.images, batch.image_lengths)
    captions = plain.encode_captions(batch.captions, batch.caption_lengths)
    loss = triplet_loss(images, captions, margin=0.3, hardest=hardest)
    (loss * scale).backward()
    norm = math.sqrt(
        sum(float(p.grad.double().square().sum()) for p in plain.parameters() if p.grad is not None)
    )
    for p in plain.parameters():
        if p.grad is not None and grad_clip > 0:
            p.grad.mul_(min(1.0, grad_clip / (norm + 1e-6)))
    optimizer_of(plain).step()

    result = step(
        model, optimizer_of(model), batch, margin=0.3, hardest=hardest, loss_scale=scale, grad_clip=grad_clip
    )
    assert result.loss == pytest.approx(loss.item(), rel=1e-6)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert result.gradient_norm > 0.05, "the clip must bite, or this tests nothing"
    # Adam divides by the gradient's size: where that is rounding noise alone, the direction is, too (quirk 3)
    noisy = "img_enc.mlp.layers.0.bias"
    for name, value in plain.state_dict().items():
        if name != noisy:
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("text_encoder", ["bigru", "bert"])
@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_micro_batch_equals_the_plain_steps(text_encoder: str, micro_batch: int) -> None:
    """Exact where chunks cannot matter: batch norm by its running statistics, no dropout."""
    models = [tiny_model(text_encoder) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    for model in models:
        model.img_enc.mlp.bns.eval()
        model.txt_enc.eval()
    for seed in range(3):  # several steps: nothing may be kept from before an update
        results = [
            step(model, optimizer, make_batch(seed=seed), micro_batch=size)
            for model, optimizer, size in zip(models, optimizers, (None, micro_batch), strict=True)
        ]
        assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    assert_equal_states(models[1], models[0], rtol=1e-4, atol=1e-6)


def test_micro_batch_replays_dropout() -> None:
    """With dropout: equal to all chunks' graphs kept, from the same random state."""
    model, batch = tiny_model("bert"), make_batch()
    model.img_enc.eval()
    model.txt_enc.train()
    plain = copy.deepcopy(model)
    slices = engine.chunk_slices(7, 3)

    torch.manual_seed(5)
    images = torch.cat([plain.encode_images(batch.images[s], batch.image_lengths[s]) for s in slices])
    captions = torch.cat([plain.encode_captions(batch.captions[s], batch.caption_lengths[s]) for s in slices])
    triplet_loss(images, captions, margin=0.2, hardest=False).backward()

    torch.manual_seed(5)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    step(model, sgd, batch, hardest=False, grad_clip=0.0, micro_batch=3)
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batch_moves_running_statistics_once() -> None:
    """By the mean of the chunks' statistics, padding rows included (quirk 2)."""
    model, batch = tiny_model(), make_batch()
    layer, norm = model.img_enc.mlp.layers[0], model.img_enc.mlp.bns[0]
    parts = [layer(batch.images[s]).flatten(0, 1) for s in engine.chunk_slices(7, 3)]
    mean = torch.stack([part.mean(0) for part in parts]).mean(0)
    variance = torch.stack([part.var(0) for part in parts]).mean(0)
    step(model, optimizer_of(model), batch, micro_batch=3)
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_steps_train_in_half_precision(precision: str) -> None:
    runtime = Runtime(torch.device("cpu"), precision)
    model, batch = tiny_model(), make_batch()
    reference = step(copy.deepcopy(model), optimizer_of(model), batch).loss
    optimizer, scaler = optimizer_of(model), runtime.grad_scaler()
    assert scaler.is_enabled() == (precision == "fp16")
    losses = [step(model, optimizer, batch, runtime=runtime, scaler=scaler).loss for _ in range(30)]
    assert losses[0] == pytest.approx(reference, rel=0.05)
    assert losses[0] != reference, "computed in float32"
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_features_that_are_not_finite_stop_before_the_optimizer(micro_batch: int | None) -> None:
    model, batch = tiny_model(), make_batch()
    optimizer = optimizer_of(model)
    step(model, optimizer, batch)
    weights = [p.clone() for p in model.parameters()]
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    batch.images[4, 0, 2] = math.nan
    with pytest.raises(InputError, match=r"^epoch 3, step 7: .*training images \[4\] hold NaN"):
        step(model, optimizer, batch, micro_batch=micro_batch, where="epoch 3, step 7")
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[key][name]) for name, value in state.items())


def test_gradient_that_is_not_finite_stops_before_the_optimizer() -> None:
    model, batch = tiny_model(), make_batch()
    weights = [p.clone() for p in model.parameters()]
    model.txt_enc.embed.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(InputError, match=r"norm of the gradient is (inf|nan).*learning_rate"):
        step(model, optimizer_of(model), batch)
    assert all(torch.equal(p, before) for p, before in zip(model.parameters(), weights, strict=True))


def test_loss_that_is_not_finite_from_finite_features_names_the_loss() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.txt_enc.rnn.weight_hh_l0.fill_(math.inf)
    with pytest.raises(InputError, match="the loss is nan, of a finite batch"):
        step(model, optimizer_of(model), make_batch())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    root = make_set(tmp_path_factory.mktemp("set") / "tiny", train=8, dev=9)
    return DataSet(name="tiny", root=str(root), vocab_path=str(root / "vocab/mini_precomp_vocab.json"))


SETTINGS = {"text_encoder": "bigru", "bert": "", "backbone": "detector", "image_dim": 64}


@pytest.fixture
def splits(dataset: DataSet) -> tuple[Split, Split, int]:
    return engine.open_data(dataset, SETTINGS, seed=0)


@pytest.fixture
def model(splits: tuple[Split, Split, int]) -> VSEModel:
    torch.manual_seed(0)
    return build_model(embed_size=12, image_dim=64, vocab_size=splits[2], word_dim=6)


@pytest.mark.parametrize("batch_size", [4, 9, 100])
def test_encoding_a_split_equals_one_item_at_a_time(
    batch_size: int, splits: tuple[Split, Split, int], model: VSEModel
) -> None:
    dev = splits[1]
    model.train()
    images = engine.encode_images(model, dev, CPU, batch_size=batch_size)
    captions = engine.encode_captions(model, dev, CPU, batch_size=batch_size)
    assert model.training, "the mode must be put back"
    assert (images.shape, captions.shape) == ((9, 12), (45, 12))
    assert images.dtype == captions.dtype == np.float32
    model.eval()
    with torch.no_grad():
        for i in range(9):
            one = dev.fetch_images(BatchPlan(0, 0, np.array([i])))
            np.testing.assert_allclose(
                images[i], model.encode_images(one.images, one.image_lengths)[0], atol=1e-6
            )
        for j in range(45):
            single = dev.fetch_captions(BatchPlan(0, 0, np.array([j])))
            alone = model.encode_captions(single.captions, single.caption_lengths)[0]
            np.testing.assert_allclose(captions[j], alone, atol=1e-6)


def test_validation_is_retrieval_of_the_encoded_split(
    splits: tuple[Split, Split, int], model: VSEModel
) -> None:
    dev = splits[1]
    expected = metrics.retrieval(
        engine.encode_images(model, dev, CPU), engine.encode_captions(model, dev, CPU)
    )
    before = torch.get_rng_state()
    assert engine.validate(model, dev, CPU, batch_size=5) == expected
    assert torch.equal(torch.get_rng_state(), before), "validation must not move the training's generator"


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_the_plans(workers: int, splits: tuple[Split, Split, int]) -> None:
    train = splits[0]
    sampler = TrainSampler(len(train), 8, seed=3)
    before = torch.get_rng_state()
    found = list(engine.batches(train, sampler.plans(1, first_step=2), CPU, workers=workers))
    assert torch.equal(torch.get_rng_state(), before), "loading must not move the training's generator"
    assert len(found) == sampler.steps_per_epoch - 2
    for (batch, clock), plan in zip(found, sampler.plans(1, first_step=2), strict=True):
        expected = train.fetch_train(plan)
        assert torch.equal(batch.caption_indices, torch.from_numpy(plan.indices))
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.captions, expected.captions)
        assert clock.batch_time >= clock.data_time > 0


def test_progress_counts_and_keeps_the_first_best() -> None:
    at = engine.Progress()
    for _ in range(3):
        at.advance()
    assert (at.step, at.position(10)) == (3, 3)
    assert at.end_epoch({"rsum": 50.0, "r1": 1.0})
    assert not at.end_epoch({"rsum": 50.0, "r1": 9.0})
    assert at.best == {"rsum": 50.0, "r1": 1.0, "epoch": 0}
    assert at.end_epoch({"rsum": 51.0})
    assert (at.epoch, at.step_in_epoch, at.position(10), at.best["epoch"]) == (3, 0, 30, 2)


def test_an_untrained_run_has_a_best_epoch_even_at_zero() -> None:
    assert engine.Progress().end_epoch({"rsum": 0.0})


def test_compiled_encoders_keep_their_names(tmp_path: Path) -> None:
    model = tiny_model()
    names = list(model.state_dict())
    engine.prepare(model, CPU, seed=0, sync_batchnorm=False, compiled=True)
    assert list(model.state_dict()) == names
    assert model.training
