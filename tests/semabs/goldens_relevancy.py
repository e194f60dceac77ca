"""Golden calls of CLIP, tiles, jitter and the relevancy extractor."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from projects.semabs import aggregation, jitter
from projects.semabs.clip_model import build_clip
from projects.semabs.clip_tokenizer import BytePairTokenizer
from projects.semabs.clip_weights import LoadedClip
from projects.semabs.extractor import RelevancyExtractor
from projects.semabs.relevancy import LOGIT_SCALE, cls_row, tile_relevancy
from projects.semabs.text_features import label_features, text_embeddings
from projects.semabs.tiles import preprocess, scales, tiles_of
from shared.checkpoint import load_strictly
from tests.goldens import fill
from tests.goldens.case import Case


@functools.cache
def _filled(manifest: Path, seed: int) -> LoadedClip:
    """ViT-B/32; 150 million numbers, drawn once."""
    model = build_clip(initialize=False)
    state = {name: torch.from_numpy(value) for name, value in fill.state_dict(manifest, seed=seed).items()}
    load_strictly(model, state, source=manifest.name)
    model.requires_grad_(False).eval()
    return LoadedClip(model, BytePairTokenizer(), "ViT-B/32", 224)


def clip_of(case: Case) -> LoadedClip:
    """The case's CLIP."""
    return _filled(case.path(case.data["manifest"]), case.seed)


def clip_manifest(case: Case) -> None:
    """Names and shapes of the parameters."""
    with torch.device("meta"):
        state = build_clip(initialize=False).state_dict()
    expected = {entry["name"]: tuple(entry["shape"]) for entry in case.json(case.data["manifest"])}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


def clip_text(case: Case) -> None:
    """Tokens, text features, class weights."""
    golden, clip, strings = case.npz(), clip_of(case), case.data["strings"]
    assert np.array_equal(clip.tokenizer(strings).numpy(), golden["tokens"])
    case.close(text_embeddings(clip, strings), golden["text_features"], of_max=True, what="features")
    for name, prompts in case.data["prompts"].items():
        weights = label_features(clip, case.data["labels"], prompts).T
        case.close(weights, golden[name], of_max=True, what=name)


def clip_image(case: Case) -> None:
    """Image features, the last block's attention and its gradient, relevancy."""
    golden, visual = case.npz(), clip_of(case).model.visual
    images = torch.from_numpy(case.input("clip_image", tuple(case.data["images"])))
    weights = torch.from_numpy(golden["class_weights_1prompt"])
    tolerance = float(case.data["features_rtol"])
    with torch.no_grad():
        tokens = visual.trunk(images)
        features = visual.head(tokens)
        softmax, gradient = cls_row(visual, tokens, weights)
    logits = LOGIT_SCALE * torch.nn.functional.normalize(features, dim=-1) @ weights
    case.close(features, golden["image_features"], of_max=True, rtol=tolerance, what="features")
    case.close(logits, golden["logits"], of_max=True, rtol=tolerance, what="logits")
    case.close(softmax, golden["last_attn_cls_row"], of_max=True, what="attention")
    case.close(gradient, golden["grad_attn_cls_row"], of_max=True, what="gradient")
    for name, options in case.data["variants"].items():
        found = tile_relevancy(visual, images, weights, **options)
        case.close(found, golden[name], of_max=True, what=name)


def picture(case: Case, height: int, width: int) -> np.ndarray:
    """The drawn test picture, uint8 [H, W, 3]."""
    noise = case.input("img", (height, width, 3), kind="uniform").astype(np.float64)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [
        np.sin(x / 9 + case.seed) + np.cos(y / 13),
        np.sin((x + y) / 17),
        np.cos(x / 23) * np.sin(y / 7),
    ]
    return np.clip(127 + 55 * np.stack(waves, -1) + 40 * (noise - 0.5), 0, 255).astype(np.uint8)


def clip_preprocessing(case: Case) -> None:
    """Resizing and normalisation of pictures of several sizes."""
    golden, every = case.npz(), int(case.data["every"])
    stored = case.data["stored"]
    assert np.array_equal(picture(case, *map(int, stored.split("x"))), golden[f"image_{stored}"])
    names = [name for name in golden if name.startswith("preproc_") and not name.endswith("_mean_std")]
    assert names
    for name in names:
        height, width = map(int, name.removeprefix("preproc_").split("x"))
        found = preprocess(picture(case, height, width), int(case.data["side"]))
        case.close(found[:, ::every, ::every], golden[name], what=name)
        case.close([found.mean(), found.std()], golden[f"{name}_mean_std"], what=f"{name} mean, std")


def tiles(case: Case) -> None:
    """Positions of the tiles in order, and how many lie over each pixel."""
    golden, points = case.npz(), int(case.data["points"])
    places = [name.removesuffix("_size_row_col") for name in golden if name.endswith("_size_row_col")]
    assert places
    for place in places:
        config, _, size = place.rpartition("_")
        height, width = map(int, size.split("x"))
        grid = scales(config, height, width, case.data["img_dim"].get(size, min(height, width)))
        found = [(tile.size, tile.row, tile.col) for tile in tiles_of(grid)]
        assert np.array_equal(found, golden[f"{place}_size_row_col"]), place
        for scale in grid:
            counts = aggregation.tile_counts(scale, height, width)
            picked = counts[:: max(1, height // points), :: max(1, width // points)]
            assert np.array_equal(picked, golden[f"{place}_count_{scale.size}"]), (place, scale.size)


def jitter_draws(case: Case) -> None:
    """Three consecutive draws; torchvision's versions round a few pixels otherwise."""
    golden = case.npz()
    changes = jitter.draws(len(golden["jittered"]), case.seed)
    for change, expected in zip(changes, golden["jittered"], strict=True):
        difference = np.abs(change(golden["image"]).astype(int) - expected)
        assert (difference <= 1).mean() >= case.data["equal"], difference.max()


def extractor(case: Case) -> None:
    """Maps, in float32 and with the released rounding; the text features beside."""
    golden = case.npz()
    labels, prompts = golden["labels"].tolist(), golden["prompts"].tolist()
    image, clip = golden["image"], clip_of(case)
    options: dict[str, Any] = {"img_dim": min(image.shape[:2])}
    made = Remembering(clip, **case.data["extractor"])
    full_maps = made.maps(image, labels, prompts, **options)
    made.float16_sum = True
    half_maps = made.maps(image, labels, prompts, **options)
    case.close(made.text_features(labels, prompts), golden["text_features"], what="text features")
    case.close(full_maps, golden["maps_fp32acc"], what="float32 sums")
    atol = float(case.data["atol"]) + float(case.data["half_atol"])
    case.close(half_maps, golden["maps_fp16acc"], atol=atol, what="float16 sums")
    case.close(half_maps - half_maps.mean(0), golden["minus_mean"], atol=atol, what="minus mean")


class Remembering(RelevancyExtractor):
    """Knows the maps of tiles that it has seen: both sums need ViT-B/32 once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.known: dict[bytes, torch.Tensor] = {}

    def _relevancies(self, pixels: np.ndarray, weights: torch.Tensor) -> torch.Tensor:
        key = pixels.tobytes()
        if key not in self.known:
            self.known[key] = super()._relevancies(pixels, weights)
        return self.known[key]


CALLS: dict[str, Callable[[Case], None]] = {
    "clip_manifest": clip_manifest,
    "clip_text": clip_text,
    "clip_image": clip_image,
    "clip_preprocessing": clip_preprocessing,
    "tiles": tiles,
    "jitter": jitter_draws,
    "extractor": extractor,
}
