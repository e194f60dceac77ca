"""Relevancy maps of a picture: tiles at several scales, colour jitter, flips, and their average."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from projects.semabs import aggregation, jitter, text_features
from projects.semabs.clip_model import in_precision
from projects.semabs.clip_weights import LoadedClip
from projects.semabs.relevancy import tile_relevancy
from projects.semabs.tiles import CONFIGS, Scale, Tile, cut, normalise, scales, tiles_of
from shared.errors import InputError
from shared.runtime import available_cores

DATASET_SIDE = 128  # of the maps stored with a scene
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BUDGET = {"cpu": 4 << 20, "cuda": 1 << 30}  # bytes of an MLP's hidden values: in the CPU's cache
_SMALLEST = 16  # tiles, for products of a good size


class RelevancyExtractor:
    """Maps of labels on pictures with one CLIP; texts are encoded once.

    Args:
        clip: the model, which is moved to `device`.
        config: `ours` (4 scales) or `chefer_et_al` (1 scale, never jitter or flips).
        augmentations: colour-jittered versions beside the picture itself.
        hflip: average with the maps of mirrored tiles.
        precision: of matrix products, fp32 | bf16 | fp16.
        device: where to compute.
        batch_size: tiles at a time; None = by the size of the model.
        positive_only: cut off the negative parts of an attention head, as released.
        blocks: how many of the last transformer blocks are rolled out, 1 as released.
        float16_sum: the released rounding of sums over tiles (slow; differs by about one thousandth).
        starts_within_short_side: see `tiles.scales`.
    """

    def __init__(
        self,
        clip: LoadedClip,
        *,
        config: str = "ours",
        augmentations: int = 5,
        hflip: bool = True,
        precision: str = "fp32",
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
        positive_only: bool = True,
        blocks: int = 1,
        float16_sum: bool = False,
        starts_within_short_side: bool = True,
    ) -> None:
        if config not in CONFIGS:
            raise InputError(f"saliency config: expected one of {', '.join(CONFIGS)}, found {config!r}")
        if precision not in DTYPES:
            raise InputError(f"precision: expected one of {', '.join(DTYPES)}, found {precision!r}")
        if augmentations < 0 or (batch_size is not None and batch_size < 1):
            raise InputError(
                f"augmentations {augmentations}, batch_size {batch_size}: expected 0 or more, 1 or more"
            )
        self.clip, self.config, self.device = clip, config, torch.device(device)
        self.augmentations = augmentations if config == "ours" else 0
        self.hflip = hflip and config == "ours"
        clip.model.to(self.device)
        self.visual = in_precision(clip.model.visual, DTYPES[precision])
        self.batch_size = batch_size or self._fitting_batch()
        self.positive_only, self.blocks = positive_only, blocks
        self.float16_sum, self.starts_within_short_side = float16_sum, starts_within_short_side
        self.text_cache: dict[str, Tensor] = {}

    def maps(
        self,
        image: np.ndarray,
        labels: Sequence[str],
        prompts: Sequence[str],
        *,
        img_dim: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Relevancy of each pixel of `image` (uint8 [H, W, 3]) to each label: float32 [L, H, W] on the CPU.

        img_dim: the coarsest tile; None = the picture's height as released (`chefer_et_al`: its shorter side).
        seed: of the colour jitter.
        """
        if img_dim is None:
            img_dim = image.shape[0] if self.config == "ours" else min(image.shape[:2])
        return self.maps_of_features(image, self.text_features(labels, prompts), img_dim=img_dim, seed=seed)

    def dataset_maps(
        self, image: np.ndarray, labels: Sequence[str], prompts: Sequence[str], *, seed: int = 0
    ) -> Tensor:
        """As stored with scenes: the coarsest tile is the shorter side, and of the maps only the pixels that a
        nearest-exact resize to 128 x 128 picks are computed: float32 [L, 128, 128] on the CPU.
        """
        features = self.text_features(labels, prompts)
        return self.maps_of_features(
            image, features, img_dim=min(image.shape[:2]), seed=seed, sampled=DATASET_SIDE
        )

    def text_features(self, labels: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """Features of the labels in the prompts, [L, E] on the CPU; see `text_features.label_features`."""
        if not labels:
            raise InputError("labels: expected at least one")
        return text_features.label_features(self.clip, labels, prompts, cache=self.text_cache)

    def maps_of_features(
        self, image: np.ndarray, features: Tensor, *, img_dim: int, seed: int = 0, sampled: int | None = None
    ) -> Tensor:
        """`maps` for text features [L, E] instead of labels; sampled: see `aggregation.aggregate`."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"image: expected uint8 [H, W, 3], found {image.dtype} {list(image.shape)}")
        height, width = image.shape[:2]
        within = self.starts_within_short_side
        grid = scales(self.config, height, width, img_dim, starts_within_short_side=within)
        weights = features.T.to(self.device)
        versions = self._versions(image, tiles_of(grid), seed)
        if self.float16_sum:
            return self._half(list(versions), weights, grid, (height, width), sampled)
        total = sum(self._relevancies(pixels, weights) for pixels in versions)
        assert isinstance(total, Tensor)
        count = 1 + self.augmentations
        return aggregation.aggregate(total, grid, height, width, images=count, sampled=sampled).cpu()

    def _half(
        self,
        versions: list[np.ndarray],
        weights: Tensor,
        grid: list[Scale],
        size: tuple[int, int],
        sampled: int | None,
    ) -> Tensor:
        maps = torch.stack([self._relevancies(pixels, weights) for pixels in versions])
        whole = aggregation.aggregate_half(maps, grid, *size).cpu()
        if sampled is None:
            return whole
        rows, columns = (torch.from_numpy(aggregation.nearest_exact(length, sampled)) for length in size)
        return whole[:, rows][:, :, columns]

    def _versions(self, image: np.ndarray, tiles: list[Tile], seed: int) -> Iterator[np.ndarray]:
        """Tiles uint8 [T, S, S, 3] of the picture and of each jittered version, made in threads ahead of use."""
        changes = [None, *jitter.draws(self.augmentations, seed)]
        side = self.visual.image_size

        def make(change: jitter.Jitter | None) -> np.ndarray:
            return cut(image if change is None else change(image), tiles, side)

        with ThreadPoolExecutor(max(1, min(len(changes), available_cores() - 1))) as pool:
            yield from pool.map(make, changes)

    def _relevancies(self, pixels: np.ndarray, weights: Tensor) -> Tensor:
        """uint8 [T, S, S, 3] -> [L, T, g, g], the mean of tiles and mirrored tiles."""
        found = []
        for batch in torch.from_numpy(pixels).split(self.batch_size):
            tiles = normalise(batch.to(self.device, non_blocking=True))
            maps = self._relevancy(tiles, weights)
            if self.hflip:
                maps = (maps + self._relevancy(tiles.flip(-1), weights).flip(-1)) / 2
            found.append(maps)
        return torch.cat(found, 1)

    def _relevancy(self, tiles: Tensor, weights: Tensor) -> Tensor:
        return tile_relevancy(
            self.visual, tiles, weights, positive_only=self.positive_only, blocks=self.blocks
        )

    def _fitting_batch(self) -> int:
        visual = self.visual
        bytes_per_tile = (visual.grid**2 + 1) * 4 * visual.transformer.width * 4
        return max(_SMALLEST, _BUDGET.get(self.device.type, _BUDGET["cpu"]) // bytes_per_tile)
