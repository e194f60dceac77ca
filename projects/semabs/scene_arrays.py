"""What a scene file holds, as arrays: one view of a room, its points and descriptions, its relevancy maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

IMAGES = ("rgb", "domain_randomized_rgb")
CONFIGS = ("ours", "chefer_et_al")
MEAN = "mean"  # the last label of a set of relevancy maps
NOT_AN_OBJECT = frozenset(["empty", "out of bounds", "unlabelled"])  # class names of special ids


@dataclass(frozen=True)
class Descriptions:
    """`target relation reference`, D of them; `target_ids`: the object that the target is."""

    targets: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    target_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    target_materials: tuple[str, ...] = ()
    reference_materials: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Descriptions":
        """Only these rows, in this order."""
        chosen = [int(row) for row in rows]

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in chosen) if values else ()

        return Descriptions(
            pick(self.targets),
            pick(self.relations),
            pick(self.references),
            self.target_ids[chosen],
            pick(self.target_materials),
            pick(self.reference_materials),
        )


@dataclass(frozen=True)
class SceneArrays:
    """One view of a room, what `write_scene` writes (H x W pixels, N points, V TSDF voxels).

    class_names[i] is the class of object id i, without the `[i]` that the file adds.
    """

    rgb: np.ndarray  # [H, W, 3] uint8
    depth: np.ndarray  # [H, W] float32 metres, 0 = no measurement
    segmentation: np.ndarray  # [H, W] int32 object ids, -1 = none
    intrinsics: np.ndarray  # [3, 3]
    pose: np.ndarray  # [4, 4] camera to scene
    bounds: np.ndarray  # [2, 3]
    points: np.ndarray  # [N, 3] float32: the room as a cloud of points, empty space included
    object_ids: np.ndarray  # [N] int32
    class_names: Sequence[str]
    descriptions: Descriptions
    tsdf_points: np.ndarray  # [V, 3] float32
    tsdf_values: np.ndarray  # [V] float32
    randomized_rgb: np.ndarray | None = None  # [H, W, 3] uint8: the view with other colours and textures


@dataclass(frozen=True)
class Relevancies:
    """Relevancy maps of one image under one config, for `add_saliencies`; the mean over labels is added there."""

    image: str  # one of IMAGES
    config: str  # one of CONFIGS
    labels: Sequence[str]  # L, sorted
    maps: np.ndarray  # [L, h, w] float32
    text_features: np.ndarray  # [L, D] float16 or float32, unit norm


@dataclass(frozen=True)
class Saliency:
    """Relevancy maps as read: `mean` is subtracted by the items, and is no row of `maps`."""

    maps: np.ndarray  # [L, h, w] float32
    mean: np.ndarray  # [h, w] float32
    labels: tuple[str, ...]  # L
    text_features: np.ndarray  # [L, D] float32
    mean_text_feature: np.ndarray  # [D] float32
