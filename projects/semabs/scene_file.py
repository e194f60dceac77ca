"""Scene files: HDF5 in the released layout. Arrays lie in root datasets, `data/*` are region references to them.

Every file is written beside its place and renamed, so that a kill leaves the old file or the new one.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from projects.semabs import geometry
from projects.semabs.scene_arrays import (
    CONFIGS,
    IMAGES,
    MEAN,
    Descriptions,
    Relevancies,
    Saliency,
    SceneArrays,
)
from projects.semabs.scene_writer import add_saliencies, remove_saliencies, write_scene
from shared.atomic import first_line
from shared.errors import InputError
from shared.files import open_hdf5

__all__ = [
    "CONFIGS",
    "IMAGES",
    "MEAN",
    "Descriptions",
    "Relevancies",
    "Saliency",
    "SceneArrays",
    "SceneFile",
    "add_saliencies",
    "has_saliencies",
    "remove_saliencies",
    "write_scene",
]
_DESCRIPTION_TEXTS = (
    "target_obj_name",
    "spatial_relation_name",
    "reference_obj_name",
    "target_obj_material",
    "reference_obj_material",
)


class SceneFile:
    """One scene, open for reading (a context manager; open it after forking, in the worker).

    InputError, with the file and the field, for a file that is missing, cut short or damaged, and for a field
    that is absent, points nowhere or has another shape than the rest.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open_hdf5(path)
        self._text_labels: dict[tuple[str, str], list[str]] = {}  # read several times for an item

    def __enter__(self) -> "SceneFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def scene_id(self) -> str:
        """The file's name without its suffix: `00000|FloorPlan26_physics`."""
        return self.path.stem

    # --- the view

    def rgb(self, image: str = "rgb") -> np.ndarray:
        """The picture [H, W, 3] uint8; image: "rgb" or "domain_randomized_rgb" (of test rooms only)."""
        if image == "rgb":
            return self._picture("rgb", self._row("rgb"))
        found = self._whole("domain_randomized_rgb")
        if found.ndim != 4:
            raise self._wrong("domain_randomized_rgb", "a picture (only test rooms have one)", found.shape)
        return self._picture("domain_randomized_rgb", found[0])

    def has_randomized(self) -> bool:
        """Whether `domain_randomized_rgb` is a picture."""
        return self._dataset("domain_randomized_rgb").ndim == 4

    def depth(self) -> np.ndarray:
        """Depth [H, W] float32 in metres, 0 = no measurement; checked by `geometry.check_depth`."""
        depth = self._row("depth")
        geometry.check_depth(depth, str(self.path))
        return depth.astype(np.float32, copy=False)

    def segmentation(self) -> np.ndarray:
        """Object id of each pixel [H, W] int32; -1 = none."""
        return self._row("seg", 2).astype(np.int32, copy=False)

    def camera(self) -> tuple[np.ndarray, np.ndarray]:
        """(intrinsics [3, 3], pose [4, 4] camera to scene), float64; checked."""
        intrinsics, pose = self._whole("cam_intr"), self._whole("cam_pose")
        height, width = self._shape("depth")[:2]
        geometry.check_intrinsics(intrinsics, (height, width), str(self.path))
        geometry.check_pose(pose, str(self.path))
        return intrinsics.astype(np.float64)[:3, :3], pose.astype(np.float64)

    def bounds(self) -> np.ndarray:
        """The scene's box [2, 3] float64."""
        bounds = self._whole("scene_bounds")
        if bounds.shape != (2, 3):
            raise self._wrong("scene_bounds", "[2, 3]", bounds.shape)
        return bounds.astype(np.float64)

    # --- the room

    def points(self) -> np.ndarray:
        """Points of the room [N, 3] float32."""
        points = self._row("full_xyz_pts", 2)
        if points.shape[1] != 3:
            raise self._wrong("full_xyz_pts", "[points, 3]", points.shape)
        return points.astype(np.float32, copy=False)

    def object_ids(self) -> np.ndarray:
        """Object of each point [N] int32."""
        ids = self._row("full_objid_pts", 1).astype(np.int32, copy=False)
        if len(ids) != self._shape("full_xyz_pts")[0]:
            raise self._wrong("full_objid_pts", f"{self._shape('full_xyz_pts')[0]} points", ids.shape)
        return ids

    def labels_of_ids(self) -> list[str]:
        """`name[id]` of each id, as the file has them."""
        return [entry.decode("utf-8") for entry in self._whole("objid_to_class")]

    @property
    def classes(self) -> dict[int, str]:
        """Class name of each object id."""
        return {number: entry.split("[")[0].strip() for number, entry in enumerate(self.labels_of_ids())}

    def visible_labels(self) -> list[str] | None:
        """Class names that are seen, as `add_saliencies` noted them; None before."""
        if not self._has("visible_scene_obj_labels"):
            return None
        return [entry.decode("utf-8") for entry in self._whole("visible_scene_obj_labels")]

    def descriptions(self) -> Descriptions:
        """All descriptions."""
        texts = []
        for name in _DESCRIPTION_TEXTS:
            found = self._whole(f"descriptions/{name}")
            texts.append(tuple(t.decode("utf-8") if isinstance(t, bytes) else str(t) for t in found))
        ids = self._whole("descriptions/target_obj_id").astype(np.int64)
        counts = {len(ids), *(len(column) for column in texts)}
        if len(counts) > 1:
            raise InputError(f"{self.path}: data/descriptions: columns of unequal length {sorted(counts)}")
        targets, relations, references, target_materials, reference_materials = texts
        return Descriptions(targets, relations, references, ids, target_materials, reference_materials)

    def tsdf(self) -> np.ndarray:
        """The stored TSDF as a cube [G, G, G] float32."""
        values = self._row("tsdf_value_pts", 1)
        side = round(len(values) ** (1 / 3))
        if side**3 != len(values):
            raise self._wrong("tsdf_value_pts", "the voxels of a cube", values.shape)
        return values.astype(np.float32, copy=False).reshape(side, side, side)

    def tsdf_points(self) -> np.ndarray:
        """Scene points [V, 3] float32 of the stored TSDF's voxels."""
        return self._row("tsdf_xyz_pts", 2).astype(np.float32, copy=False)

    # --- relevancies

    def has_saliencies(self) -> bool:
        """Whether relevancy maps have been added."""
        return self._has("saliencies")

    def saliency_sets(self) -> list[tuple[str, str]]:
        """The (image, config) pairs that have maps."""
        names = self._dataset("saliencies") if self.has_saliencies() else {}
        return [(image, config) for image in IMAGES for config in CONFIGS if f"{image}|{config}" in names]

    def text_labels(self, image: str = "rgb", config: str = "ours") -> list[str]:
        """The labels that have maps, sorted, without the last, "mean"."""
        if (image, config) not in self._text_labels:
            field = _of(image, config, "|saliency_text_labels")
            labels = [entry.decode("utf-8") for entry in self._whole(field)]
            if not labels or labels[-1] != MEAN:
                raise InputError(f"{self.path}: data/{field}: expected labels that end with {MEAN!r}")
            self._text_labels[image, config] = labels[:-1]
        return list(self._text_labels[image, config])

    def text_features(self, image: str = "rgb", config: str = "ours") -> np.ndarray:
        """Text features [L + 1, D] float32, the last of "mean"."""
        found = self._whole(_of(image, config, "|saliency_text_label_features"))
        return found.astype(np.float32, copy=False)

    def maps(self, image: str, config: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Maps [n, h, w] float32 of these positions of `text_labels` (the number of labels = that of the mean)."""
        references = self._dataset(_of(image, config))
        field = _of(image, config)
        if len(rows) and max(rows) >= len(references):
            raise self._wrong(field, f"at least {max(rows) + 1} maps", references.shape)
        return self._maps(field, [references[int(row)] for row in rows])

    def mean_map(self, image: str, config: str, labels: int, *, released: bool = True) -> np.ndarray:
        """The mean over the `labels` maps [h, w] float32.

        released: row number `labels` of the root dataset, as the released code reads it: the mean of rgb|ours,
        whatever image and config are (the released models were trained so); else that of (image, config).
        """
        if not released:
            return np.asarray(self.maps(image, config, [labels])[0])
        root = self._file.get("saliencies")
        if not isinstance(root, h5py.Dataset) or len(root) <= labels:
            raise InputError(
                f"{self.path}: saliencies: expected the mean map in row {labels}, found no such row"
            )
        return self._read("saliencies", lambda: root[labels]).astype(np.float32, copy=False)

    def saliency(self, image: str = "rgb", config: str = "ours", *, released_mean: bool = True) -> Saliency:
        """All maps of an image under a config, with labels and text features; released_mean: see `mean_map`."""
        labels = self.text_labels(image, config)
        features = self.text_features(image, config)
        mean = self.mean_map(image, config, len(labels), released=released_mean)
        maps = self.maps(image, config, range(len(labels)))
        return Saliency(maps, mean, tuple(labels), features[:-1], features[-1])

    # --- reading

    def arrays(self) -> SceneArrays:
        """Everything but the relevancies."""
        intrinsics, pose = self.camera()
        return SceneArrays(
            rgb=self.rgb(),
            depth=self.depth(),
            segmentation=self.segmentation(),
            intrinsics=intrinsics,
            pose=pose,
            bounds=self.bounds(),
            points=self.points(),
            object_ids=self.object_ids(),
            class_names=list(self.classes.values()),
            descriptions=self.descriptions(),
            tsdf_points=self.tsdf_points(),
            tsdf_values=self._row("tsdf_value_pts", 1),
            randomized_rgb=self.rgb("domain_randomized_rgb") if self.has_randomized() else None,
        )

    def _has(self, field: str) -> bool:
        return f"data/{field}" in self._file

    def _dataset(self, field: str) -> Any:
        try:
            return self._file[f"data/{field}"]
        except (KeyError, OSError, RuntimeError):
            saliency = field.startswith("saliencies/")
            advice = " (run generate_relevancy.py)" if saliency and not self._has("saliencies") else ""
            raise InputError(f"{self.path}: data/{field}: no such field{advice}") from None

    def _whole(self, field: str) -> np.ndarray:
        dataset = self._dataset(field)
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(f"{self.path}: data/{field}: expected an array, found a group")
        return np.asarray(self._read(f"data/{field}", lambda: dataset[()]))

    def _target(self, field: str, reference: Any) -> tuple[Any, int]:
        """The root dataset and row of a region reference."""
        if not isinstance(reference, h5py.RegionReference) or not reference:
            raise InputError(f"{self.path}: data/{field}: expected a region reference, found none")
        dataset = self._read(f"data/{field}", lambda: self._file[reference])
        if not isinstance(dataset, h5py.Dataset) or dataset.name is None:  # None: taken out of the file
            raise InputError(f"{self.path}: data/{field}: its region reference points to no array")
        region = h5py.h5r.get_region(reference, self._file.id)
        low, high = region.get_select_bounds() if region.get_select_npoints() else ((0,), (-1,))
        if low[0] != high[0] or region.get_select_npoints() != np.prod(dataset.shape[1:]):
            raise InputError(f"{self.path}: data/{field}: expected a region of one row of {dataset.name}")
        return dataset, int(low[0])

    def _reference(self, field: str) -> Any:
        references = self._dataset(field)
        if not isinstance(references, h5py.Dataset) or not references.shape or references.shape[0] < 1:
            raise InputError(f"{self.path}: data/{field}: expected a region reference, found none")
        return self._read(f"data/{field}", lambda: references[0])

    def _shape(self, field: str) -> tuple[int, ...]:
        return tuple(self._target(field, self._reference(field))[0].shape[1:])

    def _row(self, field: str, dimensions: int | None = None) -> np.ndarray:
        dataset, row = self._target(field, self._reference(field))
        found = np.asarray(self._read(f"data/{field}", lambda: dataset[row]))
        if dimensions is not None and found.ndim != dimensions:
            raise self._wrong(field, f"{dimensions} dimensions", found.shape)
        return found

    def _maps(self, field: str, references: Sequence[Any]) -> np.ndarray:
        """The maps of region references; neighbours in the root dataset are read at once."""
        targets = [self._target(field, reference) for reference in references]
        if not targets:
            return np.zeros((0, 1, 1), np.float32)
        dataset, rows = targets[0][0], [row for _, row in targets]
        if rows == list(range(rows[0], rows[0] + len(rows))):
            found = self._read(f"data/{field}", lambda: dataset[rows[0] : rows[-1] + 1])
        else:
            found = np.stack([self._read(f"data/{field}", lambda row=row: dataset[row]) for row in rows])
        return np.asarray(found, np.float32)

    def _picture(self, field: str, found: np.ndarray) -> np.ndarray:
        if found.ndim != 3 or found.shape[2] != 3 or found.dtype != np.uint8:
            raise self._wrong(field, "a picture [H, W, 3] uint8", found.shape)
        if found.shape[:2] != self._shape("depth"):
            raise self._wrong(field, f"the size of depth, {list(self._shape('depth'))}", found.shape)
        return found

    def _read(self, field: str, read: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InputError(f"{self.path}: {field}: cannot be read: {first_line(error)}") from None

    def _wrong(self, field: str, expected: str, shape: tuple[int, ...]) -> InputError:
        return InputError(f"{self.path}: data/{field}: expected {expected}, found shape {list(shape)}")


def has_saliencies(path: str | Path) -> bool:
    """Whether relevancy maps have been added to a scene file."""
    with SceneFile(path) as scene:
        return scene.has_saliencies()


def _of(image: str, config: str, suffix: str = "") -> str:
    return f"saliencies/{image}|{config}{suffix}"
