"""The pooling coefficients that a model has learned, drawn as in the paper: theta by position."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from projects.vseinfty.image_encoders import GridEncoder
from projects.vseinfty.model import VSEModel
from projects.vseinfty.pooling import GPO, AveragePooling, KMaxPooling, MaxPooling
from shared import charts

Coefficients = dict[str, dict[int, list[float]]]  # branch -> set size -> theta_1 .. theta_size
BRANCHES = ("image", "text")
# regions: BUTD keeps 10 to 100; grids: images of 256, 384 and 512 pixels; text: tokens of a caption
DEFAULT_SIZES = {"regions": (12, 24, 36), "grid": (64, 144, 256), "text": (8, 13, 20)}


def coefficients(model: VSEModel, sizes: Mapping[str, Sequence[int]] | None = None) -> Coefficients:
    """theta of both branches for several set sizes (paper eq. 4); a pooling that has no theta is left out."""
    grid = isinstance(model.img_enc, GridEncoder)
    usual = {"image": DEFAULT_SIZES["grid" if grid else "regions"], "text": DEFAULT_SIZES["text"]}
    found: Coefficients = {}
    model.eval()
    for branch, pooling in model.poolings().items():
        chosen = [int(size) for size in (sizes or {}).get(branch) or usual[branch]]
        if isinstance(pooling, GPO | AveragePooling | MaxPooling | KMaxPooling):
            found[branch] = {size: _theta(pooling, size) for size in chosen}
    return found


def _theta(pooling: torch.nn.Module, size: int) -> list[float]:
    parameter = next(pooling.parameters(), torch.zeros(0))
    with torch.inference_mode():
        # theta depends on the size only, so any features do
        _, weights = pooling(parameter.new_zeros(1, size, 1), torch.tensor([size], device=parameter.device))
    return [float(value) for value in weights[0].double().cpu()]


def draw(found: Coefficients) -> Any:
    """A panel per branch, a line per set size: a figure for `charts.to_png` and `charts.to_svg`."""
    figure, panels = charts.new_figure(width=4.3 * max(1, len(found)), height=3.1, panels=max(1, len(found)))
    for axes, (branch, by_size) in zip(panels, found.items(), strict=True):
        for number, (size, theta) in enumerate(by_size.items()):
            colour = charts.COLOURS[number % len(charts.COLOURS)]
            marker = "o" if size <= 40 else None
            axes.plot(
                range(1, size + 1),
                theta,
                color=colour,
                linewidth=1.7,
                marker=marker,
                markersize=3,
                label=f"N = {size}",
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"position in the sorted set ({'image' if branch == 'image' else 'caption'})")
        axes.set_ylabel("coefficient")
        charts.legend(axes, len(by_size))
    return figure
