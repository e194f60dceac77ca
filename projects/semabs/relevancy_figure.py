"""Relevancy maps as pictures: the released grid, and heat laid over a photograph."""

import math
import os
from collections.abc import Sequence

import numpy as np

from projects.semabs.completion_post import jet
from shared.files import atomic_write

ROWS = 4
_SHOWN = 0.5  # a map times its factor (50 in the released models) that is drawn as full: 0.01 as released


def full_scale(relevancy_scale: float) -> float:
    """The relevancy that is drawn as full, for networks that multiply maps by `relevancy_scale`."""
    return _SHOWN / relevancy_scale


def write_grid(
    path: str | os.PathLike[str],
    maps: np.ndarray,
    labels: Sequence[str],
    *,
    vmin: float = 0.0,
    vmax: float = 0.01,
) -> None:
    """A PNG of maps [L, H, W] in four rows, each under its label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, math.ceil(len(labels) / ROWS))
    height, width = maps.shape[1:]
    figure = Figure(figsize=(3 * columns * width / height + 0.2, 3.3 * ROWS))
    FigureCanvasAgg(figure)
    axes = figure.subplots(ROWS, columns, squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.axis("off")
        if place < len(labels):
            axis.imshow(maps[place], vmin=vmin, vmax=vmax, cmap="jet")
            axis.set_title(_wrapped(labels[place]), fontsize=9, parse_math=False)
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=80)


def heat(rgb: np.ndarray, relevancy: np.ndarray, *, full: float) -> np.ndarray:
    """A photograph uint8 [H, W, 3] with one map [H, W] over it, 0 transparent and `full` or more opaque red."""
    share = np.clip(relevancy / full, 0, 1)
    weight = (0.15 + 0.6 * share)[..., None]
    return (rgb * (1 - weight) + jet(share) * weight).astype(np.uint8)


def strongest(maps: np.ndarray) -> float:
    """A relevancy for `heat` to draw as full: what one pixel in 200 of the maps [L, H, W] reaches."""
    return max(float(np.quantile(maps, 0.995)), 1e-12)


def _wrapped(text: str, width: int = 30) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:3])
