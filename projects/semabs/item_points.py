"""What OVSSC and VOOL items share: observed points, features of their pixels, query points, the TSDF.

P: labels or descriptions   N: observed points   M: query points   H, W: image   h, w: relevancy map
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.semabs import geometry, sampling, tsdf
from projects.semabs.item_settings import ItemSettings
from projects.semabs.sampling import Rng
from projects.semabs.scene_file import SceneFile
from shared.errors import InputError

Item = dict[str, Any]


class NothingLeftError(Exception):
    """No point is left in the scene's bounds."""


def made_moved_or_not(
    scene: SceneFile, make: Callable[[np.ndarray | None], Item], affine: np.ndarray | None
) -> Item:
    """`make(affine)`, or `make(None)` where that leaves nothing; InputError where this does too."""
    try:
        return make(affine)
    except NothingLeftError as nothing:
        if affine is None:
            raise InputError(f"{scene.path}: no {nothing} in items.scene_bounds") from None
    return made_moved_or_not(scene, make, None)


@dataclass(frozen=True)
class ItemRequest:
    """What item is asked for.

    Attributes:
        settings: how scenes become items.
        train: draws labels and points, augments; else everything as it is.
        image: the picture whose maps and colours are taken, "rgb" or "domain_randomized_rgb".
        synonyms: classes go by their synonyms.
        network_inputs: what the network sees, of INPUTS.
        voxel_shape: of the TSDF, where it is an input.
        visuals: also the arrays that only pictures of an item need.
    """

    settings: ItemSettings
    train: bool = False
    image: str = "rgb"
    synonyms: bool = False
    network_inputs: Sequence[str] = ("saliency",)
    voxel_shape: Sequence[int] = (128, 128, 128)
    visuals: bool = False

    @property
    def colours(self) -> bool:
        """Whether the item needs the picture."""
        return self.visuals or "rgb" in self.network_inputs


