"""Results beside the paper's numbers: one self-contained HTML page per paper, and the README's table rows.

`write` makes `<folder>/<paper>.html`, `.md` and `.json`, and renews `index.html` and `results.json` of all.
Pages need nothing from outside: styles, charts and pictures are inline, and everything is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.reproduction.claims import job_label, look_up
from scripts.reproduction.recipe import Chart, Metric, Picture, Recipe
from scripts.reproduction.tables import ScaleReport, all_tables, claim_counts, evidence_rows, markdown
from shared import charts
from shared.errors import InputError
from shared.files import atomic_write, write_json
from shared.page import data_uri, render_page

HEADINGS = {"mini": "On the embedded data", "paper": "At the paper's scale"}
PICTURE_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MAX_CURVE_POINTS = 400


def write(folder: Path, paper: str, recipe: Recipe, scales: Sequence[ScaleReport]) -> Path:
    """Write all files of one paper and renew the index; returns the paper's page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{paper}.html"
    write_json(folder / f"{paper}.json", _as_data(recipe, scales))
    _write_text(folder / f"{paper}.md", markdown(recipe, scales))
    _write_text(page, _paper_page(paper, recipe, scales))
    _write_index(folder)
    return page


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def _write_index(folder: Path) -> None:
    papers = {}
    for file in sorted(folder.glob("*.json")):
        if file.name != "results.json":
            try:
                papers[file.stem] = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                raise InputError(f"{file}: not JSON; remove it and report again") from None
    write_json(folder / "results.json", papers)
    _write_text(folder / "index.html", render_page(_template("index.html.j2"), papers=papers))


def _template(name: str) -> Path:
    return Path(__file__).with_name("templates") / name


def _paper_page(paper: str, recipe: Recipe, scales: Sequence[ScaleReport]) -> str:
    views = []
    for scale in scales:
        plan = recipe.scales[scale.name]
        seconds = [
            float(r["seconds"])
            for r in scale.results.of.values()
            if isinstance(r.get("seconds"), int | float)
        ]
        views.append(
            {
                "id": scale.name,
                "heading": HEADINGS[scale.name],
                "note": plan.note,
                "counts": claim_counts(scale.verdicts),
                "finished": len(scale.results.of),
                "planned": sum(len(plan.seeds_of(run, scale.results.seeds)) for run in plan.runs),
                "seconds": sum(seconds),
                "stale": sorted(job_label(*key) for key in scale.stale),
                "claims": [
                    {"verdict": verdict, "rows": evidence_rows(verdict, scale.results)}
                    for verdict in scale.verdicts
                ],
                "tables": [
                    {"table": table, "rows": rows}
                    for owner, table, rows in all_tables(recipe, scales)
                    if owner is scale
                ],
                "charts": [
                    {"chart": chart, "svg": svg}
                    for chart in plan.charts
                    if (svg := _chart(paper, chart, scale)) is not None
                ],
                "pictures": [
                    {"picture": picture, "uri": uri}
                    for picture in plan.pictures
                    if (uri := _picture(picture, scale))
                ],
                "runs": [_run_row(run, scale) for run in plan.runs],
            }
        )
    return render_page(_template("report.html.j2"), paper=paper, recipe=recipe, scales=views)


def _run_row(run: str, scale: ScaleReport) -> dict[str, Any]:
    seeds = scale.results.scale.seeds_of(run, scale.results.seeds)
    found = [scale.results.of[(run, seed)] for seed in seeds if (run, seed) in scale.results.of]
    seconds = [float(r["seconds"]) for r in found if isinstance(r.get("seconds"), int | float)]
    warnings = [f"{kind}: {count}" for r in found for kind, count in dict(r.get("warnings") or {}).items()]
    return {
        "name": run,
        "done": f"{len(found)} of {len(seeds)}",
        "seconds": f"{sum(seconds) / len(seconds):.0f} s" if seconds else "",
        "command": scale.commands.get(run, ""),
        "warnings": sorted(set(warnings)),
    }


