"""Bench cases of training: a whole step at the paper's sizes, and an item of the loader.

The released step is restated plainly: every text padded to 512 tokens, eager attention at all positions, the
loss anchor by anchor, Adam over every row of the word table.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from projects.xmrs import engine, images, optim, text_draws
from projects.xmrs.bench_model import (
    MEAN_TOKENS,
    QUICK_TEXT,
    SPREAD,
    WORDS_THAT_OCCUR,
    ReleasedText,
    recipes,
    released_loss,
)
from projects.xmrs.data import Batch
from projects.xmrs.losses import batch_hard_loss
from projects.xmrs.model import FoodSpaceNet
from projects.xmrs.word_table import compact
from shared.bench import Case, Sides, Target
from shared.data import item_generator
from shared.runtime import Runtime

QUICK_MODEL: dict[str, Any] = {"image": {"backbone": "resnet18", "width": 8}, "text": QUICK_TEXT}
LEARNING_RATE = 1e-4


def training_batch(quick: bool, *, padded: bool) -> Batch:
    """20 pairs; texts padded to the longest allowed, as released, or to the batch's longest."""
    batch, side = (6, 32) if quick else (20, 224)
    tokens, lengths = recipes(quick, batch)
    torch.manual_seed(2)
    pixels = torch.randn(batch, 3, side, side)
    indices = torch.arange(batch)
    tokens = tokens if padded else tokens[:, : int(lengths.max())]
    return Batch(pixels, tokens, lengths, torch.zeros_like(indices), indices)


def training(quick: bool) -> Sides:
    """Forward, loss, backward and Adam step of a batch of 20, dropout 0.1.

    A side returns its loss without dropout before the first step: by that the sides are compared.
    """
    torch.manual_seed(0)
    start = FoodSpaceNet(**(QUICK_MODEL if quick else {})).train()
    sides: Sides = {"released": released_side(start, training_batch(quick, padded=True))}
    for precision in ("fp32", "bf16"):
        sides[f"ours {precision}"] = our_side(start, training_batch(quick, padded=False), precision)
    return sides


def released_side(start: FoodSpaceNet, batch: Batch) -> Callable[[], float]:
    """The model with BertModel in its place, plain Adam."""
    model = copy.deepcopy(start)
    model.textMLP = ReleasedText(start.textMLP, start.text_settings)  # type: ignore[arg-type, assignment]
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, foreach=False, fused=False)

    def loss() -> Tensor:
        return released_loss(model.encode_images(batch.images), model.encode_recipes(batch.tokens))

    before = without_dropout(model, loss)

    def step() -> float:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        return before

    return step


def our_side(start: FoodSpaceNet, batch: Batch, precision: str) -> Callable[[], float]:
    """The step of train.py."""
    model, runtime = copy.deepcopy(start), Runtime(torch.device("cpu"), precision)
    compact(model, occurring(batch.tokens, int(start.text_settings["vocab_size"])))
    optimizer = optim.build_optimizer(model, learning_rate=LEARNING_RATE)

    def loss() -> Tensor:
        with runtime.autocast():
            images, texts = (
                model.encode_images(batch.images),
                model.encode_recipes(batch.tokens, batch.lengths),
            )
        return batch_hard_loss(images.float(), texts.float())[0]

    before = without_dropout(model, loss)

    def step() -> float:
        engine.train_step(model, optimizer, batch, runtime=runtime)
        return before

    return step


