"""What was found in pictures, for people and programs: lines on the terminal, results.json, one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from projects.babel import masks
from projects.babel.inference import Segmented
from projects.babel.palette import concept_colours
from shared.errors import InputError
from shared.files import atomic_write, write_json
from shared.page import render_page, thumbnail_of

_SIDE = 360  # pixels of a picture on the page
_STRONGEST = 3  # concepts on the terminal
_SKIPPED = 200  # lines on the page


@dataclass
class Report:
    """Collects pictures; holds the pixels of none, and thumbnails of the first `examples`.

    Attributes:
        title, model: of the page, and of the model.
        concepts: names of labels 1, 2, ...
        folder: what the files' names are relative to.
        skipped: a line per picture that could not be read.
    """

    title: str
    model: str
    concepts: Sequence[str]
    folder: Path
    examples: int = 24
    skipped: list[str] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)

    def add(self, found: Segmented) -> None:
        """Note a picture."""
        names = ("background", *self.concepts)
        shares = found.shares(len(names))
        scores = dict(zip(self.concepts, (round(float(s), 6) for s in found.scores), strict=True))
        picture: dict[str, Any] = {
            "name": printable(found.item.name),
            "picture": printable(str(found.item.picture)),
            "size": [found.pixels.shape[1], found.pixels.shape[0]],
            "scores": scores,
            "files": {kind: printable(name) for kind, name in found.files.items()},
        }
        if found.labels is not None:
            picture["shares"] = {
                name: round(float(share), 6) for name, share in zip(names, shares, strict=True) if share
            }
        self.pictures.append(picture)
        if len(self.cards) < self.examples:
            self.cards.append(self._card(found, picture, shares))

    def line(self) -> str:
        """The last picture for the terminal: its strongest concepts, and what its mask holds."""
        last = self.pictures[-1]
        best = sorted(last["scores"].items(), key=lambda one: -one[1])[:_STRONGEST]
        text = "  ".join(f"{name} {score:.2f}" for name, score in best)
        shares = [f"{name} {100 * share:.0f} %" for name, share in last.get("shares", {}).items()]
        return f"{last['name']}: {text}" + (f"   mask: {', '.join(shares)}" if shares else "")

    def data(self, **facts: Any) -> dict[str, Any]:
        """Plain data for results.json."""
        return {
            "model": self.model, **facts, "concepts": list(self.concepts),
            "folder": printable(str(self.folder)), "skipped": self.skipped, "pictures": self.pictures,
        }  # fmt: skip

    def check(self) -> None:
        """InputError when not one picture could be read."""
        if not self.pictures:
            raise InputError(
                f"none of the {len(self.skipped)} pictures can be read; the first: {self.skipped[0]}"
            )

    def write(self, folder: Path, **facts: Any) -> Path:
        """Write results.json and index.html; returns the page."""
        write_json(folder / "results.json", self.data(**facts))
        colours = concept_colours(len(self.concepts))
        html = render_page(
            Path(__file__).with_name("templates") / "segmented.html.j2",
            title=self.title,
            model=self.model,
            legend=[
                {"name": name, "colour": _css(colour)}
                for name, colour in zip(self.concepts, colours[1:], strict=True)
            ],
            cards=self.cards,
            left_out=len(self.pictures) - len(self.cards),
            folder=printable(str(self.folder)),
            facts=[{"name": name.replace("_", " "), "value": _shown(value)} for name, value in facts.items()],
            skipped=self.skipped[:_SKIPPED],
            skipped_more=max(0, len(self.skipped) - _SKIPPED),
        )
        with atomic_write(folder / "index.html") as file:
            file.write(html.encode("utf-8", errors="replace"))
        return folder / "index.html"

    def _card(self, found: Segmented, picture: Mapping[str, Any], shares: np.ndarray) -> dict[str, Any]:
        colours = concept_colours(len(self.concepts))
        images = [{"title": "picture", "source": thumbnail_of(found.pixels, _SIDE)}]
        if found.labels is not None:
            shown = masks.overlay(found.pixels, found.labels, colours)
            images.append({"title": "predicted", "source": thumbnail_of(shown, _SIDE)})
        truth = _true_mask(found)
        if truth is not None:
            shown = masks.overlay(found.pixels, np.where(truth > len(self.concepts), 0, truth), colours)
            images.append({"title": "true", "source": thumbnail_of(shown, _SIDE)})
        order = np.argsort(-found.scores, kind="stable")
        concepts = [
            {
                "name": self.concepts[i],
                "score": float(found.scores[i]),
                "share": float(shares[i + 1]),
                "colour": _css(colours[i + 1]),
            }
            for i in order.tolist()
        ]
        return {"name": picture["name"], "images": images, "concepts": concepts}


def _true_mask(found: Segmented) -> np.ndarray | None:
    """The true mask of a listed picture; None without one that fits (evaluation reports that, not a page)."""
    if found.item.truth is None:
        return None
    try:
        truth = masks.read_mask(found.item.truth)
    except InputError:
        return None
    return truth if truth.shape == found.pixels.shape[:2] else None


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _css(colour: np.ndarray) -> str:
    return f"rgb({colour[0]}, {colour[1]}, {colour[2]})"


def printable(text: str) -> str:
    """A text that can be written as UTF-8 and shown on a terminal, whatever a file is called."""
    return "".join(c if c.isprintable() else "?" for c in text)
