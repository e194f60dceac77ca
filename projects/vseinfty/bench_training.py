"""Bench cases of training: pooling, loss, a whole step, batches from disk, captions."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from projects.vseinfty import bench_released as released
from projects.vseinfty import captions as text
from projects.vseinfty import data, engine, optim
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.pooling import GPO
from projects.vseinfty.vocabulary import SPECIAL_WORDS, Vocabulary
from shared.bench import Sides
from shared.data import BatchPlan
from shared.files import save_npy
from shared.runtime import Runtime

WORDS = 1000  # of the made-up captions


def small_or_paper_model(quick: bool) -> VSEModel:
    """Region + BiGRU model."""
    torch.manual_seed(0)
    if quick:
        return build_model(embed_size=32, image_dim=16, word_dim=8, vocab_size=WORDS)
    return build_model(vocab_size=8500)


def gpo(quick: bool) -> Sides:
    """GPO forward and backward, 128 sets of 18 to 36 regions, 1024 dimensions."""
    torch.manual_seed(0)
    batch, size, dim = (4, 12, 16) if quick else (128, 36, 1024)
    ours, naive = GPO(), GPO()
    naive.load_state_dict(ours.state_dict())
    lengths = torch.randint(size // 2, size + 1, (batch,))
    lengths[0] = size
    features, upstream = torch.randn(batch, size, dim), torch.randn(batch, dim)
    features *= (torch.arange(size) < lengths[:, None])[..., None]

    def run(pool: Callable[[Tensor], Tensor], module: nn.Module) -> list[Tensor]:
        leaf = features.clone().requires_grad_()
        module.zero_grad()
        pooled = pool(leaf)
        (pooled * upstream).sum().backward()
        gradients = [leaf.grad, *(parameter.grad for parameter in module.parameters())]
        return [pooled.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]

    return {
        "released": lambda: run(lambda leaf: released.gpo(naive, leaf, lengths), naive),
        "ours": lambda: run(lambda leaf: ours(leaf, lengths)[0], ours),
    }


def check_gpo(outputs: Mapping[str, Any]) -> str:
    """Pooled values and the gradients of features and parameters."""
    worst = 0.0
    for found, expected in zip(outputs["ours"], outputs["released"], strict=True):
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    assert worst < 1e-4, f"values or gradients differ by {worst:.1e} of their maximum"
    return f"pooled values and all gradients agree to {worst:.0e} of their maximum"


def loss(quick: bool) -> Sides:
    """Triplet loss with the hardest negatives, forward and backward, batch 128."""
    torch.manual_seed(0)
    batch, dim = (8, 16) if quick else (128, 1024)
    images, captions = (nn.functional.normalize(torch.randn(batch, dim), dim=1) for _ in range(2))

    def run(function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        leaves = images.clone().requires_grad_(), captions.clone().requires_grad_()
        value = function(*leaves)
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return {
        "released": lambda: run(lambda i, c: released.triplet_loss(i, c, 0.2)),
        "ours": lambda: run(lambda i, c: triplet_loss(i, c, margin=0.2, hardest=True)),
    }


def training_batch(quick: bool) -> data.Batch:
    """128 pairs: 36 regions less a fifth, captions of 8 to 20 tokens."""
    rng = np.random.default_rng(0)
    batch, size, dim, vocabulary = (8, 12, 16, WORDS) if quick else (128, 36, 2048, 8500)
    lengths = torch.from_numpy(rng.binomial(size, 0.8, batch).clip(1))
    regions = torch.from_numpy(rng.random((batch, int(lengths.max()), dim), dtype=np.float32))
    regions *= (torch.arange(regions.shape[1]) < lengths[:, None])[..., None]
    caption_lengths = torch.from_numpy(rng.integers(8, 21, batch))
    ids = torch.from_numpy(rng.integers(4, vocabulary, (batch, int(caption_lengths.max()))))
    ids *= torch.arange(ids.shape[1]) < caption_lengths[:, None]
    pairs = torch.arange(batch)
    return data.Batch(regions, lengths, ids, caption_lengths, None, pairs, pairs)


def training(quick: bool) -> Sides:
    """One step of region + BiGRU with the hardest negatives: forward, backward, clip, AdamW."""
    model, batch = small_or_paper_model(quick), training_batch(quick)
    assert batch.image_lengths is not None
    plain = copy.deepcopy(model)
    plain_optimizer = torch.optim.AdamW(
        plain.parameters(), lr=5e-4, weight_decay=0.01, foreach=False, fused=False
    )
    tensors = (batch.images, batch.image_lengths, batch.captions, batch.caption_lengths)
    sides: Sides = {
        "released": partial(released.train_step, plain, plain_optimizer, tensors, margin=0.2, clip=2.0),
    }
    for precision in ("fp32", "bf16"):
        own = copy.deepcopy(model)
        sides[f"ours {precision}"] = partial(
            our_step, own, optim.build_optimizer(own, learning_rate=5e-4), batch, precision
        )
    return sides


def our_step(model: VSEModel, optimizer: torch.optim.Optimizer, batch: data.Batch, precision: str) -> float:
    """The step of train.py; its loss."""
    runtime = Runtime(torch.device("cpu"), precision)
    result = engine.train_step(
        model, optimizer, copy.copy(batch), runtime=runtime, margin=0.2, hardest=True, grad_clip=2.0
    )
    return result.loss


def check_training(outputs: Mapping[str, Any]) -> str:
    """The loss of the first step (all sides start from the same weights)."""
    expected = outputs["released"]
    for side, tolerance in (("ours fp32", 1e-4), ("ours bf16", 3e-2)):
        off = abs(outputs[side] / expected - 1)
        assert off < tolerance, f"{side}: loss {outputs[side]:.5f} is not {expected:.5f}"
    return ", ".join(f"{side}: loss {value:.4f}" for side, value in outputs.items())


def write_regions(folder: Path, num_images: int, regions: int, dim: int) -> tuple[np.ndarray, list[str]]:
    """A set in the released layout; its features and captions."""
    rng = np.random.default_rng(0)
    features = rng.random((num_images, regions, dim), dtype=np.float32)
    lines = [
        " ".join(f"w{i}" for i in rng.integers(0, WORDS, rng.integers(7, 15))) for _ in range(5 * num_images)
    ]
    (folder / "precomp").mkdir()
    save_npy(folder / "precomp" / "train_ims.npy", features)
    (folder / "precomp" / "train_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return features, lines


def word_tokenizer() -> text.Tokenizer:
    """Tokeniser of the made-up words."""
    return text.BiGRUTokenizer(Vocabulary([*SPECIAL_WORDS, *(f"w{i}" for i in range(WORDS))]))


def fetching(quick: bool) -> Sides:
    """One training batch of 128 pairs from the region file: fetch, drop, pad (36 regions of 2048)."""
    scratch = tempfile.TemporaryDirectory()
    size, features_of = (16, (20, 12, 16)) if quick else (128, (256, 36, 2048))
    features, lines = write_regions(Path(scratch.name), *features_of)
    tokenizer = word_tokenizer()
    split = data.open_split(root=scratch.name, name="bench", split="train", tokenizer=tokenizer)
    indices = np.random.default_rng(1).permutation(len(lines))[:size]
    rng = np.random.default_rng(2)

    def ours(_kept: object = scratch) -> tuple[Tensor, ...]:
        batch = split.fetch_train(BatchPlan(epoch=0, step=0, indices=indices))
        assert batch.image_lengths is not None
        return batch.images, batch.image_lengths, batch.captions, batch.caption_lengths

    return {
        "released": partial(released.fetch_and_collate, features, lines, tokenizer, indices, rng),
        "ours": ours,
    }


def check_fetching(outputs: Mapping[str, Any]) -> str:
    """Draws differ, so: number of pairs, and the share of regions and words kept."""
    remarks = []
    for side, (regions, lengths, ids, caption_lengths) in outputs.items():
        assert len(regions) == len(lengths) == len(ids) == len(caption_lengths), "numbers of rows differ"
        rows = (regions.abs().sum(-1) > 0).sum(1)
        assert torch.equal(rows, lengths.long()), f"{side}: lengths do not say which rows are padding"
        remarks.append(
            f"{side}: {lengths.float().mean():.1f} regions, {caption_lengths.float().mean():.1f} tokens kept"
        )
    return "; ".join(remarks)


def tokenising(quick: bool) -> Sides:
    """Token ids of 128 captions of a split, as every epoch needs them."""
    rng = np.random.default_rng(0)
    tokenizer = word_tokenizer()
    lines = [" ".join(f"w{i}" for i in rng.integers(0, WORDS, rng.integers(7, 15))) for _ in range(1280)]
    table = text.TokenTable.build(tokenizer, lines)
    chosen = rng.permutation(len(lines))[: 16 if quick else 128]

    def plain() -> list[list[int]]:
        return [tokenizer.encode(lines[row]) for row in chosen]

    def ours() -> list[list[int]]:
        ids, lengths = table.padded(chosen)
        return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]

    return {"released: tokenise at each fetch": plain, "ours: cut from a table": ours}


def check_equal(outputs: Mapping[str, Any]) -> str:
    """All sides are equal."""
    first, *others = outputs.values()
    assert all(other == first for other in others), "results differ"
    return f"all {len(first)} are equal"