def _picture(picture: Picture, scale: ScaleReport) -> str | None:
    """The picture of the first seed as a data: address; None when the run has not written it."""
    seed = scale.results.scale.seeds_of(picture.run, scale.results.seeds)[0]
    path = scale.folder(picture.run, seed) / picture.file
    if not path.is_file():
        return None
    content = path.read_bytes()
    for magic, media_type in PICTURE_TYPES.items():
        if content.startswith(magic):
            return data_uri(content, media_type)
    raise InputError(f"{path}: expected a PNG or JPEG picture for the report")


def _chart(paper: str, chart: Chart, scale: ScaleReport) -> Any:
    """The chart as markup, or None when none of its runs has been run."""
    import markupsafe

    settings, salt = chart.settings, f"{paper}-{scale.name}-{chart.id}"
    if chart.kind == "dots":
        metric = str(settings["metric"])
        groups = {
            str(name): {
                str(label): scale.results.sample(Metric(run, metric)) or [] for label, run in group.items()
            }
            for name, group in settings["groups"].items()
        }
        if not any(numbers for group in groups.values() for numbers in group.values()):
            return None
        svg = charts.dots(groups, str(settings.get("y_title", metric)), salt, settings.get("y_min"))
    else:
        curves = chart.kind == "curves"
        named = settings["runs"] if curves else settings["lines"]
        read = _curve_points if curves else _line_points
        series = {str(label): read(entry, settings, scale) for label, entry in named.items()}
        if not any(any(points) for points in series.values()):
            return None
        x = str(settings.get("x", "step")) if curves else ""
        titles = str(settings.get("x_title", x)), str(settings.get("y_title", settings.get("metric", "")))
        svg = charts.lines(series, *titles, salt, markers=not curves, y_min=settings.get("y_min"))
    return markupsafe.Markup(svg)


def _curve_points(run: str, settings: Mapping[str, Any], scale: ScaleReport) -> Sequence[charts.Points]:
    """(x, metric) of every line of metrics.jsonl that has both, per seed, thinned to what can be seen."""
    x_key, metric, samples = str(settings.get("x", "step")), str(settings["metric"]), []
    for seed in scale.results.scale.seeds_of(run, scale.results.seeds):
        path = scale.folder(run, seed) / "metrics.jsonl"
        points = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                    points.append((float(record[x_key]), float(record[metric])))
                except (ValueError, KeyError, TypeError):
                    continue  # a line of other metrics, or the torn last line of a killed run
        samples.append(points[:: max(1, len(points) // _MAX_CURVE_POINTS)])
    return samples


def _line_points(
    entry: Mapping[str, Any], settings: Mapping[str, Any], scale: ScaleReport
) -> Sequence[charts.Points]:
    """A metric per x, or the list that one metric is; per seed, or of the entry's own `seed` only."""
    samples = []
    seeds = scale.results.scale.seeds_of(entry["run"], scale.results.seeds)
    for seed in [entry["seed"]] if "seed" in entry else seeds:
        results = scale.results.of.get((entry["run"], seed))
        try:
            if results is None:
                continue
            many = entry.get("metrics")
            ys = [look_up(results, str(m)) for m in many] if many else look_up(results, str(entry["metric"]))
            xs = settings.get("x") if len(settings.get("x") or []) == len(ys) else range(1, len(ys) + 1)
            samples.append([(float(x), float(y)) for x, y in zip(xs or [], ys, strict=True)])
        except (KeyError, TypeError, ValueError):
            continue
    return samples


def _as_data(recipe: Recipe, scales: Sequence[ScaleReport]) -> dict[str, Any]:
    return {
        "title": recipe.title,
        "scales": {
            scale.name: {
                "seeds": list(scale.results.seeds),
                "counts": claim_counts(scale.verdicts),
                "claims": [
                    {
                        "id": v.claim.id,
                        "text": v.claim.text,
                        "why": v.claim.why,
                        "question": v.claim.question,
                        "status": v.status,
                        "reason": v.reason,
                        "evidence": evidence_rows(v, scale.results),
                    }
                    for v in scale.verdicts
                ],
                "runs": {
                    job_label(*key): results.get("metrics") for key, results in scale.results.of.items()
                },
                "stale": sorted(job_label(*key) for key in scale.stale),
            }
            for scale in scales
        },
    }
