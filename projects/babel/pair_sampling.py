"""Which second image goes with a first one: a neighbour in the correspondence graph."""

import numpy as np


def draw_partner(rng: np.random.Generator, index: int, neighbours: np.ndarray, count: int) -> int:
    """The partner of image `index`: a uniformly drawn neighbour, else any image.

    The graph holds the image itself (as released), and drawing it means: any image, most likely one without a
    common point. An image without neighbours always gets one.

    Args:
        rng: the item's generator.
        index: row of the first image.
        neighbours: rows of the images that share enough points with it.
        count: images of the split.
    """
    if len(neighbours):
        partner = int(neighbours[int(rng.integers(len(neighbours)))])
        if partner != index:
            return partner
    return int(rng.integers(count))
