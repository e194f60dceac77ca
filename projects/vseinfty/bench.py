"""Cases of `scripts/bench.py vseinfty`: our fast paths beside the released way (bench_released.py).

Sizes are the paper's (E = 1024, 36 regions of 2048, batch 128); `quick` shrinks them to test the bench.
"""

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
from projects.vseinfty import cxc, data, engine, metrics, optim
from projects.vseinfty.losses import triplet_loss
from projects.vseinfty.model import VSEModel, build_model
from projects.vseinfty.pooling import GPO
from projects.vseinfty.vocabulary import SPECIAL_WORDS, Vocabulary
from shared.bench import Case, Sides, Target
from shared.data import BatchPlan
from shared.files import save_npy
from shared.runtime import Runtime

GIB = 1 << 30
WORDS = 1000


def embeddings(num_images: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [n, E] and [5n, E] that retrieve about as well as a trained model."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((num_images, dim), dtype=np.float32)
    captions = np.repeat(images, 5, axis=0)
    captions += 0.28 * dim**0.5 * rng.standard_normal(captions.shape, dtype=np.float32)
    for rows in (images, captions):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return images, captions


def ranking(quick: bool) -> Sides:
    """Both directions of one 5,000 x 25,000 set, product included."""
    images, captions = embeddings(*((100, 64) if quick else (5000, 1024)))
    left, right = torch.from_numpy(images), torch.from_numpy(captions)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        found = metrics.ranks(images, captions)
        return found.queries, found.items

    return {
        "released: float64, sorts": partial(released.ranks, images, captions),
        "ours": ours,
        "float32 product alone": lambda: (left @ right.T)[0, 0],
    }


def check_ranking(outputs: Mapping[str, Any]) -> str:
    """Every rank of both directions."""
    for found, expected in zip(outputs["ours"], outputs["released: float64, sorts"], strict=True):
        assert np.array_equal(found, expected), f"{(found != expected).sum()} of {len(found)} ranks differ"
    return f"all {sum(map(len, outputs['ours']))} ranks are equal"


def protocol(quick: bool) -> Sides:
    """COCO's two protocols from the embeddings: five 1K folds, then 5K."""
    images, captions = embeddings(*((100, 64) if quick else (5000, 1024)))

    def whole() -> list[float]:
        found = [*metrics.retrieval_folds(images, captions)["folds"], metrics.retrieval(images, captions)]
        return [one["rsum"] for one in found]

    def naive() -> list[float]:
        return [metrics.from_ranks(*pair)["rsum"] for pair in released.five_folds_and_whole(images, captions)]

    return {"ours": whole} if not quick else {"released": naive, "ours": whole}


def check_protocol(outputs: Mapping[str, Any]) -> str:
    """rsum of each fold and of the whole set."""
    found = outputs["ours"]
    expected = outputs.get("released", found)
    assert np.allclose(found, expected, rtol=1e-12), f"rsum {found} is not {expected}"
    return f"rsum of 5K {found[-1]:.1f}"


def intra(quick: bool) -> Sides:
    """CxC text -> text among 8,000 captions (a third of COCO's test captions)."""
    _, captions = embeddings(*((40, 32) if quick else (1600, 1024)))
    rng = np.random.default_rng(1)
    ids = [str(800_000 + 3 * row) for row in range(len(captions))]
    rated = {
        name: [
            (ids[other], float(score))
            for other, score in zip(rng.integers(0, len(ids), 3), rng.uniform(0, 5, 3), strict=True)
        ]
        for name in ids
    }
    at = {name: row for row, name in enumerate(ids)}

    def ours() -> np.ndarray:
        return cxc.best_ranks(captions, captions, cxc.text_positives(rated, ids, at), intra=True)

    return {
        "released: float64, sorts, list search": partial(
            released.intra_ranks, captions, ids, rated, search_lists=True
        ),
        "released without its list search": partial(
            released.intra_ranks, captions, ids, rated, search_lists=False
        ),
        "ours": ours,
    }


def check_intra(outputs: Mapping[str, Any]) -> str:
    """The rank of the best positive of each caption."""
    first, *others = outputs.values()
    for found in others:
        assert np.array_equal(found, first), f"{(found != first).sum()} of {len(first)} ranks differ"
    return f"all {len(first)} ranks are equal"


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


def small_or_paper_model(quick: bool) -> VSEModel:
    """Region + BiGRU model."""
    torch.manual_seed(0)
    if quick:
        return build_model(embed_size=32, image_dim=16, word_dim=8, vocab_size=WORDS)
    return build_model(vocab_size=8500)


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


def encoding(quick: bool) -> Sides:
    """Image embeddings of a test set of 200 images x 5 captions (region encoder)."""
    model = small_or_paper_model(quick).eval()
    rng = np.random.default_rng(0)
    regions = torch.from_numpy(rng.random((10, 12, 16) if quick else (200, 36, 2048), dtype=np.float32))
    lengths = torch.full((len(regions),), regions.shape[1])
    batch = 64

    @torch.no_grad()
    def each_caption() -> Tensor:
        rows = torch.arange(len(regions)).repeat_interleave(5).split(batch)
        return torch.cat([released.encode_regions(model.img_enc, regions[r], lengths[r]) for r in rows])[::5]

    @torch.inference_mode()
    def each_image() -> Tensor:
        return torch.cat(
            [
                model.encode_images(r, n)
                for r, n in zip(regions.split(batch), lengths.split(batch), strict=True)
            ]
        )

    return {"released: once per caption": each_caption, "ours: once per image": each_image}


def check_encoding(outputs: Mapping[str, Any]) -> str:
    """Embeddings of the unique images."""
    first, second = outputs.values()
    worst = float((first - second).abs().max())
    assert worst < 1e-5, f"embeddings differ by {worst:.1e}"
    return f"embeddings agree to {worst:.0e}"


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


CASES = [
    Case(
        "ranking",
        "ranks of 5,000 images x 25,000 captions in both directions, product included",
        ranking,
        check_ranking,
        (Target("ours", "released: float64, sorts", 5.0), Target("ours", "float32 product alone", 1 / 1.3)),
    ),
    Case(
        "memory",
        "COCO's 5 x 1K and 5K metrics from embeddings: resident memory of the whole process",
        protocol,
        check_protocol,
        memory_limit={"ours": GIB},
    ),
    Case(
        "cxc_intra",
        "CxC text -> text ranks among 8,000 captions",
        intra,
        check_intra,
        (
            Target("ours", "released: float64, sorts, list search", 10.0),
            Target("ours", "released without its list search", 10.0),
        ),
    ),
    Case(
        "gpo", "GPO forward + backward, 128 x 36 x 1024", gpo, check_gpo, (Target("ours", "released", 2.5),)
    ),
    Case("loss", "triplet loss forward + backward, 128 x 1024", loss, check_gpo),
    Case(
        "train_step",
        "training step of region + BiGRU, batch 128",
        training,
        check_training,
        (Target("ours fp32", "released", 1.3), Target("ours bf16", "ours fp32", 1.0)),
    ),
    Case(
        "fetch",
        "fetch and collate a training batch of 128",
        fetching,
        check_fetching,
        (Target("ours", "released", 1.0),),
    ),
    Case(
        "tokens",
        "token ids of 128 captions",
        tokenising,
        check_equal,
        (Target("ours: cut from a table", "released: tokenise at each fetch", 1.0),),
    ),
    Case(
        "encode",
        "image embeddings of 200 images with 5 captions each",
        encoding,
        check_encoding,
        (Target("ours: once per image", "released: once per caption", 5.0),),
    ),
]