def occurring(tokens: Tensor, vocab_size: int) -> np.ndarray:
    """As many tokens as are taken to occur in the set, the batch's among them."""
    others = np.random.default_rng(0).permutation(np.arange(1000, vocab_size))
    return np.union1d(torch.unique(tokens).numpy(), others[: min(WORDS_THAT_OCCUR, vocab_size // 4)])


def without_dropout(model: FoodSpaceNet, loss: Callable[[], Tensor]) -> float:
    """The loss as it is before any step; batch norm as in training, and only the text branch has dropout."""
    model.textMLP.eval()
    with torch.no_grad():
        value = loss().item()
    model.textMLP.train()
    return value


def check_training(outputs: Mapping[str, Any]) -> str:
    """The losses without dropout of the weights that all sides start from."""
    expected = outputs["released"]
    # random texts differ so little before any training that batch norm enlarges the rounding of bf16
    for side, tolerance in (("ours fp32", 1e-4), ("ours bf16", 0.1)):
        off = abs(outputs[side] / expected - 1)
        assert off < tolerance, f"{side}: loss {outputs[side]:.5f} is not {expected:.5f}"
    return ", ".join(f"{side}: loss {value:.5f}" for side, value in outputs.items())


def write_photo(folder: Path, height: int, width: int) -> Path:
    """A JPEG with some detail."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    pixels = coarse.astype(np.int64) + rng.integers(-12, 13, coarse.shape)
    path = folder / "photo.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def released_text(row: list[int], parts: list[int]) -> Tensor:
    """Token by token from lists of 512, as the released loader picks the parts and pads."""
    kept = [101] + [token for token, part in zip(row, parts, strict=True) if part in (1, 2, 3)]
    return torch.tensor((kept + [0] * 512)[:512])


def loader_item(is_training: bool, quick: bool) -> Sides:
    """One pair from its JPEG of 640 x 480 and its stored text; the store itself is left out on both sides."""
    scratch = tempfile.TemporaryDirectory()
    path = write_photo(Path(scratch.name), *((96, 128) if quick else (480, 640)))
    rng = np.random.default_rng(1)
    lengths = np.array([6, 90, MEAN_TOKENS - 97])
    row = np.concatenate([[101], rng.integers(1000, 100_000, lengths.sum())]).astype(np.int32)
    padding = [0] * (512 - len(row))
    parts = [-1, *np.repeat([1, 2, 3], lengths).tolist(), *padding]
    plain_row = [*row.tolist(), *padding]
    normalize = T.Normalize(images.IMAGENET_MEANS, images.IMAGENET_DEVIATIONS)
    augment = [T.RandomRotation(10), T.RandomCrop(224), T.RandomHorizontalFlip()]
    transform = T.Compose([*(augment if is_training else [T.CenterCrop(224)]), T.ToTensor(), normalize])
    every, nothing = ("title", "ingr", "inst"), text_draws.TextAugmentation()

    def released() -> tuple[Tensor, Tensor]:
        photo = images.pad_to_square(Image.open(path).convert("RGB"), "reflect")
        photo = photo.resize((256, 256), Image.Resampling.BILINEAR)
        return transform(photo), released_text(plain_row, parts)

    def ours(_kept: object = scratch) -> tuple[Tensor, Tensor]:
        photo, _ = images.read_photo(path)
        if not is_training:
            ids = text_draws.evaluation_ids(row, lengths, every)
            return images.evaluation_image(photo), torch.from_numpy(ids)
        draws = item_generator(0, 0, 0)
        pixels = images.training_image(photo, draws)
        return pixels, torch.from_numpy(text_draws.training_ids(row, lengths, every, draws, nothing))

    return {"released": released, "ours": ours}


def check_item(outputs: Mapping[str, Any]) -> str:
    """Draws differ, so: shapes, range, and the tokens."""
    (plain, plain_ids), (own, own_ids) = outputs["released"], outputs["ours"]
    assert plain.shape == own.shape == (3, 224, 224), f"{list(own.shape)} is not {list(plain.shape)}"
    ids = own_ids[own_ids != 102].tolist()
    assert plain_ids[: len(ids)].tolist() == ids, "other tokens"
    return f"pixels of {list(own.shape)}, the same {len(ids)} tokens"


CASES = [
    Case(
        "train_step",
        f"training step of FoodSpaceNet: 20 pairs, 224 x 224 pixels, texts of {MEAN_TOKENS} +- {SPREAD} tokens",
        training,
        check_training,
        (
            Target("ours fp32", "released", 2.0),
            Target("ours bf16", "released"),
            Target("ours bf16", "ours fp32"),
        ),
    ),
    Case(
        "loader_train",
        "one training pair from its photo of 640 x 480",
        partial(loader_item, True),
        check_item,
        (Target("ours", "released"),),
    ),
    Case(
        "loader_eval",
        "one pair at evaluation",
        partial(loader_item, False),
        check_item,
        (Target("ours", "released"),),
    ),
]
