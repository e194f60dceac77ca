"""What the released code exports of a trained net for the images of a split.

I images, M keypoints of them, D channels, K = 1 + C classes (0 = background). Nothing is held but one batch and
the flat index of keypoints.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.babel import image_batches, masks
from projects.babel.bilinear_rows import sample_rows
from projects.babel.classification_scores import ClassificationScores, classification_scores
from projects.babel.export_sources import ExportSource
from projects.babel.matching import features_at
from projects.babel.merging import label_map
from projects.babel.outputs import Output
from projects.babel.pickled_dict import write_pickled_dict
from projects.babel.segmenting import Predictor, ViewPlan
from projects.babel.trained import Trained
from shared.errors import InputError
from shared.files import atomic_path, open_npy, save_npz, write_json
from shared.progress import Progress
from shared.runtime import Runtime

TASKS = ("features", "kp_score", "AP", "segmentation", "acc", "kp_feature")
FORMATS = ("npy", "pickle")
_GATHERED = 4096  # points whose vectors are read at a time


@dataclass(frozen=True)
class Exporter:
    """A net, a split, and how they are run.

    layer: of features and kp_feature. size: images are stretched to this side. format: "npy" (arrays and an index) or
    "pickle" (the released {id: vectors}).
    """

    model: Trained
    source: ExportSource
    runtime: Runtime
    layer: str
    size: int
    batch_size: int = 16
    workers: int | None = 0
    format: str = "npy"

    def features(self, base: Path) -> list[Path]:
        """A vector [D] per image: the mean of the layer over the image."""

        def chunks() -> Iterator[np.ndarray]:
            for _, output in self._run((self.layer,)):
                yield output.features[self.layer].float().mean(dim=(2, 3)).cpu().numpy()

        ids = np.array([name.encode() for name in self.source.ids])
        if self.format == "npy":
            return [_stream(_with(base, "_vectors.npy"), chunks(), len(ids)), _index(base, images=ids)]
        path = _with(base, ".pkl")
        rows = (row for chunk in chunks() for row in chunk)
        write_pickled_dict(path, zip(self.source.ids, rows, strict=True))
        return [path]

    def keypoints(self, base: Path, kind: str) -> list[Path]:
        """A vector per keypoint: features [D] of the layer (kp_feature, of unit length) or class scores [K] (kp_score).

        npy: rows image by image, with their points and places. pickle: {point id: [a vector per image]}.
        """
        keypoints = self.source.keypoints()
        chunks = self._at_keypoints(keypoints.offsets, keypoints.rowcol, kind)
        total = len(keypoints.points)
        if self.format == "npy":
            vectors = _stream(_with(base, "_vectors.npy"), chunks, total)
            index = _index(
                base,
                points=keypoints.points,
                point_ids=keypoints.point_ids,
                rows=keypoints.rows,
                rowcol=keypoints.rowcol,
                images=np.array([name.encode() for name in self.source.ids]),
            )
            return [vectors, index]
        path = _with(base, ".pkl")
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base.parent, prefix=".vectors-", suffix=".tmp") as folder:
            found = open_npy(_stream(Path(folder) / "vectors.npy", chunks, total), ndim=2)
            write_pickled_dict(path, _by_point(found, keypoints.points, keypoints.point_ids))
        return [path]

    def segmentation(self, base: Path, *, plan: ViewPlan, labels: str, background_power: float) -> list[Path]:
        """An index mask per image at its own size: PNGs in a folder, or {image id: uint8 [H, W]}."""
        predictor = Predictor(self.model.model, self.runtime, plan)

        def found() -> Iterator[tuple[str, np.ndarray]]:
            with Progress(len(self.source.ids), unit="image", label="masks") as bar:
                for row, name in enumerate(self.source.ids):
                    pixels = self.source.read(row)
                    mask = predictor(pixels).restricted(labels, background_power)
                    yield name, label_map(mask, (pixels.shape[0], pixels.shape[1]))
                    bar.update()

        if self.format == "pickle":
            path = _with(base, ".pkl")
            write_pickled_dict(path, found())
            return [path]
        for name, mask in found():
            masks.write_mask((base / name).with_suffix(".png"), mask)
        return [base]

    def accuracy(self, base: Path) -> tuple[list[Path], ClassificationScores]:
        """Accuracies of the split and what was predicted for each image, as JSON."""
        logits, scores = self._classify()
        concepts = self.model.concepts
        images = {
            name: {"predicted": concepts[best], "first": concepts[first], "right": bool(best == first)}
            for name, best, first in zip(
                self.source.ids, logits.argmax(axis=1).tolist(), self.source.first.tolist(), strict=True
            )
        }
        path = _with(base, ".json")
        write_json(path, {**scores.metrics(concepts), "predictions": images})
        return [path], scores

    def average_precision(self, base: Path) -> tuple[list[Path], ClassificationScores]:
        """A sheet with the average precision and accuracy of each concept, and their means, in percent (.xlsx)."""
        _, scores = self._classify()
        path = _with(base, ".xlsx")
        positives = self.source.labels.sum(axis=0).astype(int)
        rows: list[list[Any]] = [["concept", "AP", "accuracy", "images"]]
        for i, name in enumerate(self.model.concepts):
            rows.append([name, _percent(scores.ap[i]), _percent(scores.class_acc[i]), int(positives[i])])
        rows.append(["mean", _percent(scores.mean_ap), _percent(scores.mean_class_acc), len(self.source.ids)])
        write_sheet(path, "AP", rows)
        return [path], scores

    def _classify(self) -> tuple[np.ndarray, ClassificationScores]:
        logits = np.concatenate([output.scores.float().cpu().numpy() for _, output in self._run(())])
        if not np.isfinite(logits).all():
            raise InputError(f"{self.model.path}: its scores are not finite (a damaged model?)")
        return logits, classification_scores(logits, self.source.first, self.source.labels)

    def _run(self, layers: tuple[str, ...]) -> Iterator[tuple[slice, Output]]:
        count = len(self.source.ids)
        with Progress(count, unit="image", label="images", device=self.runtime.device) as bar:
            for part, output in image_batches.run(
                self.model.model,
                range(count),
                self.source.read,
                layers=layers,
                size=self.size,
                batch_size=self.batch_size,
                workers=self.workers,
                runtime=self.runtime,
            ):
                yield part, output
                bar.update(part.stop - part.start)

    def _at_keypoints(self, offsets: np.ndarray, rowcol: np.ndarray, kind: str) -> Iterator[np.ndarray]:
        wanted = (self.layer,) if kind == "kp_feature" else ()
        for part, output in self._run(wanted):
            maps = output.masks if kind == "kp_score" else output.features[self.layer]
            if maps is None:
                raise InputError(
                    "kp_score: this model classifies pictures, it has no masks (model.kind: cls)"
                )
            counts = np.diff(offsets[part.start : part.stop + 1])
            image = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(maps.device)
            places = rowcol[offsets[part.start] : offsets[part.stop]]
            where = torch.from_numpy(places).to(maps.device)
            yield (
                _scores_at(maps, image, where)
                if kind == "kp_score"
                else _numpy(features_at(maps, image, where))
            )


@torch.inference_mode()
def _scores_at(maps: Tensor, image: Tensor, where: Tensor) -> np.ndarray:
    return _numpy(sample_rows(maps.float(), image, where))


def _numpy(rows: Tensor) -> np.ndarray:
    if not bool(rows.isfinite().all()):
        raise InputError("vectors that are not finite (a damaged model?)")
    return rows.cpu().numpy()


def _stream(path: Path, chunks: Iterator[np.ndarray], total: int) -> Path:
    """Write float32 [total, D] chunk by chunk."""
    with atomic_path(path) as temporary:
        kept, start = None, 0
        for chunk in chunks:
            if kept is None:
                shape = (total, chunk.shape[1])
                kept = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            kept[start : start + len(chunk)] = chunk
            start += len(chunk)
        assert kept is not None
        kept.flush()
    return path


def _by_point(
    vectors: np.ndarray, points: np.ndarray, ids: np.ndarray
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(point id, its vectors in the order of the images), read in blocks."""
    order = np.argsort(points, kind="stable")
    found, starts = np.unique(points[order], return_index=True)
    ends = np.append(starts[1:], len(points))
    for first in range(0, len(found), _GATHERED):
        block = slice(first, first + _GATHERED)
        begin, end = int(starts[first]), int(ends[block][-1])
        rows = vectors[order[begin:end]]
        for point, start, stop in zip(found[block], starts[block] - begin, ends[block] - begin, strict=True):
            yield bytes(ids[point]).decode(), [row.copy() for row in rows[start:stop]]


def write_sheet(path: Path, title: str, rows: list[list[Any]]) -> None:
    """Write an .xlsx file with one sheet; the first row is its head. Text stays text, also where it starts with `=`."""
    import openpyxl

    from shared.files import atomic_write

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = title
    for i, row in enumerate(rows, 1):
        for j, value in enumerate(row, 1):
            cell = sheet.cell(i, j)
            cell.value = value
            if isinstance(value, str):
                cell.data_type = "s"
            elif isinstance(value, float):
                cell.number_format = "0.00"
    with atomic_write(path) as file:
        book.save(file)


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else 100 * float(value)


def _index(base: Path, **arrays: Any) -> Path:
    path = _with(base, "_index.npz")
    save_npz(path, **arrays)
    return path


def _with(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)
