"""One colour per class for point clouds, overlays and pages."""

import colorsys

import numpy as np

BACKGROUND = (150, 150, 150)
_FIRST = (
    (230, 75, 60),
    (52, 130, 220),
    (245, 180, 40),
    (140, 80, 190),
    (60, 180, 110),
    (235, 110, 190),
    (30, 190, 200),
    (150, 95, 50),
    (165, 205, 50),
    (65, 75, 150),
)  # far apart from each other and from gray


def concept_colours(num_concepts: int) -> np.ndarray:
    """RGB uint8 [1 + num_concepts, 3], the background (gray) first; always the same for the same position."""
    colours = [BACKGROUND, *_FIRST[:num_concepts]]
    for i in range(len(_FIRST), num_concepts):
        hue = (i * 0.618034) % 1.0  # the golden ratio spreads any number of hues
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (i % 2), 0.95 - 0.3 * (i % 3 == 0))
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return np.array(colours, np.uint8)
