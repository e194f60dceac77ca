"""From occupancy logits on a grid to a completed scene: the strongest class, a cutoff, free space carved away."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

CUTOFF = -3.0  # a voxel where every logit is below stays empty
EMPTY = -1
VOOL_MARGIN = 0.15  # a described place: all that comes so close to the largest logit


def grid_points(bounds: np.ndarray, side: int) -> np.ndarray:
    """Points [side^3, 3] float32 of a grid over bounds [2, 3], both ends included, x slowest and z fastest."""
    axes = [np.linspace(low, high, side) for low, high in np.asarray(bounds, float).T]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.float32)


def may_be_filled(
    points: np.ndarray,
    depth: np.ndarray,
    intrinsics: np.ndarray,
    pose: np.ndarray,
    bounds: np.ndarray,
    side: int,
) -> np.ndarray:
    """Which points [side^3, 3] of the grid are not known to be empty, [side^3] bool.

    Those in the camera's view, and not before the surface that it saw (truncated signed distance <= 0; unseen
    voxels have -1).
    """
    from projects.semabs.geometry import in_frustum
    from projects.semabs.tsdf import tsdf_volume

    seen = in_frustum(points, depth.shape, intrinsics, pose)
    free = tsdf_volume(depth, intrinsics, pose, bounds, voxels=side) > 0
    return np.asarray(seen) & ~np.asarray(free).reshape(-1)


class StrongestClass:
    """The class with the largest logit at each point, taken one class at a time: memory for one class only.

    Equal logits go to the class that came first, as argmax has it.
    """

    def __init__(self, points: int, *, cutoff: float = CUTOFF) -> None:
        self.best = np.full(points, -np.inf, np.float32)
        self.label = np.full(points, EMPTY, np.int16)
        self.cutoff = cutoff
        self.classes = 0

    def add(self, logits: np.ndarray) -> None:
        """Take the logits [points] of the next class."""
        better = logits > self.best
        np.copyto(self.best, logits, where=better)
        self.label[better] = self.classes
        self.classes += 1

    def labels(self) -> np.ndarray:
        """The class of each point [points] int16, EMPTY where no logit reaches the cutoff."""
        return np.where(self.best < self.cutoff, np.int16(EMPTY), self.label)


def complete(
    logits_of: Callable[[int, np.ndarray], np.ndarray],
    classes: int,
    points: np.ndarray,
    filled: np.ndarray,
    *,
    cutoff: float = CUTOFF,
) -> np.ndarray:
    """The class of each of the points [N, 3], int16 [N]; EMPTY where nothing is.

    logits_of(k, points) gives class k's logits. Only points that `may_be_filled` are asked for: the others
    would be set to empty afterwards.
    """
    asked = np.flatnonzero(filled)
    wanted = np.ascontiguousarray(points[asked])
    strongest = StrongestClass(len(asked), cutoff=cutoff)
    for index in range(classes):
        strongest.add(logits_of(index, wanted))
    labels = np.full(len(points), EMPTY, np.int16)
    labels[asked] = strongest.labels()
    return labels


def close_to_best(logits: np.ndarray, *, margin: float = VOOL_MARGIN) -> np.ndarray:
    """Which points [N] bool have a logit larger than the largest one less `margin`."""
    return logits > logits.max() - margin


def heat_colours(logits: np.ndarray) -> np.ndarray:
    """Colours uint8 [N, 3]: jet of exp(logit), stretched from the smallest to the largest."""
    strength = np.exp(logits.astype(np.float64) - float(logits.max(initial=-np.inf)))
    spread = float(np.ptp(strength))
    return jet((strength - strength.min()) / spread if spread > 0 else np.ones_like(strength))


def jet(values: np.ndarray) -> np.ndarray:
    """matplotlib's jet of values in [0, 1]: uint8 [..., 3]."""
    from matplotlib import colormaps

    return colormaps["jet"](values, bytes=True)[..., :3]


def decoded_in_blocks(
    decode: Callable[[Tensor], Tensor], points: np.ndarray, *, device: torch.device, block: int = 1 << 18
) -> np.ndarray:
    """`decode(points [n, 3]) -> [n]` over all points [N, 3], `block` at a time; float32 [N]."""
    found = np.empty(len(points), np.float32)
    for start in range(0, len(points), block):
        part = torch.from_numpy(points[start : start + block]).to(device)
        found[start : start + block] = decode(part).float().cpu().numpy()
    return found


def subsample(count: int, wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of `wanted` points out of `count`, with replacement, as released."""
    return generator.integers(0, count, wanted)


def volumes(labels: np.ndarray, classes: Sequence[str], side: int) -> dict[str, np.ndarray]:
    """A binary volume uint8 [side, side, side] per class that occurs, of labels [side^3]."""
    cube = labels.reshape(side, side, side)
    return {name: (cube == index).astype(np.uint8) for index, name in enumerate(classes)}
