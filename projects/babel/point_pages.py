"""Fused reconstructions for people and programs: point clouds, results.json, one HTML page with views of the points."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel import views
from projects.babel.colmap import UNKNOWN, Model
from projects.babel.fusing import Fused
from projects.babel.palette import concept_colours
from projects.babel.point_cloud import write_ply
from shared.errors import InputError
from shared.files import atomic_write, read_image, write_json
from shared.page import render_page, thumbnail_of

_SIDE = 420  # pixels of a picture on the page
_UNSEEN = (90, 90, 90)
FORMATS = ("binary", "ascii")


def colours_of(labels: np.ndarray, num_concepts: int) -> np.ndarray:
    """RGB uint8 [N, 3] of classes; dark gray for UNKNOWN."""
    table = np.full((256, 3), _UNSEEN, np.uint8)
    table[: num_concepts + 1] = concept_colours(num_concepts)
    return table[labels]


def write_cloud(
    path: Path, fused: Fused, concepts: Sequence[str], *, kind: str = "mean", format: str = "binary"
) -> None:
    """Write the points that a view sees, coloured by their class.

    Further properties: label, confidence (`Fusion.confidence`), views, and true_label where it is known.
    """
    model, labels = fused.reconstruction.model, fused.fusion.labels(kind)
    seen = labels != UNKNOWN
    extra = {
        "label": labels[seen],
        "confidence": fused.fusion.confidence(kind)[seen],
        "views": fused.fusion.seen[seen].astype(np.float32),  # COLMAP reads no integers
    }
    if fused.reconstruction.truth is not None:
        extra["true_label"] = fused.reconstruction.truth[seen]
    names = ", ".join(f"{i} {name}" for i, name in enumerate(("background", *concepts)))
    write_ply(
        path,
        model.xyz[seen].astype(np.float32),
        colours_of(labels[seen], len(concepts)),
        extra=extra,
        ascii=format == "ascii",
        comments=(f"labels: {names}",),
    )


def view_of(model: Model, image: int, colours: np.ndarray, *, side: int = _SIDE) -> np.ndarray:
    """The points as the camera of an image sees them (without distortion; a panorama's its forward
    view), near ones over far ones: RGB [H, W, 3]."""
    import pycolmap

    camera = model.cameras[model.camera_of[image]]
    stored = pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=list(camera.params)
    )
    scale = side / max(camera.width, camera.height)
    pose = model.cam_from_world[image]
    found = model.xyz @ pose[:, :3].T + pose[:, 3]
    rows = np.flatnonzero(found[:, 2] > 1e-6)
    focal = float(max(camera.width, camera.height))
    around = np.array([[focal, 0, camera.width / 2], [0, focal, camera.height / 2], [0, 0, 1]])
    pixels = found[rows] @ (stored.calibration_matrix() if stored.is_perspective() else around).T
    places = np.floor(scale * pixels[:, :2] / pixels[:, 2:]).astype(np.int64)
    height, width = round(scale * camera.height), round(scale * camera.width)
    radius = int(np.clip(0.12 * (height * width / max(1, len(rows))) ** 0.5, 1, 5))  # few points: large dots
    inside = ((places >= radius) & (places < [width - radius, height - radius])).all(axis=1)
    rows, places = rows[inside], places[inside]
    order = np.argsort(-found[rows, 2], kind="stable")  # later writes win
    shown = np.full((height, width, 3), 255, np.uint8)
    offsets = range(-radius, radius + 1)
    for down, right in itertools.product(offsets, offsets):
        if down * down + right * right <= radius * radius + 1:
            shown[places[order, 1] + down, places[order, 0] + right] = colours[rows[order]]
    return shown


class Report:
    """Writes one point cloud per reconstruction, and keeps a line about each and thumbnails of the first ones."""

    def __init__(
        self,
        folder: Path,
        concepts: Sequence[str],
        *,
        kind: str = "mean",
        format: str = "binary",
        examples: int = 8,
    ) -> None:
        if format not in FORMATS:
            raise InputError(f"format: expected {' or '.join(FORMATS)}, found {format!r}")
        self.folder, self.concepts = folder, tuple(concepts)
        self.kind, self.format, self.examples = kind, format, examples
        self.rows: list[dict[str, Any]] = []
        self.cards: list[dict[str, Any]] = []

    def add(self, fused: Fused) -> str:
        """Write the cloud of a reconstruction; a line about it for the terminal."""
        name = f"{fused.reconstruction.name}.ply"
        write_cloud(self.folder / name, fused, self.concepts, kind=self.kind, format=self.format)
        row: dict[str, Any] = {
            "name": fused.reconstruction.name,
            "file": name,
            "points": len(fused.fusion.seen),
            "seen": int((fused.fusion.seen > 0).sum()),
            "views": fused.fusion.views,
            "missing_images": len(fused.missing),
        }
        text = f"{name}: {row['seen']} of {row['points']} points seen in {row['views']} views"
        scores = fused.scores(self.kind)
        if scores is not None and fused.single is not None:
            row["accuracy"] = scores.metrics(self.concepts)["accuracy"]
            row["single_view_accuracy"] = fused.single.metrics(self.concepts)["accuracy"]
            text += f"; right: {row['accuracy']:.1f} %, of single views {row['single_view_accuracy']:.1f} %"
        if fused.missing:
            text += f"; {len(fused.missing)} images missing"
        self.rows.append(row)
        if len(self.cards) < self.examples:
            self.cards.append({"name": row["name"], "text": text, "images": list(self._images(fused))})
        return text

    def _images(self, fused: Fused) -> list[dict[str, str]]:
        """What the image with the most points shows: photograph, predicted and true classes of the points."""
        model, files = fused.reconstruction.model, fused.reconstruction.files
        counts = np.diff(model.offsets) * np.array([file is not None for file in files])
        image = int(counts.argmax())
        shown = {}
        file = files[image]
        if file is not None and file.suffix != ".png":
            height, width = model.size(image)
            scale = _SIDE / max(height, width)
            size = (round(scale * height), round(scale * width))
            shown["photograph"] = views.resized(read_image(file, exif=False), size)
        shown["predicted"] = view_of(
            model, image, colours_of(fused.fusion.labels(self.kind), len(self.concepts))
        )
        if fused.reconstruction.truth is not None:
            shown["true"] = view_of(model, image, colours_of(fused.reconstruction.truth, len(self.concepts)))
        return [{"title": title, "source": thumbnail_of(pixels, _SIDE)} for title, pixels in shown.items()]

    def write(self, metrics: Mapping[str, Any], *, title: str, **facts: Any) -> Path:
        """Write results.json and index.html; returns the page."""
        results = {"metrics": {"fusion": metrics}, **facts, "kind": self.kind, "concepts": self.concepts}
        write_json(self.folder / "results.json", {**results, "reconstructions": self.rows})
        html = render_page(
            Path(__file__).with_name("templates") / "fusion.html.j2",
            title=title,
            facts=[{"name": name, "value": value} for name, value in {"kind": self.kind, **facts}.items()],
            legend=[
                {"name": name, "colour": "#" + bytes(colour.tolist()).hex()}
                for name, colour in zip(
                    ("background", *self.concepts), concept_colours(len(self.concepts)), strict=True
                )
            ],
            table=[
                {"name": kind.replace("_", " "), **metrics[kind]}
                for kind in ("single_view", "majority", "mean")
                if kind in metrics
            ],
            cards=self.cards,
            left_out=len(self.rows) - len(self.cards),
        )
        with atomic_write(self.folder / "index.html") as file:
            file.write(html.encode("utf-8", errors="replace"))
        return self.folder / "index.html"
