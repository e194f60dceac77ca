"""Answers for people and programs: lines on the terminal, JSON, and one HTML page with thumbnails."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projects.vseinfty import figure
from projects.vseinfty.figure import Coefficients
from projects.vseinfty.inference import Answer
from projects.vseinfty.sources import Source, printable_name
from shared import charts
from shared.files import atomic_write, write_json
from shared.index import Index
from shared.page import render_page, thumbnail

MAX_QUERIES_ON_PAGE = 50  # of each direction; the JSON file holds all


@dataclass(frozen=True)
class Searched:
    """What was asked and found in one run of infer."""

    model: str
    source: Source | None
    index: Index | None
    images_for_texts: Sequence[Answer]
    captions: Sequence[str]
    captions_for_images: Sequence[Answer]
    query_source: Source | None  # what the query images are from
    query_positions: Sequence[int]
    coefficients: Coefficients


def as_data(found: Searched) -> dict[str, Any]:
    """Everything as plain data for results.json."""
    index = found.index
    return {
        "model": found.model,
        "index": index
        and {"folder": str(index.folder), "images": len(index.positions), "encoded": index.num_encoded},
        "skipped": [{"name": s.item.name, "reason": s.reason} for s in index.skipped] if index else [],
        "images_for_texts": [_answer_data(a, _image_facts(found.source)) for a in found.images_for_texts],
        "captions_for_images": [
            _answer_data(a, lambda i: {"caption": found.captions[i]}) for a in found.captions_for_images
        ],
        "coefficients": found.coefficients,
    }


def _answer_data(answer: Answer, facts: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    matches = [
        {
            "rank": rank,
            "score": round(match.score, 6),
            **facts(match.position),
            **({} if match.correct is None else {"correct": match.correct}),
        }
        for rank, match in enumerate(answer.matches, 1)
    ]
    return {"query": answer.query, "matches": matches}


def _image_facts(source: Source | None) -> Callable[[int], dict[str, Any]]:
    def facts(position: int) -> dict[str, Any]:
        assert source is not None
        picture, note = source.picture(position), source.note(position)
        found: dict[str, Any] = {"image": source.items[position].name}
        return {
            **found,
            **({"file": printable_name(str(picture))} if picture else {}),
            **({"note": note} if note else {}),
        }

    return facts


def as_text(found: Searched) -> str:
    """Everything as lines for the terminal."""
    lines = []
    data = as_data(found)
    for answer in data["images_for_texts"]:
        lines.append(f"\n{_plain(answer['query'])}")
        lines += [
            _match_line(m, f"{m['image']}{'  ' + m['note'] if 'note' in m else ''}")
            for m in answer["matches"]
        ]
    for answer in data["captions_for_images"]:
        lines.append(f"\n{_plain(answer['query'])}")
        lines += [_match_line(m, m["caption"]) for m in answer["matches"]]
    return "\n".join(lines)


def _match_line(match: Mapping[str, Any], what: str) -> str:
    mark = {True: " *", False: "  ", None: ""}[match.get("correct")]
    return f"  {match['rank']:2}  {match['score']:+.3f}{mark}  {_plain(what)}"


def _plain(text: str) -> str:
    """Without control characters, which a file name could send to the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def write(folder: Path, found: Searched) -> Path:
    """Write results.json, coefficients.png (when there are any) and index.html; returns the page."""
    import markupsafe

    folder.mkdir(parents=True, exist_ok=True)
    drawing = figure.draw(found.coefficients) if found.coefficients else None
    if drawing is not None:
        with atomic_write(folder / "coefficients.png") as file:
            file.write(charts.to_png(drawing))
    write_json(folder / "results.json", as_data(found))
    html = render_page(
        Path(__file__).with_name("templates") / "infer.html.j2",
        model=found.model,
        index=found.index,
        texts=[_text_view(answer, found) for answer in found.images_for_texts[:MAX_QUERIES_ON_PAGE]],
        images=_image_views(found),
        marked=any(
            m.correct is not None
            for a in [*found.images_for_texts, *found.captions_for_images]
            for m in a.matches
        ),
        left_out=max(0, len(found.images_for_texts) - MAX_QUERIES_ON_PAGE)
        + max(0, len(found.captions_for_images) - MAX_QUERIES_ON_PAGE),
        drawing=None if drawing is None else markupsafe.Markup(charts.to_svg(drawing, "theta")),
    )
    page = folder / "index.html"
    with atomic_write(page) as file:
        file.write(html.encode("utf-8", errors="replace"))
    return page


def _text_view(answer: Answer, found: Searched) -> dict[str, Any]:
    source = found.source
    assert source is not None
    cards = [
        {
            "name": source.items[match.position].name,
            "note": source.note(match.position),
            "score": match.score,
            "correct": match.correct,
            "thumbnail": thumbnail(source.picture(match.position)),
        }
        for match in answer.matches
    ]
    return {"query": answer.query, "cards": cards}


def _image_views(found: Searched) -> list[dict[str, Any]]:
    views = []
    pairs = zip(found.captions_for_images, found.query_positions, strict=True)
    for answer, position in list(pairs)[:MAX_QUERIES_ON_PAGE]:
        assert found.query_source is not None
        views.append(
            {
                "query": answer.query,
                "note": found.query_source.note(position),
                "thumbnail": thumbnail(found.query_source.picture(position)),
                "matches": [
                    {"caption": found.captions[m.position], "score": m.score, "correct": m.correct}
                    for m in answer.matches
                ],
            }
        )
    return views
