"""Training the rows that occur equals training the whole word table."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from projects.xmrs import optim, word_table
from projects.xmrs.losses import batch_hard_loss
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.word_table import WordTable, compact
from shared import checkpoint
from shared.errors import InputError
from shared.runtime import Runtime
from tests.xmrs.tiny_models import VOCAB, photos, texts, tiny_model

OCCURRING = np.array([107, 140, 141, 150, 199, 200, 201, 202, 280, 299])
RUNTIME = Runtime(torch.device("cpu"), "fp32")


def corpus_texts(lengths: list[int], seed: int) -> Tensor:
    """Texts of the words that occur."""
    ids = texts(lengths, seed=seed, high=104 + len(OCCURRING))
    words = torch.from_numpy(OCCURRING)
    return torch.where(ids >= 104, words[(ids - 104).clamp(min=0)], ids)


def train(model: FoodSpaceNet, steps: range, optimizer: torch.optim.Optimizer) -> None:
    """Steps of which every third has rate 0 for the words: their moments run all the same."""
    model.train()
    for step in steps:
        optim.set_learning_rates(optimizer, [1e-2, 1e-2, 0.0 if step % 3 == 0 else 1e-2, 1e-2])
        optimizer.zero_grad()
        images = model.encode_images(photos(4, seed=step))
        recipes = model.encode_recipes(corpus_texts([5, 9, 3, 12], seed=step))
        batch_hard_loss(images, recipes)[0].backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["transformer", "average"])
def test_training_is_that_of_the_whole_table(kind: str) -> None:
    whole, ours = tiny_model(kind=kind, dropout=0.0), tiny_model(kind=kind, dropout=0.0)
    start = whole.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    table = compact(ours, OCCURRING)
    assert word_table.word_table_of(ours) is table
    assert word_table.word_table_of(whole) is None
    assert len(table.weight) == len(OCCURRING) + 5  # the special tokens
    for model in (whole, ours):
        train(model, range(6), optim.build_optimizer(model, learning_rate=1e-2))
    found = ours.state_dict()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(
            found[name], value, atol=2e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    words = next(name for name in start if name.endswith("word_embeddings.weight"))
    moved = (found[words] != start[words]).any(dim=1).nonzero().squeeze(1)
    assert set(moved.tolist()) == {101, *OCCURRING.tolist()}


def test_state_dicts_speak_of_the_whole_table() -> None:
    whole = tiny_model()
    other = tiny_model(seed=5)
    ours = copy.deepcopy(whole)
    compact(ours, OCCURRING)
    assert list(ours.state_dict()) == list(whole.state_dict())
    checkpoint.load_strictly(ours, other.state_dict(), source="other")
    for name, value in other.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    tokens = corpus_texts([4, 8], 0)
    torch.testing.assert_close(ours.encode_recipes(tokens), other.encode_recipes(tokens))
    before = ours.state_dict()["textMLP.mBERT.embeddings.word_embeddings.weight"]
    with torch.no_grad():
        ours.textMLP.mBERT.embeddings.word_embeddings.weight.add_(1.0)  # type: ignore[union-attr, operator]
    after = ours.state_dict()["textMLP.mBERT.embeddings.word_embeddings.weight"]
    assert (before - after).abs().max() == 1.0  # what was given out stays as it was
    short = {**other.state_dict(), "textMLP.mBERT.embeddings.word_embeddings.weight": torch.zeros(3, 16)}
    with pytest.raises(InputError, match=r"word_embeddings.weight: expected \[300, 16\], found \[3, 16\]"):
        checkpoint.load_strictly(ours, short, source="short")


def test_a_killed_run_resumes_to_equal_numbers(tmp_path: Path) -> None:
    def start() -> tuple[FoodSpaceNet, torch.optim.Optimizer]:
        model = tiny_model(dropout=0.0)
        compact(model, OCCURRING)
        return model, optim.build_optimizer(model, learning_rate=1e-2)

    model, optimizer = start()
    train(model, range(3), optimizer)
    parts = {"model": model, "optimizer": optimizer}
    checkpoint.save(tmp_path, runtime=RUNTIME, modules=parts, progress={}, config={})
    train(model, range(3, 5), optimizer)
    again, its_optimizer = start()
    checkpoint.resume(tmp_path, runtime=RUNTIME, modules={"model": again, "optimizer": its_optimizer})
    train(again, range(3, 5), its_optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_moments_of_other_rows_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    compact(model, OCCURRING)
    optimizer = optim.build_optimizer(model, learning_rate=1e-2)
    train(model, range(1), optimizer)
    parts = {"model": model, "optimizer": optimizer}
    checkpoint.save(tmp_path, runtime=RUNTIME, modules=parts, progress={}, config={})
    other = tiny_model()
    compact(other, np.append(OCCURRING[1:], 108))  # as many rows, but others
    parts = {"model": other, "optimizer": optim.build_optimizer(other, learning_rate=1e-2)}
    with pytest.raises(InputError, match=r"optimizer does not fit: saved with another set of tokens"):
        checkpoint.resume(tmp_path, runtime=RUNTIME, modules=parts)


def test_what_cannot_be_compact() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="tokens between 0 and 300 for a table of 300 rows"):
        compact(model, np.array([5, VOCAB]))
    compact(model, OCCURRING)
    with pytest.raises(ValueError, match="compact already"):
        compact(model, OCCURRING)
    with pytest.raises(
        InputError, match=r"optim.weight_decay: expected 0 with a compact word table, found 0.1"
    ):
        optim.build_optimizer(model, learning_rate=1e-2, weight_decay=0.1)
    average = tiny_model(kind="average")
    compact(average, OCCURRING)
    for one in (model, average):
        with pytest.raises(
            InputError, match=r"token id 120 occurs in a text, but is not in the list of tokens"
        ):
            one.encode_recipes(torch.tensor([[101, 140, 120]]))


def test_padding_has_no_gradient_and_a_frozen_table_stays_frozen() -> None:
    model = tiny_model()
    embeddings = model.textMLP.mBERT.embeddings  # type: ignore[union-attr]
    embeddings.word_embeddings.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    assert not compact(model, OCCURRING).weight.requires_grad
    table = WordTable(torch.nn.Embedding(VOCAB, 4, padding_idx=0), OCCURRING)
    table(torch.tensor([0, 101, 107])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[0].abs().max() == 0
    assert table.rows(torch.tensor([0, 101, 107])).tolist() == [0, 2, 5]
