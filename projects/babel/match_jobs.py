"""The two kinds of work of match.py: a split with known correspondences, and the user's photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from projects.babel import matching, photo_matching, sources
from projects.babel.correspondence import Correspondence
from projects.babel.data import DataSet
from projects.babel.expectations import listed
from projects.babel.graph import image_graph
from projects.babel.inference import photo_items
from projects.babel.match_pages import pair_cards, photo_card, search_cards, write_page
from projects.babel.matching import Choice, Scoring
from projects.babel.pictures import PictureStore, present
from projects.babel.splits import image_id, read_split
from projects.babel.trained import Trained
from shared.errors import InputError
from shared.files import write_json
from shared.runtime import Runtime


def choose_layers(given: str | Sequence[str] | None, model: Trained) -> tuple[str, ...]:
    """The layers asked for; by default that of the run's 3D loss, else decoder (or what the net has)."""
    if given is not None:
        return tuple(listed(given))
    trained_at = ((model.settings.get("loss") or {}).get("correspondence") or {}).get("layer")
    known = model.model.feature_names
    return (trained_at if trained_at in known else "decoder" if "decoder" in known else known[-1],)


def match_split(
    settings: Mapping[str, Any],
    data: DataSet,
    model: Trained,
    folder: Path,
    rt: Runtime,
    *,
    choice: Choice,
    scoring: Scoring,
) -> dict[str, Any]:
    """Measure matching on pairs of a split, write results.json and the page; returns scores by layer.

    InputError: no such split, no correspondences, images that are missing, no pair with common points.
    """
    name = settings["split"]
    file = data.split_file(name)
    if data.correspondence is None:
        raise InputError("data.correspondence: is null; matching is measured on known correspondences")
    root = Path(data.root)
    rows, missing = present(read_split(file, tuple(data.concepts)), root, skip=data.skip_missing, source=file)
    correspondence = Correspondence.open(data.correspondence, cache=data.cache)
    images = correspondence.indices_of([image_id(row.path) for row in rows])
    neighbours = image_graph(correspondence, images, data.graph_threshold)
    pairs = matching.choose_pairs(correspondence, neighbours, images, seed=settings["seed"], **asdict(choice))
    store = PictureStore([root / row.path for row in rows])
    layers = choose_layers(settings["layers"], model)
    found = matching.encode(
        model.model,
        pairs,
        store.read,
        layers=layers,
        size=settings["size"] or data.size,
        batch_size=settings["batch_size"],
        workers=settings["workers"],
        runtime=rt,
    )
    table = {
        layer: matching.scores(features, pairs, seed=settings["seed"], **asdict(scoring))
        for layer, features in found.items()
    }
    facts = {"model": model.name, "split": name}
    facts |= left_out(len(missing), correspondence.num_outside)
    count, names = settings["examples"], [image_id(row.path) for row in rows]
    shown = found[layers[0]]
    write_json(folder / "results.json", {"metrics": {"matching": table}, **facts, "seed": settings["seed"]})
    write_page(
        folder / "index.html",
        title="Matches between images",
        facts={**facts, "pictures show layer": layers[0]},
        table=table,
        cards=list(pair_cards(shown, pairs, store.read, names, count, within=scoring.within)),
        searches=list(search_cards(shown, pairs, store.read, count, seed=settings["seed"])),
        within=scoring.within,
    )
    return table


def left_out(missing: int, outside: int) -> dict[str, str]:
    """What was skipped, for people and results.json; nothing where there is nothing."""
    counts = {"missing images": missing, "keypoints outside their picture": outside}
    return {what: str(count) for what, count in counts.items() if count}


def match_photos(
    settings: Mapping[str, Any], model: Trained, folder: Path, rt: Runtime
) -> list[dict[str, Any]]:
    """Match every two of the photographs, write drawings, results.json and the page; returns a record per pair."""
    files = [item.picture for item in photo_items(settings["photos"])]
    (layer, *others) = choose_layers(settings["layers"], model)
    if others:
        raise InputError(f"layers: one layer for photographs, found {len(others) + 1}")
    side = settings["size"] or sources.training_side(model)
    cards, records = [], []
    for number, matched in enumerate(
        photo_matching.match_photographs(
            model.model, files, layer=layer, side=side, points=settings["points"], runtime=rt
        ),
        1,
    ):
        cards.append(photo_card(folder, number, matched))
        points = [
            {"first": one[:2], "second": one[2:], "similarity": float(similarity)}
            for one, similarity in zip(matched.rowcol.tolist(), matched.similarity, strict=True)
        ]
        names = {"first": str(matched.first), "second": str(matched.second)}
        records.append({**names, "picture": cards[-1]["file"], "matches": points})
    facts = {"model": model.name, "layer": layer}
    write_json(folder / "results.json", {**facts, "coordinates": "row, column; fractions", "pairs": records})
    write_page(folder / "index.html", title="Matches between photographs", facts=facts, table={}, cards=cards)
    return records
