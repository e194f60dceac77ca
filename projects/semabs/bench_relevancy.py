"""Bench cases of relevancy: all labels from one pass without autograd, beside an autograd pass per label as released.

A picture of 896 x 896 is 76.5 batches of 32 tiles (204 tiles, 6 versions, mirrored): the case `relevancy` takes
one batch, the cases `tiles` and `aggregation` the whole picture.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.semabs.aggregation import aggregate, tile_counts
from projects.semabs.clip_model import Block, VisionTransformer, build_clip, in_precision
from projects.semabs.jitter import draws
from projects.semabs.relevancy import tile_relevancy
from projects.semabs.tiles import MEAN, STD, Scale, cut, normalise, scales, tiles_of
from shared.bench import Case, Sides, Target

LABELS, AUGMENTATIONS = 10, 5


def tower(quick: bool) -> VisionTransformer:
    """ViT-B/32 with drawn weights."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "image_size": 32,
        "patch": 8,
        "width": 64,
        "layers": 2,
        "heads": 4,
        "embedding": 32,
    }
    return build_clip(text_layers=1, vocabulary=8, **(small if quick else {})).visual.eval()


def relevancies(quick: bool) -> Sides:
    """A batch of 32 tiles and 10 labels; `forward`: the bare image encoder, all tokens through all blocks."""
    visual = tower(quick)
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randn(4 if quick else 32, 3, visual.image_size, visual.image_size, generator=generator)
    weights = F.normalize(torch.randn(visual.proj.shape[1], LABELS, generator=generator), dim=0)
    frozen = in_precision(visual, torch.bfloat16)
    return {
        "released": partial(one_pass_per_label, visual, tiles, weights),
        "forward": partial(bare_forward, visual, tiles),
        "ours": partial(tile_relevancy, visual, tiles, weights),
        "forward bf16": partial(bare_forward, frozen, tiles),
        "ours bf16": partial(tile_relevancy, frozen, tiles, weights),
    }


@torch.no_grad()
def bare_forward(visual: VisionTransformer, tiles: Tensor) -> Tensor:
    """Image features [T, E]."""
    return visual.project(visual.trunk(tiles, len(visual.transformer.resblocks))[:, 0])


def one_pass_per_label(visual: VisionTransformer, tiles: Tensor, weights: Tensor) -> Tensor:
    """Attention of every block is kept with its graph, and each label has a backward pass: [L, T, g, g]."""
    x = visual.embed(tiles)
    for block in visual.transformer.resblocks:
        assert isinstance(block, Block)
        mixed, attention, _ = block.attn.row(block.ln_1(x), x.shape[1])
        x = x + block.attn.out_proj(mixed)
        x = x + block.mlp(block.ln_2(x))
    logits = 100 * F.normalize(visual.project(x)[:, 0], dim=-1) @ weights
    maps = []
    for label in range(weights.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, label].sum(), attention, retain_graph=True)
        products = (gradient * attention).clamp(min=0).mean(1).detach()
        rolled = torch.eye(products.shape[-1]).expand(len(tiles), -1, -1)
        maps.append((rolled + products @ rolled)[:, 0, 1:])
    return torch.stack(maps).unflatten(-1, (visual.grid, visual.grid))


def check_relevancies(outputs: Mapping[str, Any]) -> str:
    """fp32 maps agree to 1e-3 of their maximum, as the authors' numbers must; bf16: their correlation is told."""
    expected = outputs["released"].detach()
    worst = float((outputs["ours"] - expected).abs().max() / expected.abs().max())
    assert worst < 1e-3, f"ours: maps differ by {worst:.1e} of the maximum"
    low = outputs["ours bf16"]
    correlation = float(np.corrcoef(low.flatten().numpy(), expected.flatten().numpy())[0, 1])
    assert correlation > 0.99, f"ours bf16: correlation {correlation:.4f}"
    return f"maps agree to {worst:.0e} of their maximum; bf16: correlation {correlation:.5f}"


def picture(quick: bool) -> tuple[np.ndarray, list[Scale], int]:
    """A picture of 896 x 896, its tiles, and the side that they are resized to."""
    side, crop = (64, 32) if quick else (896, 224)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return pixels, scales("ours", side, side, side), crop


