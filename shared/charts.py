"""Charts as inline SVG, drawn by matplotlib; text and axes take the colour of the page, light or dark."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#123456"  # replaced by currentColor in the SVG
COLOURS = ("#3d85d1", "#e0862b", "#35a06a", "#d25b5b", "#9273cf", "#a8804f", "#1fa3b0", "#8a8f98")
Points = Sequence[tuple[float, float]]


def dots(
    groups: Mapping[str, Mapping[str, Sequence[float]]], y_title: str, salt: str, y_min: float | None = None
) -> str:
    """A dot per number and a bar at their mean, for each label of each group: group -> label -> numbers."""
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    most = sum(len(group) + 1 for group in groups.values())
    figure, (axes,) = new_figure(width=min(9.0, 2.2 + 0.34 * most), height=3.3)
    at, ticks = 0.0, []
    for name, group in groups.items():
        first = at
        for label, numbers in group.items():
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            finite = [n for n in numbers if math.isfinite(n)]
            if finite:
                mean = math.fsum(finite) / len(finite)
                axes.bar(at, mean, width=0.78, color=colour, alpha=0.32, linewidth=0)
                axes.plot(
                    [at - 0.39, at + 0.39], [mean, mean], color=colour, linewidth=2.2, solid_capstyle="butt"
                )
                axes.plot([at] * len(finite), finite, "o", color=colour, markersize=4, markeredgewidth=0)
            at += 1
        ticks.append(((first + at - 1) / 2, name))
        at += 0.9
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(y_title)
    axes.set_ylim(bottom=y_min)
    for label in labels:
        axes.plot([], [], "s", color=COLOURS[labels.index(label) % len(COLOURS)], label=label)
    legend(axes, len(labels))
    return to_svg(figure, salt)


def lines(
    series: Mapping[str, Sequence[Points]],
    x_title: str,
    y_title: str,
    salt: str,
    markers: bool = False,
    y_min: float | None = None,
) -> str:
    """One line per label: the mean of its samples where they share x, with a band from least to most."""
    figure, (axes,) = new_figure(width=4.7, height=3.1)
    for number, (label, samples) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        by_x: dict[float, list[float]] = {}
        for points in samples:
            for x, y in points:
                if math.isfinite(x) and math.isfinite(y):
                    by_x.setdefault(x, []).append(y)
        xs = sorted(by_x)
        means = [math.fsum(by_x[x]) / len(by_x[x]) for x in xs]
        axes.plot(
            xs, means, color=colour, linewidth=1.8, marker="o" if markers else None, markersize=4, label=label
        )
        if any(len(ys) > 1 for ys in by_x.values()):
            low, high = [min(by_x[x]) for x in xs], [max(by_x[x]) for x in xs]
            axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.set_ylim(bottom=y_min)
    legend(axes, len(series))
    return to_svg(figure, salt)


def new_figure(width: float, height: float, panels: int = 1) -> tuple[Any, Sequence["Axes"]]:
    """A figure (in inches) with panels side by side; everything that is not data is drawn in INK."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9.5, "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK}):
        figure = Figure(figsize=(width, height), layout="constrained")
        every = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axes in every:
        axes.set_facecolor("none")
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(INK)
        axes.tick_params(colors=INK, length=3)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color=INK, alpha=0.14, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, every


def legend(axes: "Axes", count: int) -> None:
    """A legend above the panel, unless there is only one thing in it."""
    if count > 1:
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(count, 5), frameon=False, labelcolor=INK,
            fontsize=9, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip


def to_png(figure: Any) -> bytes:
    """The figure on white, 200 dots per inch."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200, facecolor="white")
    return out.getvalue()


def to_svg(figure: Any, salt: str) -> str:
    """The figure as an <svg> element; `salt` keeps the ids of several charts in one page apart."""
    from matplotlib import rc_context

    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode("utf-8")
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # drawn at its own size in points, shrinking with the page
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 style="max-width:100%;height:auto"', text, count=1)
