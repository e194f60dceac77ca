"""The released picture of `generate_relevancy.py image`: heat under the photograph, one panel per label."""

import os
from collections.abc import Sequence

import numpy as np

SIDE = 3  # panels along a side
LOW, RANGE = 0.002, 0.006  # relevancies, minus their mean over labels, from here to full heat
OPACITY = 0.7  # of the photograph where there is no heat


def heat_strength(maps: np.ndarray, heat: tuple[float, float] = (LOW, RANGE)) -> np.ndarray:
    """Relevancies minus their mean over labels [L, H, W] -> 0 (no heat) to 1."""
    low, span = heat
    return np.clip((maps - low) / span, 0, 1)


def panels(image: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] over the colours of heat [L, H, W] in 0..1, more opaque where it is cold: uint8 [L, H, W, 3]."""
    from matplotlib import colormaps

    opacity = (OPACITY * (1 - strength))[..., None]
    colours = colormaps["jet"](strength)[..., :3] * 255
    return np.rint(opacity * image + (1 - opacity) * colours).astype(np.uint8)


def write_panels(
    path: str | os.PathLike[str],
    image: np.ndarray,
    maps: np.ndarray,
    labels: Sequence[str],
    heat: tuple[float, float] = (LOW, RANGE),
) -> int:
    """A PNG of the first nine labels, 3 x 3 as released; how many are shown.

    maps: float [L, H, W], minus their mean over labels. heat: where it starts, and how much more is full.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from shared.files import atomic_write

    shown = min(len(labels), SIDE**2)
    pictures = panels(image, heat_strength(maps[:shown], heat))
    figure = Figure(figsize=(3 * SIDE * image.shape[1] / image.shape[0], 3.3 * SIDE))
    FigureCanvasAgg(figure)
    for place, axis in enumerate(figure.subplots(SIDE, SIDE).flat):
        axis.axis("off")
        if place < shown:
            axis.imshow(pictures[place])
            axis.set_title(labels[place][:40], fontsize=10, parse_math=False)
    figure.tight_layout()
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
    return shown