def tiling(quick: bool) -> Sides:
    """All tiles of the picture and its jittered versions, as CLIP's input."""
    pixels, grid, side = picture(quick)
    versions = [pixels] + [change(pixels) for change in draws(1 if quick else AUGMENTATIONS, 0)]

    def ours() -> list[Tensor]:
        return [normalise(torch.from_numpy(cut(version, tiles_of(grid), side))) for version in versions]

    return {"released": partial(tile_by_tile, versions, grid, side), "ours": ours}


def tile_by_tile(versions: list[np.ndarray], grid: list[Scale], side: int) -> list[Tensor]:
    """Each crop through torchvision's transforms."""
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    transform = Compose(
        [
            Resize(side, InterpolationMode.BICUBIC),
            CenterCrop(side),
            ToTensor(),
            Normalize(MEAN, STD),
        ]
    )
    return [
        torch.stack(
            [
                transform(Image.fromarray(version[t.row : t.row + t.size, t.col : t.col + t.size]))
                for t in tiles_of(grid)
            ]
        )
        for version in versions
    ]


def check_tiling(outputs: Mapping[str, Any]) -> str:
    """Tiles agree to float32's rounding."""
    pairs = zip(outputs["ours"], outputs["released"], strict=True)
    worst = max(float((found - whole).abs().max()) for found, whole in pairs)
    assert worst < 1e-5, f"tiles differ by {worst:.1e}"
    return f"tiles agree to {worst:.0e}"


def aggregating(quick: bool) -> Sides:
    """Maps of all tiles of 6 versions -> a map; `dataset`: only the 128 x 128 pixels that are stored."""
    pixels, grid, _ = picture(quick)
    labels, versions = (2, 2) if quick else (LABELS, 1 + AUGMENTATIONS)
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(versions, labels, len(tiles_of(grid)), 7, 7, generator=generator)
    size = pixels.shape[:2]

    def ours(sampled: int | None = None) -> Tensor:
        return aggregate(maps.sum(0), grid, *size, images=versions, sampled=sampled)

    return {
        "released": partial(upsample_each, maps, grid, size),
        "ours": ours,
        "dataset": partial(ours, 16 if quick else 128),
    }


def upsample_each(maps: Tensor, grid: list[Scale], size: tuple[int, int]) -> Tensor:
    """Every tile's maps are upsampled and added where the tile lies (float32: half the rounding is not timed)."""
    total = torch.zeros(maps.shape[1], *size)
    first = 0
    for scale in grid:
        sums = torch.zeros_like(total)
        tiles = tiles_of([scale])
        for version in maps:
            for index, tile in enumerate(tiles):
                part = version[None, :, first + index]
                whole = F.interpolate(part, (tile.size, tile.size), mode="bilinear")[0]
                sums[:, tile.row : tile.row + tile.size, tile.col : tile.col + tile.size] += whole
        first += len(tiles)
        total += sums / tile_counts(scale, *size, images=len(maps))
    return total / len(grid)


def check_aggregation(outputs: Mapping[str, Any]) -> str:
    """Maps agree; those of the data set are pixels of the others."""
    whole, small = outputs["released"], outputs["dataset"]
    worst = float((outputs["ours"] - whole).abs().max())
    stored = F.interpolate(whole[None], small.shape[1:], mode="nearest-exact")[0]
    worst = max(worst, float((small - stored).abs().max()))
    assert worst < 1e-5, f"maps differ by {worst:.1e}"
    return f"maps agree to {worst:.0e}"


CASES = [
    Case(
        "relevancy",
        "32 tiles x 10 labels, ViT-B/32 (1 / 76.5 of a picture of 896 x 896)",
        relevancies,
        check_relevancies,
        (
            Target("ours", "released", 2.8),
            Target("ours", "forward", 1 / 1.2),
            Target("ours bf16", "released", 8.0),
            Target("ours bf16", "forward bf16"),
        ),
        memory=True,
    ),
    Case(
        "tiles",
        "tiles of a picture of 896 x 896 and of its 5 jittered versions (1,224)",
        tiling,
        check_tiling,
        (Target("ours", "released"),),
    ),
    Case(
        "aggregation",
        "maps of 1,224 tiles x 10 labels -> a map of 896 x 896",
        aggregating,
        check_aggregation,
        (Target("ours", "released"), Target("dataset", "released")),
    ),
]