@dataclass(frozen=True)
class View:
    """The depth image of a scene with its camera."""

    depth: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray

    @classmethod
    def of(cls, scene: SceneFile) -> "View":
        """The view of a scene file."""
        return cls(scene.depth(), *scene.camera())

    def in_frustum(self, points: np.ndarray) -> np.ndarray:
        """Whether points [..., 3] lie in the camera's frustum."""
        height, width = self.depth.shape
        return geometry.in_frustum(points, (height, width), self.intrinsics, self.pose)

    def moved(self, affine: np.ndarray | None) -> "View":
        """The view whose points are moved."""
        return self if affine is None else replace(self, pose=affine @ self.pose)

    def observed(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(flat pixels [n], points [n, 3]) of the pixels with depth whose points lie in the bounds."""
        points = geometry.back_project(self.depth, self.intrinsics, self.pose)
        inside = geometry.in_bounds(points, bounds)
        inside &= self.depth.reshape(-1) != 0
        pixels = np.flatnonzero(inside)
        return pixels, points[pixels]


def observed_points(
    rng: Rng, view: View, request: ItemRequest, affine: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(flat pixels [N], points [N, 3]) that the network sees; NothingLeftError where none is in the bounds."""
    settings = request.settings
    pixels, points = view.moved(affine).observed(settings.bounds)
    if not len(pixels):
        raise NothingLeftError("observed points")
    count = settings.num_input_pts if request.train else settings.eval_input_pts
    if count == -1:
        return pixels, points
    drawn = sampling.draw_points(
        rng, len(pixels), count,
        replace=request.train and settings.always_replace_subsample_pts, method=settings.sampling,
    )  # fmt: skip
    return pixels[drawn], noisy(rng, points[drawn], request)


@dataclass(frozen=True)
class Queries:
    """Query points of P labels: where, inside the label or not, outside of bounds and frustum or not."""

    points: Tensor  # [P, M, 3] float32
    labels: Tensor  # [P, M] bool
    out_of_bounds: Tensor  # [P, M] bool
    out_of_frustum: Tensor  # [P, M] bool


def query_points(
    rng: Rng,
    view: View,
    points: np.ndarray,
    inside: Sequence[np.ndarray],
    request: ItemRequest,
    affine: np.ndarray | None,
) -> Queries:
    """Query points of each label. points [N, 3]: the room's; inside: P masks [N], which points are the label's.

    Training: `num_output_pts` of each label in the bounds; evaluation: all, the same for each label, as views of one
    array. NothingLeftError where no point is in the bounds.
    """
    settings = request.settings
    camera = view.moved(affine) if settings.moved_frustum else view
    moved = sampling.transformed(points, affine)
    kept = np.flatnonzero(geometry.in_bounds(moved, settings.bounds))
    if not len(kept):
        raise NothingLeftError("query points")
    whole = len(kept) == len(moved)
    if not request.train:
        chosen = moved if whole else moved[kept]
        labels = np.stack([mask if whole else mask[kept] for mask in inside])
        hidden = torch.from_numpy(~camera.in_frustum(chosen)).expand(len(inside), -1)
        shared = torch.from_numpy(chosen).expand(len(inside), -1, -1)
        nowhere = torch.zeros(len(chosen), dtype=torch.bool).expand(len(inside), -1)
        return Queries(shared, torch.from_numpy(labels), nowhere, hidden)
    drawn = [_draw(rng, mask, kept, whole, settings) for mask in inside]
    found = np.stack([np.take(moved, rows, axis=0) for rows in drawn])
    labels = np.stack([np.take(mask, rows) for mask, rows in zip(inside, drawn, strict=True)])
    outside = ~camera.in_frustum(moved)
    unseen = np.stack([np.take(outside, rows) for rows in drawn])
    found = noisy(rng, found, request)
    beyond = ~geometry.in_bounds(found, settings.bounds)  # noise may push points over the border
    return Queries(*(torch.from_numpy(part) for part in (found, labels, beyond, unseen)))


def _draw(rng: Rng, mask: np.ndarray, kept: np.ndarray, whole: bool, settings: ItemSettings) -> np.ndarray:
    weights = None
    if settings.balance_spatial_sampling:
        weights = sampling.balancing_weights(mask)  # of all points, those out of bounds included, as released
        weights = weights if whole else weights[kept]
    drawn = sampling.draw_points(
        rng, len(kept), settings.num_output_pts,
        weights=weights, replace=settings.always_replace_subsample_pts, method=settings.sampling,
    )  # fmt: skip
    return drawn if whole else kept[drawn]


def noisy(rng: Rng, points: np.ndarray, request: ItemRequest) -> np.ndarray:
    """Points [..., 3] with the noise of a training item."""
    if not request.train or not request.settings.xyz_pts_noise:
        return points
    noise = rng.normal(scale=request.settings.xyz_pts_noise, size=points.shape)
    return points + noise.astype(np.float32)


def pixel_values(maps: np.ndarray, pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values [P, n] float32 at flat `pixels` of an H x W image, of maps [P, h, w] stretched to it bilinearly.

    As torch's `interpolate(mode="bilinear", align_corners=False)`, at these pixels only.
    """
    (height, width), (rows, columns) = shape, maps.shape[1:]
    row, column = np.divmod(pixels, width)
    above, below, down = (part[row] for part in _neighbours(height, rows))
    left, right, along = (part[column] for part in _neighbours(width, columns))
    table = np.ascontiguousarray(maps.reshape(len(maps), rows * columns).T)  # a pixel's values lie together
    along, down = along[:, None], down[:, None]

    def between(line: np.ndarray) -> np.ndarray:
        start = np.take(table, line * columns + left, axis=0)
        end = np.take(table, line * columns + right, axis=0)
        end -= start
        end *= along
        end += start
        return end

    upper, lower = between(above), between(below)
    lower -= upper
    lower *= down
    lower += upper
    return np.ascontiguousarray(lower.T)


def _neighbours(size: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of a line of `size` the two cells it lies between, and how far towards the second."""
    place = np.maximum((np.arange(size) + 0.5) * (cells / size) - 0.5, 0.0)
    first = np.minimum(place.astype(np.int64), cells - 1)
    return first, np.minimum(first + 1, cells - 1), (place - first).astype(np.float32)


def raised(values: np.ndarray, vmin: float | None) -> np.ndarray:
    """Values minus `vmin`, at least 0; None leaves them as they are."""
    return values if vmin is None else np.maximum(values - np.float32(vmin), 0)


def places_of(scene: SceneFile, request: ItemRequest, names: Iterable[str]) -> np.ndarray:
    """Positions [P] int64 of `names` among the scene's text labels; InputError for a name without a map."""
    config = request.settings.saliency_config
    labels = scene.text_labels(request.image, config)
    places = {label: place for place, label in enumerate(labels)}
    wanted = list(names)
    absent = [name for name in wanted if name not in places]
    if absent:
        field = f"data/saliencies/{request.image}|{config}|saliency_text_labels"
        raise InputError(f"{scene.path}: {field}: no label {absent[0]!r}; {len(labels)} labels have maps")
    return np.array([places[name] for name in wanted], np.int64)


def relative_maps(scene: SceneFile, request: ItemRequest, places: np.ndarray) -> np.ndarray:
    """Maps [P, h, w] at these positions of the text labels, minus the mean where that is asked for."""
    settings = request.settings
    different, inverse = np.unique(places, return_inverse=True)
    maps = scene.maps(request.image, settings.saliency_config, different)
    if settings.subtract_mean_relevancy and len(places):
        count = len(scene.text_labels(request.image, settings.saliency_config))
        released = settings.mean_of == "rgb_ours"
        maps = maps - scene.mean_map(request.image, settings.saliency_config, count, released=released)
    return maps[inverse]


def tsdf_input(view: View, request: ItemRequest, affine: np.ndarray | None) -> Tensor:
    """The TSDF [X, Y, Z] of the (moved) view where the network wants it, else a single 1."""
    if "tsdf" not in request.network_inputs:
        return torch.ones(1)
    depth, intrinsics, pose = view.depth, view.intrinsics, view.moved(affine).pose
    volume = tsdf.tsdf_volume(
        depth, intrinsics, pose, request.settings.bounds, voxels=int(request.voxel_shape[0])
    )
    if volume.shape != tuple(request.voxel_shape):
        found = f"{list(request.voxel_shape)} for bounds {request.settings.bounds.tolist()}"
        raise InputError(f"voxel_shape: expected {list(volume.shape)}, cubic voxels, found {found}")
    return torch.from_numpy(volume)


def visual_arrays(scene: SceneFile, view: View, ids: np.ndarray) -> Item:
    """Arrays that only pictures of an item need."""
    return {
        "depth": torch.from_numpy(view.depth),
        "cam_intr": torch.from_numpy(view.intrinsics).float(),
        "cam_pose": torch.from_numpy(view.pose).float(),
        "full_objid_pts": torch.from_numpy(ids),
        "vis_gt_object_labels": scene.labels_of_ids(),
    }
