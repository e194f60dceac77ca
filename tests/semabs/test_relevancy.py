"""Relevancy of tiles without autograd against its definition, and the sum over tiles against its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from projects.semabs import aggregation
from projects.semabs.clip_model import Block, VisionTransformer, build_clip, in_precision
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.jitter import draws
from projects.semabs.relevancy import tile_relevancy
from projects.semabs.text_features import label_features, mean_feature, text_embeddings
from projects.semabs.tiles import cut, normalise, preprocess, scales, tile_grid, tiles_of
from shared.errors import InputError
from tests.semabs.tiny_clip import tiny_clip, tiny_model

PROMPTS = ["a render of a {} in a game engine."]
LABELS = ["mug", "table", "teddy bear"]


def by_autograd(
    visual: VisionTransformer, tiles: Tensor, weights: Tensor, positive: bool, blocks: int
) -> Tensor:
    """R = R + mean_h max(0, dlogit/dA * A) R over the last blocks, one backward pass per label and tile."""
    maps = torch.zeros(weights.shape[1], len(tiles), visual.grid, visual.grid)
    for t in range(len(tiles)):
        x = visual.embed(tiles[t : t + 1]).requires_grad_()
        attentions = []
        for block in visual.transformer.resblocks:
            assert isinstance(block, Block)
            normed, width = block.ln_1(x), x.shape[-1]
            q, k, v = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).split(width, -1)
            heads = block.attn.heads
            q, k, v = (part.reshape(1, -1, heads, width // heads).permute(0, 2, 1, 3) for part in (q, k, v))
            attention = torch.softmax(q @ k.mT / (width // heads) ** 0.5, -1)
            attentions.append(attention)
            x = x + block.attn.out_proj((attention @ v).permute(0, 2, 1, 3).reshape(1, -1, width))
            x = x + block.mlp(block.ln_2(x))
        feature = visual.ln_post(x[0, 0]) @ visual.proj
        for label in range(weights.shape[1]):
            logit = 100 * feature @ weights[:, label] / feature.norm()
            gradients = torch.autograd.grad(logit, attentions[-blocks:], retain_graph=True)
            rolled = torch.eye(x.shape[1])
            for attention, gradient in zip(attentions[-blocks:], gradients, strict=True):
                products = attention[0] * gradient[0]
                rolled = rolled + (products.clamp(min=0) if positive else products).mean(0) @ rolled
            maps[label, t] = rolled[0, 1:].reshape(visual.grid, visual.grid)
    return maps.detach()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("blocks", [1, 3])
def test_relevancy_is_what_autograd_finds(activation: str, positive: bool, blocks: int) -> None:
    visual = tiny_model(8, 8, activation=activation).visual
    tiles = torch.randn(3, 3, 32, 32)
    weights = F.normalize(torch.randn(24, 70), dim=0)  # more labels than go at a time
    found = tile_relevancy(visual, tiles, weights, positive_only=positive, blocks=blocks)
    expected = by_autograd(visual, tiles, weights, positive, blocks)
    assert found.shape == (70, 3, 4, 4)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_lower_precision_is_near() -> None:
    visual, weights = tiny_clip().model.visual, F.normalize(torch.randn(24, 5), dim=0)
    tiles, low = torch.randn(4, 3, 32, 32), in_precision(visual, torch.bfloat16)
    assert in_precision(visual, torch.float32) is visual
    expected, found = (tile_relevancy(one, tiles, weights) for one in (visual, low))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.99
    assert visual.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize(("image_size", "patch"), [(48, 8), (56, 14)])
def test_positions_of_other_grids_are_their_own(image_size: int, patch: int) -> None:
    """As ViT-B/16 and ViT-L/14: no table of 50 positions is read into them."""
    visual = tiny_model(8, 8, image_size=image_size, patch=patch).visual
    tiles, weights = torch.randn(2, 3, image_size, image_size), F.normalize(torch.randn(24, 2), dim=0)
    assert len(visual.positional_embedding) == (image_size // patch) ** 2 + 1
    found = tile_relevancy(visual, tiles, weights)
    expected = by_autograd(visual, tiles, weights, True, 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    with pytest.raises(InputError, match=f"expected images of {image_size} x {image_size} pixels"):
        visual(torch.randn(1, 3, 32, 32))


def test_the_cls_row_is_enough() -> None:
    model = tiny_model(8, 8)
    images = torch.randn(2, 3, 32, 32)
    whole = model.visual.trunk(images, 4)
    torch.testing.assert_close(model.encode_image(images), model.visual.project(whole[:, 0]))


@pytest.mark.parametrize(
    ("height", "width", "img_dim"), [(40, 40, 40), (30, 47, 30), (52, 30, 30), (52, 30, 52)]
)
@pytest.mark.parametrize("within", [True, False])
def test_aggregation_is_the_mean_of_upsampled_tiles(
    height: int, width: int, img_dim: int, within: bool
) -> None:
    grid = scales("ours", height, width, img_dim, starts_within_short_side=within)
    tiles = tiles_of(grid)
    maps = torch.rand(3, 2, len(tiles), 7, 7)
    expected = torch.zeros(2, height, width)
    for scale in grid:
        sums, counts = torch.zeros(2, height, width), torch.full((height, width), 1e-5)
        for index, tile in enumerate(tiles):
            if tile.size == scale.size:
                rows, columns = slice(tile.row, tile.row + tile.size), slice(tile.col, tile.col + tile.size)
                for version in maps:
                    part = version[:, index][None]
                    sums[:, rows, columns] += F.interpolate(
                        part, (tile.size, tile.size), mode="bilinear", align_corners=False
                    )[0]
                    counts[rows, columns] += 1
        expected += sums / counts / 4
    found = aggregation.aggregate(maps.sum(0), grid, height, width, images=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    stored = aggregation.aggregate(maps.sum(0), grid, height, width, images=3, sampled=16)
    torch.testing.assert_close(stored, F.interpolate(found[None], 16, mode="nearest-exact")[0])
    half = aggregation.aggregate_half(maps, grid, height, width)
    assert 0 < (half - expected).abs().max() < 2e-3


def test_oblong_pictures_are_covered_on_request() -> None:
    released, whole = (scales("ours", 48, 80, 48, starts_within_short_side=one)[-1] for one in (True, False))
    assert max(released.columns) < 48
    assert max(whole.columns) == 80 - whole.size - (80 - whole.size) % (whole.size // 4)
    square = scales("ours", 48, 48, 48)
    assert square == scales("ours", 48, 48, 48, starts_within_short_side=False)


def test_portraits() -> None:
    """With the height as coarsest size, `ours` loses that scale and chefer_et_al has nothing left."""
    grid = scales("ours", 64, 40, 64)
    assert grid[0].rows == ()
    assert len(grid) == 4
    with pytest.raises(InputError, match="no tile of 64 pixels fits; chefer_et_al needs img_dim <= 40"):
        scales("chefer_et_al", 64, 40, 64)
    image = np.random.default_rng(0).integers(0, 256, (64, 40, 3), dtype=np.uint8)
    for config in ("ours", "chefer_et_al"):
        maps = RelevancyExtractor(tiny_clip(), config=config, augmentations=0).maps(image, LABELS, PROMPTS)
        assert maps.shape == (3, 64, 40)
        assert maps.max() > 0


def test_a_picture_too_small_for_tiles() -> None:
    with pytest.raises(InputError, match="image of 8 x 8 pixels: too small"):
        scales("ours", 8, 8, 8)
    with pytest.raises(InputError, match="expected one of ours, chefer_et_al, found 'x'"):
        scales("x", 8, 8, 8)


def test_the_extractor_is_tiles_jitter_flips_and_their_mean() -> None:
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    clip = tiny_clip()
    made = RelevancyExtractor(clip, augmentations=2, batch_size=37)
    found = made.maps(image, LABELS, PROMPTS, seed=5)
    weights = label_features(clip, LABELS, PROMPTS).T
    grid, tiles = scales("ours", 48, 64, 48), tile_grid("ours", 48, 64, 48)
    maps = []
    for version in [image] + [change(image) for change in draws(2, 5)]:
        crops = [version[t.row : t.row + t.size, t.col : t.col + t.size] for t in tiles]
        batch = torch.stack([preprocess(crop, 32) for crop in crops])
        plain = tile_relevancy(clip.model.visual, batch, weights)
        mirrored = tile_relevancy(clip.model.visual, batch.flip(-1), weights).flip(-1)
        maps.append((plain + mirrored) / 2)
    expected = aggregation.aggregate(torch.stack(maps).sum(0), grid, 48, 64, images=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.max()) + 1e-7)
    assert torch.equal(made.maps(image, LABELS, PROMPTS, seed=5), found)
    assert not torch.equal(made.maps(image, LABELS, PROMPTS, seed=6), found)
    half = RelevancyExtractor(clip, augmentations=2, float16_sum=True).dataset_maps(
        image, LABELS, PROMPTS, seed=5
    )
    full = made.dataset_maps(image, LABELS, PROMPTS, seed=5)
    assert half.shape == full.shape == (3, 128, 128)
    assert 0 < (half - full).abs().max() < 2e-3 * full.max()
    torch.testing.assert_close(full, F.interpolate(found[None], 128, mode="nearest-exact")[0])


def test_tiles_are_cut_as_they_are_preprocessed() -> None:
    image = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    tiles = tile_grid("ours", 32, 32, 32)
    cuts = normalise(torch.from_numpy(cut(image, tiles, 32)))
    for tile, found in zip(tiles[::17], cuts[::17], strict=True):
        crop = image[tile.row : tile.row + tile.size, tile.col : tile.col + tile.size]
        torch.testing.assert_close(found, preprocess(crop, 32))


def test_chefer_takes_one_tile_of_a_square_and_no_jitter() -> None:
    made = RelevancyExtractor(tiny_clip(), config="chefer_et_al", augmentations=5, hflip=True)
    assert (made.augmentations, made.hflip) == (0, False)
    assert len(tile_grid("chefer_et_al", 48, 48, 48)) == 1


def test_jitter_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert draws(2, 0) == draws(2, 0) != draws(2, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_text_features() -> None:
    clip, cache = tiny_clip(), dict[str, Tensor]()
    prompts = ["a render of a {}", "{} in a game"]
    features = label_features(clip, LABELS, prompts, cache=cache)
    assert set(cache) == {prompt.format(label) for label in LABELS for prompt in prompts}
    for label, row in zip(LABELS, features, strict=True):
        with torch.no_grad():
            each = clip.model.encode_text(clip.tokenizer([prompt.format(label) for prompt in prompts]))
        torch.testing.assert_close(row, (each / each.norm(dim=1, keepdim=True)).mean(0), rtol=1e-4, atol=1e-5)
    cache[LABELS[0]] = torch.zeros(24)  # is taken as it is: nothing is encoded twice
    assert not text_embeddings(clip, [LABELS[0]], cache=cache).any()
    assert float(mean_feature(features).norm()) == pytest.approx(1)
    for wrong, message in (([], "at least one"), (["a photo"], "expected {} for the label in 'a photo'")):
        with pytest.raises(InputError, match=message):
            label_features(clip, LABELS, wrong)
    with pytest.raises(InputError, match="empty label"):
        label_features(clip, ["mug", " "], PROMPTS)
    with pytest.raises(InputError, match="tokens, expected at most 22"):
        label_features(clip, ["mug " * 30], PROMPTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "x"}, "saliency config: expected one of ours, chefer_et_al"),
        ({"precision": "int8"}, "precision: expected one of fp32, bf16, fp16"),
        ({"augmentations": -1}, "augmentations -1"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RelevancyExtractor(tiny_clip(), **options)  # type: ignore[arg-type]


def test_pictures_and_blocks_that_cannot_be_meant() -> None:
    made = RelevancyExtractor(tiny_clip(), augmentations=0, blocks=9)
    with pytest.raises(InputError, match="image: expected uint8"):
        made.maps(np.zeros((32, 32, 3), np.float32), LABELS, PROMPTS)
    with pytest.raises(InputError, match="expected 1 to 4, found 9"):
        made.maps(np.zeros((32, 32, 3), np.uint8), LABELS, PROMPTS)
    with pytest.raises(InputError, match="labels: expected at least one"):
        made.maps(np.zeros((32, 32, 3), np.uint8), [], PROMPTS)
    with pytest.raises(InputError, match="expected a divisor of image_size 50, found 8"):
        build_clip(image_size=50, patch=8)
