"""Bench cases of the evaluation: ranking, memory of the protocols, CxC, encoding."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.vseinfty import bench_released as released
from projects.vseinfty import cxc, metrics
from projects.vseinfty.bench_training import small_or_paper_model
from shared.bench import Sides


def embeddings(
    num_images: int, dim: int, seed: int = 0, *, noise: float = 0.28
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [n, E] and [5n, E]; with this noise images find captions about as well as in a trained model."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((num_images, dim), dtype=np.float32)
    captions = np.repeat(images, 5, axis=0)
    captions += noise * dim**0.5 * rng.standard_normal(captions.shape, dtype=np.float32)
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
    """CxC text -> text among the 25,000 test captions of COCO."""
    # captions find captions of the same image like those of a trained model: R@1 about 45 %
    _, captions = embeddings(*((40, 32) if quick else (5000, 1024)), noise=0.096)
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

    return {"released": partial(released.intra_ranks, captions, ids, rated), "ours": ours}


def check_intra(outputs: Mapping[str, Any]) -> str:
    """The rank of the best positive of each caption."""
    first, *others = outputs.values()
    for found in others:
        assert np.array_equal(found, first), f"{(found != first).sum()} of {len(first)} ranks differ"
    return f"all {len(first)} ranks are equal"


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
