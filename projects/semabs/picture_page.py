"""What infer.py found in one picture: heat maps, maps as numbers, the completed scene, one HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from projects.semabs import films, palette, relevancy_figure
from projects.semabs.scene_pickle import file_name
from projects.semabs.visualization import LabelMaps
from shared.files import atomic_write, save_npz, write_json
from shared.page import render_page, thumbnail_of

_SIDE = 420  # pixels of a picture on the page
_VIEW = 640  # pixels of a rendered view
_TURNS = (0.0, 0.12, 0.88)  # of the circle, for the views on the page


def write_relevancies(folder: Path, picture: np.ndarray, found: LabelMaps) -> list[dict[str, Any]]:
    """relevancies.npz, and <label>.png with heat over the picture; returns a card per label."""
    import cv2

    save_npz(folder / "relevancies.npz", maps=found.maps, labels=np.array(found.labels))
    full, cards, taken = relevancy_figure.strongest(found.maps), [], set()
    for label, relevancy in zip(found.labels, found.maps, strict=True):
        heat = relevancy_figure.heat(picture, relevancy, full=full)
        name = f"{file_name(label)}.png"
        while name in taken:
            name = f"_{name}"
        taken.add(name)
        with atomic_write(folder / name) as file:
            file.write(cv2.imencode(".png", heat[:, :, ::-1])[1].tobytes())
        row, column = np.unravel_index(int(relevancy.argmax()), relevancy.shape)
        cards.append(
            {
                "label": label,
                "file": name,
                "strongest": float(relevancy.max()),
                "at": [int(column), int(row)],
                "heat": heat,
            }
        )
    return cards


def completion_views(folder: Path) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Pictures of the completed meshes in a folder from several sides, and their legend."""
    stage, names, colours = films.completion_stage(folder)
    views = [stage.picture(turn, _VIEW) for turn in _TURNS]
    legend = [{"name": name, "colour": palette.css(one)} for name, one in zip(names, colours, strict=True)]
    return views, legend


def write_page(
    folder: Path,
    picture: np.ndarray,
    cards: list[dict[str, Any]],
    *,
    title: str,
    facts: Mapping[str, Any],
    note: Mapping[str, Any] | None = None,
    completion: Path | None = None,
) -> Path:
    """results.json and index.html; `completion`: folder of the meshes, `note` its scene.json."""
    plain = [{key: value for key, value in card.items() if key != "heat"} for card in cards]
    results = {**facts, "picture_size": [picture.shape[1], picture.shape[0]], "labels": plain}
    views: list[str] = []
    legend: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    if note is not None and completion is not None:
        results["completion"] = dict(note)
        if note["files"]:
            pictures, legend = completion_views(completion)
            views = [thumbnail_of(view, _VIEW) for view in pictures]
        rows = [
            {
                "label": label,
                "voxels": note["voxels"][label],
                "file": f"{completion.name}/{note['files'][label]}" if label in note["files"] else "",
            }
            for label in note["labels"]
        ]
    write_json(folder / "results.json", results)
    html = render_page(
        Path(__file__).with_name("templates") / "picture.html.j2",
        title=title,
        facts=[{"name": name, "value": str(value)} for name, value in facts.items()],
        picture=thumbnail_of(picture, _SIDE),
        cards=[{**card, "heat": thumbnail_of(card["heat"], _SIDE)} for card in cards],
        views=views,
        legend=legend,
        rows=rows,
        completed=note is not None,
    )
    with atomic_write(folder / "index.html") as file:
        file.write(html.encode("utf-8", errors="replace"))
    return folder / "index.html"
