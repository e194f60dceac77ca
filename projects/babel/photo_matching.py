"""Which points of one photograph are which of another, by a net's features.

H, W: a photograph, K: matches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from projects.babel import views
from projects.babel.matching import features_at, mutual_matches
from projects.babel.outputs import Net
from shared.errors import InputError
from shared.files import read_image
from shared.runtime import Runtime

_QUALITY = 0.01  # of a corner, as a share of the strongest one's


@dataclass(frozen=True)
class Matched:
    """Two photographs and the points that are each other's nearest: rowcol float32 [K, 4], fractions; best first."""

    first: Path
    second: Path
    rowcol: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class _Photo:
    path: Path
    rowcol: np.ndarray
    features: Tensor


def corners(picture: np.ndarray, count: int) -> np.ndarray:
    """At most `count` well-textured points of uint8 RGB [H, W, 3], spread out: rowcol float32 [M, 2], fractions."""
    import cv2

    height, width = picture.shape[:2]
    distance = 0.5 * (height * width / max(1, count)) ** 0.5
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(gray, count, _QUALITY, distance)
    if found is None:  # e.g. a picture of one colour
        return np.empty((0, 2), np.float32)
    return (found[:, 0, ::-1] + 0.5).astype(np.float32) / np.array([height, width], np.float32)


def match_photographs(
    model: Net, photos: Sequence[Path], *, layer: str, side: int | None, points: int, runtime: Runtime
) -> Iterator[Matched]:
    """Every two of the photographs, in order; each passes the net once.

    side: shorter side that they are reduced to; points: at most so many per photograph. InputError for a photograph
    without any texture, features that are not finite, a layer that the model does not have.
    """
    if len(photos) < 2:
        raise InputError(f"photos: expected at least two pictures, found {len(photos)}")
    seen = [_look(model, path, layer, side, points, runtime) for path in photos]
    for first, second in combinations(seen, 2):
        pairs, similarity = mutual_matches(first.features, second.features)
        rowcol = np.concatenate([first.rowcol[pairs[:, 0]], second.rowcol[pairs[:, 1]]], axis=1)
        yield Matched(first.path, second.path, rowcol, similarity)


def _look(model: Net, path: Path, layer: str, side: int | None, points: int, runtime: Runtime) -> _Photo:
    picture = views.reduced(read_image(path), side)
    rowcol = corners(picture, points)
    if not len(rowcol):
        raise InputError(f"{path}: no point with any texture to match")
    pixels = torch.from_numpy(views.normalised(picture).transpose(2, 0, 1).copy())[None]
    model.eval()
    with torch.inference_mode(), runtime.autocast():
        maps = model(pixels.to(runtime.device), layers=(layer,)).features[layer]
    where = torch.from_numpy(rowcol).to(maps.device)
    features = features_at(maps, torch.zeros(len(rowcol), dtype=torch.int64, device=maps.device), where)
    if not bool(features.isfinite().all()):
        raise InputError(f"{path}: features of layer {layer} are not finite (a damaged model?)")
    return _Photo(path, rowcol, features)
